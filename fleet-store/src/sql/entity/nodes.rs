//! Nodes, invitations, node credentials, and the claims of control streams.

pub(crate) mod node {
    use fleet_core::enrollment::NodeState;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Bytes32, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "node")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub name: String,
        pub state: AsText<NodeState>,
        pub identity_key: Bytes32,
        pub encryption_key: Bytes32,
        pub created_at: Micros,
        pub last_seen_at: Option<Micros>,
        pub deleted_at: Option<Micros>,
        pub duplicate_identity: bool,
        pub hello: Option<String>,
        /// The revoked node whose place it takes.
        pub replaces_node_id: Option<i64>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod invitation {
    use fleet_core::enrollment::InvitationState;
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{AsText, Hash, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "invitation")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub hash: Hash,
        pub state: AsText<InvitationState>,
        pub created_at: Micros,
        pub expires_at: Micros,
        pub created_by: Option<i64>,
        pub node_id: Option<i64>,
        /// The revoked node whose place the invited one takes.
        pub replaces_node_id: Option<i64>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod node_key {
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{Hash, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "node_key")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub node_id: i64,
        pub hash: Hash,
        pub created_at: Micros,
        pub revoked_at: Option<Micros>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod node_challenge {
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{Hash, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "node_challenge")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub key_id: i64,
        pub hash: Hash,
        pub expires_at: Micros,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod node_session {
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{Hash, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "node_session")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub node_id: i64,
        pub key_id: i64,
        pub hash: Hash,
        pub created_at: Micros,
        pub expires_at: Micros,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod node_stream {
    use sea_orm::entity::prelude::*;

    use crate::sql::value::{Bytes16, Micros};

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "node_stream")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub epoch: i64,
        pub replica: Bytes16,
        pub session_id: i64,
        pub instance: Option<Bytes16>,
        pub claimed_at: Micros,
        pub released_at: Option<Micros>,
        pub takeovers: Option<String>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}
