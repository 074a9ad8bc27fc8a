//! The audit chain: its links, and the head of each organization's chain.

entity! {
    audit_link "audit_link" {
        /// The organization; 0 for records without one.
        #[sea_orm(primary_key, auto_increment = false)]
        pub chain: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub audit_id: i64,
        pub count: i64,
        pub hash: Bytes32,
    }
}

entity! {
    audit_head "audit_head" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub chain: i64,
        pub seq: i64,
        pub hash: Bytes32,
    }
}
