//! Scans, their chunks, commands, reports and event logs.

pub(crate) mod scan {
    use fleet_core::{Priority, ScanId, ScanState};
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "scan")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: AsText<ScanId>,
        pub org_id: i64,
        pub node_id: i64,
        pub operator_id: i64,
        pub request_id: Option<String>,
        pub state: AsText<ScanState>,
        pub priority: AsText<Priority>,
        pub queues: bool,
        pub queued_until: Micros,
        pub created_at: Micros,
        pub started_at: Option<Micros>,
        pub ended_at: Option<Micros>,
        pub served_at: Micros,
        pub not_before: Micros,
        pub busy_answers: i64,
        pub cancel_until: Option<Micros>,
        pub code: Option<String>,
        pub reason: String,
        pub open_scope: bool,
        pub skipped: String,
        pub chunks: i64,
        pub chunks_done: i64,
        pub targets: i64,
        pub units: i64,
        pub units_done: i64,
        pub units_settled: i64,
        pub phase: String,
        pub last_sequence: i64,
        pub accepted: i64,
        pub rejected: i64,
        pub first_device_at: Option<Micros>,
        pub ledger: Option<String>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod scan_request {
    use fleet_core::ScanId;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::AsText;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "scan_request")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        pub request: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod chunk {
    use fleet_core::{ChunkState, ScanId};
    use fleet_discovery::Scope;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::AsText;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "chunk")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub position: i64,
        pub state: AsText<ChunkState>,
        pub command: String,
        pub ports: String,
        pub scope: AsText<Scope>,
        pub targets: i64,
        pub attempts: i64,
        pub grade: Option<String>,
        pub code: Option<String>,
        pub reason: String,
        pub outcomes: Option<Vec<u8>>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod command {
    use fleet_core::{CommandId, CommandState, ScanId};
    use fleet_discovery::Scope;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "command")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: AsText<CommandId>,
        pub org_id: i64,
        pub node_id: i64,
        pub scan_id: AsText<ScanId>,
        pub chunk: i64,
        pub epoch: i64,
        pub state: AsText<CommandState>,
        pub scope: AsText<Scope>,
        pub issued_at: Micros,
        pub deadline: Micros,
        pub ended_at: Option<Micros>,
        pub rows: i64,
        pub refused_rows: i64,
        pub flooded: bool,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod report {
    use fleet_core::CommandId;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Bytes32, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "report")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub command_id: AsText<CommandId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub digest: Bytes32,
        pub accepted: i64,
        pub rejected: i64,
        pub ended: bool,
        pub at: Micros,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod report_row {
    use std::net::IpAddr;

    use fleet_core::{CommandId, RejectReason, ScanId};
    use sea_orm::entity::prelude::*;

    use crate::sql::value::AsText;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "report_row")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub command_id: AsText<CommandId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub ip: AsText<IpAddr>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub port: i64,
        pub scan_id: AsText<ScanId>,
        pub identifier: String,
        pub refusal: Option<AsText<RejectReason>>,
        pub device_id: Option<i64>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod report_refusal {
    use fleet_core::ScanId;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::AsText;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "report_refusal")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub reason: String,
        pub count: i64,
        pub example: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod scan_event {
    use fleet_core::ScanId;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "scan_event")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub sequence: i64,
        pub kind: String,
        pub payload: String,
        pub at: Micros,
    }

    impl ActiveModelBehavior for ActiveModel {}
}
