//! Nodes, invitations, node credentials, and the claims of control streams.

entity! {
    site "site" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub name: String,
        pub created_at: Micros,
        pub deleted_at: Option<Micros>,
        /// The IANA name of the time zone of the blackouts.
        pub time_zone: String,
        /// Blackout windows as text; empty for none.
        pub blackouts: String,
        /// Whether it was created with its node, and no operator has named it since.
        pub of_node: bool,
    }
}

entity! {
    site_exclude "site_exclude" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub site_id: i64,
        pub target: String,
        pub reason: String,
        pub created_by: i64,
        pub created_at: Micros,
    }
}

entity! {
    node "node" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub site_id: i64,
        pub name: String,
        pub state: AsText<NodeState>,
        pub identity_key: Bytes32,
        pub encryption_key: Bytes32,
        pub keys_proved: bool,
        pub created_at: Micros,
        pub last_seen_at: Option<Micros>,
        pub deleted_at: Option<Micros>,
        pub duplicate_identity: bool,
        pub hello: Option<String>,
        /// Set while the node is halted; may be empty.
        pub halt_reason: Option<String>,
        /// Why it has no control stream although it reaches a server.
        pub stream_problem: Option<String>,
        /// The revoked node that it replaces.
        pub replaces_node_id: Option<i64>,
    }
}

entity! {
    invitation "invitation" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub hash: Hash,
        pub state: AsText<InvitationState>,
        pub created_at: Micros,
        pub expires_at: Micros,
        pub created_by: Option<i64>,
        pub node_id: Option<i64>,
        /// The revoked node that the invited one replaces.
        pub replaces_node_id: Option<i64>,
    }
}

entity! {
    node_key "node_key" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub node_id: i64,
        pub hash: Hash,
        pub created_at: Micros,
        pub revoked_at: Option<Micros>,
    }
}

entity! {
    node_challenge "node_challenge" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub key_id: i64,
        pub hash: Hash,
        pub expires_at: Micros,
    }
}

entity! {
    node_session "node_session" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub node_id: i64,
        pub key_id: i64,
        pub hash: Hash,
        pub created_at: Micros,
        pub expires_at: Micros,
    }
}

entity! {
    node_stream "node_stream" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub epoch: i64,
        pub replica: Bytes16,
        pub session_id: i64,
        pub instance: Option<Bytes16>,
        pub claimed_at: Micros,
        pub released_at: Option<Micros>,
        pub takeovers: Option<String>,
        /// Why it ended; missing while it is open, and after a server that did not store its end.
        pub end_reason: Option<String>,
    }
}

entity! {
    /// The heartbeats of the servers on PostgreSQL.
    replica "replica" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Bytes16,
        pub heartbeats: i64,
        pub seen_at: Micros,
        /// The key that other servers seal to; servers of older versions have none.
        pub encryption_key: Option<Bytes32>,
    }
}

entity! {
    /// A node that fetches its API key itself after its confirmation.
    key_fetch "key_fetch" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub allowed_until: Option<Micros>,
        pub sequence: i64,
        pub key_id: Option<i64>,
        pub fetched_at: Option<Micros>,
    }
}
