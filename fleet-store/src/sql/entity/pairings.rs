//! Pairing: the status of each device, the sealed credentials, and the pairings requested from nodes.

entity! {
    device_pairing "device_pairing" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub org_id: i64,
        pub status: AsText<PairingStatus>,
        pub error: String,
        pub changed_at: Micros,
    }
}

entity! {
    /// Credentials that the node sealed. Only the node can read them.
    device_credential "device_credential" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub org_id: i64,
        pub node_id: i64,
        pub username: Vec<u8>,
        pub password: Vec<u8>,
        pub stored_at: Micros,
    }
}

entity! {
    pairing "pairing" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: AsText<PairingId>,
        pub org_id: i64,
        pub node_id: i64,
        pub operator_id: i64,
        pub parts: i64,
        pub created_at: Micros,
        pub lease_until: Micros,
        pub canceled_at: Option<Micros>,
        pub ended_at: Option<Micros>,
        pub code: Option<String>,
        pub reason: String,
        pub last_sequence: i64,
    }
}

entity! {
    /// A pairing for the server that holds the node's stream. Only that server can open the credentials.
    forwarded_pairing "forwarded_pairing" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub pairing_id: AsText<PairingId>,
        pub replica: Bytes16,
        pub sealed: Vec<u8>,
    }
}

entity! {
    pairing_target "pairing_target" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub pairing_id: AsText<PairingId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub org_id: i64,
        pub part: i64,
        pub identifier: String,
        pub ip: AsText<IpAddr>,
        pub port: i64,
        pub scheme: String,
        pub driver: String,
        pub manufacturer: String,
        pub firmware: String,
        pub outcome: Option<AsText<PairOutcome>>,
        pub default_password: Option<bool>,
        pub result: Option<AsText<PairingStatus>>,
        pub error: String,
        pub sequence: Option<i64>,
    }
}
