//! The audit chain: its links, and where each organization's ends.

pub(crate) mod audit_link {
    use sea_orm::entity::prelude::*;

    use crate::sql::value::Bytes32;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "audit_link")]
    pub struct Model {
        /// The organization; 0 for the records of none.
        #[sea_orm(primary_key, auto_increment = false)]
        pub chain: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub audit_id: i64,
        pub count: i64,
        pub hash: Bytes32,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod audit_head {
    use sea_orm::entity::prelude::*;

    use crate::sql::value::Bytes32;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "audit_head")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub chain: i64,
        pub seq: i64,
        pub hash: Bytes32,
    }

    impl ActiveModelBehavior for ActiveModel {}
}
