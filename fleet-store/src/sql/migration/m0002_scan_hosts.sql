-- Hosts that answered a scan and that no driver identified. A host is one row per scan: a repeated report replaces it.
CREATE TABLE scan_host (
    id {id},
    scan_id TEXT NOT NULL REFERENCES scan (id),
    ip TEXT NOT NULL,
    command_id TEXT NOT NULL,
    mac TEXT,
    name TEXT,
    name_source TEXT,
    open_ports TEXT NOT NULL,
    reply_port BIGINT,
    reply TEXT NOT NULL,
    requests TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE UNIQUE INDEX scan_host_by_ip ON scan_host (scan_id, ip);
CREATE INDEX scan_host_by_scan ON scan_host (scan_id, id);
