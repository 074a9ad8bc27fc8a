//! The inventory: devices, their former names, their endpoints, and their bindings.

entity! {
    device "device" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub identifier: AsText<DeviceIdentifier>,
        pub node_id: Option<i64>,
        pub ip: Option<AsText<IpAddr>>,
        pub port: Option<i64>,
        pub scheme: String,
        pub driver: String,
        pub model: String,
        pub manufacturer: String,
        pub firmware: String,
        pub mac: Option<AsText<Mac>>,
        pub serial: String,
        pub evidence: String,
        /// The name of the host with its source.
        pub host_name: Option<AsText<NamedBy>>,
        pub first_seen: Micros,
        pub last_seen: Micros,
        pub deleted_at: Option<Micros>,
        /// Identifiers, one per line.
        pub kept_apart: Option<String>,
        /// Whether one scan saw its identifier at two addresses.
        pub shared: bool,
        /// The revoked node from which the node claimed it by its endpoint, until an operator binds the device.
        pub claimed_from_node_id: Option<i64>,
        /// Sorts by address, then by port.
        pub address_key: String,
        /// The texts in which a word of a search may occur, in lower case, one per line.
        pub search_text: String,
        /// When a scan found its address silent or refused, after its last report.
        pub missing_since: Option<Micros>,
    }
}

entity! {
    device_sighting "device_sighting" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub org_id: i64,
        pub ip: AsText<IpAddr>,
        pub port: i64,
        pub first_seen: Micros,
        pub last_seen: Micros,
    }
}

entity! {
    device_alias "device_alias" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub org_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub identifier: AsText<DeviceIdentifier>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub since: Micros,
    }
}

entity! {
    identity_change "identity_change" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub device_id: i64,
        /// The merged record. It is unset when only the identifier of a record changed.
        pub merged_device_id: Option<i64>,
        pub reason: AsText<IdentityReason>,
        pub former: AsText<DeviceIdentifier>,
        pub became: AsText<DeviceIdentifier>,
        /// The node whose report made the change.
        pub node_id: Option<i64>,
        /// The node that the record was attributed to before.
        pub former_node_id: Option<i64>,
        pub driver: String,
        pub model: String,
        pub manufacturer: String,
        pub evidence: String,
        pub last_seen: Micros,
        /// When the binding that the merged record passed on was made.
        pub binding_since: Option<Micros>,
        pub at: Micros,
        pub undone_at: Option<Micros>,
    }
}

entity! {
    refused_device "refused_device" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        /// The node that reported it.
        pub node_id: i64,
        pub ip: AsText<IpAddr>,
        pub port: i64,
        pub identifier: AsText<DeviceIdentifier>,
        pub reason: AsText<RejectReason>,
        /// The existing record that conflicts with the report.
        pub device_id: i64,
        pub count: i64,
        pub first_seen: Micros,
        pub last_seen: Micros,
    }
}

entity! {
    node_endpoint "node_endpoint" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub org_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub ip: AsText<IpAddr>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub port: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub since: Micros,
    }
}

entity! {
    binding "binding" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub org_id: i64,
        pub node_id: Option<i64>,
        pub created_at: Micros,
        pub assigned_by: Option<i64>,
    }
}
