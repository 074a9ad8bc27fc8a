//! Scans that are repeated at set times, and their last runs.

entity! {
    schedule "schedule" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: AsText<ScheduleId>,
        pub org_id: i64,
        pub operator_id: i64,
        /// The first node when the schedule was stored.
        pub node_id: i64,
        /// The nodes as the operator named them.
        pub choice: AsText<NodeChoice>,
        pub name: String,
        pub request: String,
        pub recurrence: String,
        pub zone: String,
        pub jitter_s: i64,
        pub blackouts: String,
        pub since: Micros,
        pub created_at: Micros,
        pub paused_at: Option<Micros>,
        pub paused_reason: String,
        pub next_due: Option<Micros>,
        pub next_at: Option<Micros>,
        pub last_scan: Option<AsText<ScanId>>,
        pub runs: i64,
        pub missed: i64,
    }
}

entity! {
    schedule_run "schedule_run" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub schedule_id: AsText<ScheduleId>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub at: Micros,
        pub due: Micros,
        pub scan_id: Option<AsText<ScanId>>,
        pub missed: i64,
        pub reason: String,
    }
}
