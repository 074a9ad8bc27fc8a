//! Pairing: where a device's pairing stands, what its node sealed, and what nodes were asked to pair.

pub(crate) mod device_pairing {
    use fleet_core::PairingStatus;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "device_pairing")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub org_id: i64,
        pub status: AsText<PairingStatus>,
        pub error: String,
        pub changed_at: Micros,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod device_credential {
    use sea_orm::entity::prelude::*;

    use crate::sql::value::Micros;

    /// Sealed by the node: what is here only the node can read.
    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "device_credential")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub org_id: i64,
        pub node_id: i64,
        pub username: Vec<u8>,
        pub password: Vec<u8>,
        pub stored_at: Micros,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod pairing {
    use fleet_core::PairingId;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "pairing")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: AsText<PairingId>,
        pub org_id: i64,
        pub node_id: i64,
        pub operator_id: i64,
        pub parts: i64,
        pub created_at: Micros,
        pub kept_until: Micros,
        pub canceled_at: Option<Micros>,
        pub ended_at: Option<Micros>,
        pub code: Option<String>,
        pub reason: String,
        pub last_sequence: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod pairing_command {
    use fleet_core::{CommandId, CommandState, PairingId};
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "pairing_command")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: AsText<CommandId>,
        pub pairing_id: AsText<PairingId>,
        pub part: i64,
        pub node_id: i64,
        pub epoch: i64,
        pub state: AsText<CommandState>,
        pub issued_at: Micros,
        pub deadline: Micros,
        pub ended_at: Option<Micros>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod pairing_target {
    use std::net::IpAddr;

    use fleet_core::{PairOutcome, PairingId, PairingStatus};
    use sea_orm::entity::prelude::*;

    use crate::sql::value::AsText;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "pairing_target")]
    pub struct Model {
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
        pub told: Option<AsText<PairingStatus>>,
        pub error: String,
        pub sequence: Option<i64>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}
