//! The overview: outcomes by address, and counts by day.

entity! {
    /// The addresses of a /24 network. Each byte string has 256 entries.
    site_block "site_block" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub site_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub block: i64,
        pub org_id: i64,
        pub outcomes: Vec<u8>,
        pub scans: Vec<u8>,
        pub answers: Vec<u8>,
        pub scanned_at: Micros,
    }
}

entity! {
    inventory_day "inventory_day" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub org_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub day: i64,
        /// The node whose reports are counted; 0 for the server.
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub seen: i64,
        pub added: i64,
        pub missing: i64,
    }
}
