//! Scans, their chunks, commands, reports and event logs.

entity! {
    scan "scan" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: AsText<ScanId>,
        pub org_id: i64,
        /// The first node.
        pub node_id: i64,
        /// The nodes as the operator named them.
        pub choice: AsText<NodeChoice>,
        pub operator_id: i64,
        pub request_id: Option<String>,
        pub state: AsText<ScanState>,
        pub priority: AsText<Priority>,
        pub queues: bool,
        pub created_at: Micros,
        pub started_at: Option<Micros>,
        pub ended_at: Option<Micros>,
        pub cancel_until: Option<Micros>,
        pub code: Option<String>,
        pub reason: String,
        pub open_scope: bool,
        /// Whether an administrator started it in spite of a blackout.
        pub ignores_blackout: bool,
        pub skipped: String,
        pub chunks: i64,
        pub chunks_done: i64,
        pub targets: i64,
        pub estimate_ms: i64,
        pub units: i64,
        pub units_done: i64,
        pub units_settled: i64,
        pub phase: String,
        pub last_sequence: i64,
        pub accepted: i64,
        pub rejected: i64,
        pub first_device_at: Option<Micros>,
        pub ledger: Option<String>,
        pub events_deleted_at: Option<Micros>,
        /// The hash of the targets, equal for scans of the same hosts.
        pub targets_key: Option<String>,
        /// The most probes per second; 0 for the rate of the node.
        pub rate: i64,
        /// The changes since the previous scan; none until it was compared.
        pub changes: Option<String>,
        pub name: String,
        /// When retention removed it. It is hidden, and its rows are deleted in parts.
        pub removed_at: Option<Micros>,
    }
}

entity! {
    /// The id of a scan that retention removed.
    removed_scan "removed_scan" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        pub org_id: i64,
        pub removed_at: Micros,
    }
}

entity! {
    /// The share of a node in a scan.
    scan_share "scan_share" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub node_id: i64,
        pub org_id: i64,
        pub state: AsText<ScanState>,
        pub code: Option<String>,
        pub reason: String,
        /// The targets of the node, without the skipped ones.
        pub targets: i64,
        /// The probes per second of the node; 0 if unknown.
        pub rate: i64,
        pub chunks: i64,
        pub chunks_done: i64,
        /// The targets of all chunks. A target is in several, one for each share of its ports.
        pub units: i64,
        pub units_done: i64,
        pub units_settled: i64,
        pub queued_until: Micros,
        pub served_at: Micros,
        pub not_before: Micros,
        pub busy_answers: i64,
    }
}

entity! {
    scan_request "scan_request" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        pub request: String,
    }
}

entity! {
    chunk "chunk" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub position: i64,
        pub node_id: i64,
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
}

entity! {
    command "command" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: AsText<CommandId>,
        pub org_id: i64,
        pub node_id: i64,
        /// The scan of a chunk. It is unset for a part of a pairing.
        pub scan_id: Option<AsText<ScanId>>,
        /// The pairing of a part. It is unset for a chunk of a scan.
        pub pairing_id: Option<AsText<PairingId>>,
        /// The position of the chunk or the part.
        pub position: i64,
        pub epoch: i64,
        pub state: AsText<CommandState>,
        /// The rows that the node may report. It is unset for a part of a pairing.
        pub scope: Option<AsText<Scope>>,
        pub issued_at: Micros,
        pub deadline: Micros,
        pub ended_at: Option<Micros>,
        pub rows: i64,
        pub refused_rows: i64,
        pub flooded: bool,
    }
}

entity! {
    report "report" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub command_id: AsText<CommandId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub digest: Bytes32,
        pub accepted: i64,
        pub rejected: i64,
        pub owned_elsewhere: i64,
        pub at: Micros,
    }
}

entity! {
    report_row "report_row" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub command_id: AsText<CommandId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub ip: AsText<IpAddr>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub port: i64,
        pub scan_id: AsText<ScanId>,
        pub identifier: String,
        pub refusal: Option<AsText<RejectReason>>,
        /// The device; for a refused row, the record of the other owner.
        pub device_id: Option<i64>,
        /// A MAC or serial that the row shows and that other devices show too.
        pub shared_identity: Option<AsText<DeviceIdentifier>>,
        /// The reported facts, without evidence. They are unset for a refused row.
        pub facts: Option<String>,
    }
}

entity! {
    report_refusal "report_refusal" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub reason: String,
        pub count: i64,
        pub example: String,
    }
}

entity! {
    /// A host that answered and that no driver identified.
    scan_host "scan_host" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub scan_id: AsText<ScanId>,
        pub ip: AsText<IpAddr>,
        /// The command that reported it last.
        pub command_id: AsText<CommandId>,
        pub mac: Option<AsText<Mac>>,
        pub name: Option<String>,
        pub name_source: Option<AsText<NameSource>>,
        pub open_ports: String,
        pub reply_port: Option<i64>,
        pub reply: String,
        pub requests: String,
        pub at: Micros,
    }
}

entity! {
    scan_event "scan_event" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub scan_id: AsText<ScanId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub sequence: i64,
        pub kind: String,
        pub payload: String,
        pub at: Micros,
    }
}

entity! {
    /// When deadlines were last checked, and a row that is the lock of the removal of scans.
    sweep "sweep" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i64,
        pub at: Micros,
    }
}
