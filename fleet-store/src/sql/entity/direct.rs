//! Addresses that are released for the server itself to dial.

pub(crate) mod direct_lease {
    use std::net::IpAddr;

    use fleet_core::ScanId;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "direct_lease")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub org_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub ip: AsText<IpAddr>,
        pub scan_id: AsText<ScanId>,
        pub until: Micros,
    }

    impl ActiveModelBehavior for ActiveModel {}
}
