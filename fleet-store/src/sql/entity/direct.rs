//! Scans by the server itself that have not ended, and the addresses that are released for it to dial.

entity! {
    direct_lease "direct_lease" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub org_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub ip: AsText<IpAddr>,
        pub scan_id: AsText<ScanId>,
        pub until: Micros,
    }
}

entity! {
    direct_run "direct_run" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        pub org_id: i64,
        pub replica: Bytes16,
        pub started: Micros,
    }
}
