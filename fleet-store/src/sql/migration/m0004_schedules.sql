-- Scans that are repeated at set times.
CREATE TABLE schedule (
    id TEXT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL REFERENCES org (id),
    -- The operator for whom it acts.
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    node_id BIGINT NOT NULL,
    name TEXT NOT NULL,
    request TEXT NOT NULL,
    recurrence TEXT NOT NULL,
    zone TEXT NOT NULL,
    jitter_s BIGINT NOT NULL,
    blackouts TEXT NOT NULL,
    -- Intervals count from here.
    since BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    paused_at BIGINT,
    paused_reason TEXT NOT NULL,
    -- The next run: its due time, which identifies it, and the due time with its jitter. Unset when none is left.
    next_due BIGINT,
    next_at BIGINT,
    last_scan TEXT,
    runs BIGINT NOT NULL,
    missed BIGINT NOT NULL,
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);
CREATE UNIQUE INDEX schedule_by_name ON schedule (org_id, name);
CREATE INDEX schedule_by_next ON schedule (next_at) WHERE paused_at IS NULL;

-- The last runs of each schedule, and why a run did not become a scan.
CREATE TABLE schedule_run (
    schedule_id TEXT NOT NULL REFERENCES schedule (id),
    at BIGINT NOT NULL,
    due BIGINT NOT NULL,
    scan_id TEXT,
    missed BIGINT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (schedule_id, at)
);
