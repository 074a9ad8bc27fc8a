//! Rules and channels of alerts, what they know of devices and nodes, and the messages.

entity! {
    alert_org "alert_org" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub org_id: i64,
        pub since: Micros,
    }
}

entity! {
    alert_channel "alert_channel" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub name: String,
        pub kind: String,
        pub target: String,
        pub shown: String,
        pub secret: Option<Bytes32>,
        pub created_at: Micros,
    }
}

entity! {
    alert_rule "alert_rule" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub name: String,
        pub event: AsText<AlertEvent>,
        pub threshold: i64,
        pub zone: String,
        pub quiet: String,
        pub enabled: bool,
        pub created_at: Micros,
    }
}

entity! {
    alert_rule_channel "alert_rule_channel" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub rule_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub channel_id: i64,
    }
}

entity! {
    /// Ended scans that alerts have not looked at.
    alert_scan "alert_scan" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
    }
}

entity! {
    /// Devices as the last scan showed them.
    alert_device "alert_device" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub org_id: i64,
        pub ip: AsText<IpAddr>,
        pub port: i64,
        pub former_ip: Option<AsText<IpAddr>>,
        pub firmware: String,
        pub missed: i64,
    }
}

entity! {
    /// Nodes that are silent and of which a rule has notified.
    alert_silence "alert_silence" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub rule_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub since: Micros,
    }
}

entity! {
    alert_delivery "alert_delivery" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: AsText<AlertDeliveryId>,
        pub org_id: i64,
        pub channel_id: i64,
        pub channel: String,
        pub rule_id: Option<i64>,
        pub rule: String,
        pub event: String,
        pub message: String,
        pub scan_id: Option<AsText<ScanId>>,
        pub node_id: Option<i64>,
        pub state: AsText<AlertDeliveryState>,
        pub created_at: Micros,
        pub due_at: Micros,
        pub expires_at: Micros,
        pub leased_until: Option<Micros>,
        pub attempts: i64,
        pub answer: String,
        pub answered_at: Option<Micros>,
        pub ended_at: Option<Micros>,
    }
}
