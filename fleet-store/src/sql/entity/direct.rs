//! Addresses that are released for the server itself to dial.

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
