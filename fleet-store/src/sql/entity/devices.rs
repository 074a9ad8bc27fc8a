//! The inventory: devices, the names they had, the places they were at, and who they are bound to.

pub(crate) mod device {
    use std::net::IpAddr;

    use fleet_core::{DeviceIdentifier, Mac};
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "device")]
    pub struct Model {
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
        pub first_seen: Micros,
        pub last_seen: Micros,
        pub deleted_at: Option<Micros>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod device_alias {
    use fleet_core::DeviceIdentifier;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "device_alias")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub org_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub identifier: AsText<DeviceIdentifier>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub since: Micros,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod node_endpoint {
    use std::net::IpAddr;

    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "node_endpoint")]
    pub struct Model {
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

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod binding {
    use sea_orm::entity::prelude::*;

    use crate::sql::value::Micros;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "binding")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub org_id: i64,
        pub node_id: Option<i64>,
        pub created_at: Micros,
    }

    impl ActiveModelBehavior for ActiveModel {}
}
