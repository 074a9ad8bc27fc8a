-- The first schema: tenants and operators, nodes and their credentials, scans, the inventory, pairing.
--
-- {id} is an id that the database generates and never reuses; {bytes} is its type for bytes.
-- Times are microseconds since the Unix epoch. What belongs to a node refers to it together with its
-- organization, which keeps a row from pointing into another tenant. Nodes and devices are never deleted,
-- only marked.

CREATE TABLE org (
    id {id},
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX org_name ON org (lower(name));

CREATE TABLE operator (
    id {id},
    org_id BIGINT NOT NULL REFERENCES org (id),
    email TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    removed_at BIGINT
);
-- An e-mail is free again when its operator was removed.
CREATE UNIQUE INDEX operator_email ON operator (email) WHERE removed_at IS NULL;
CREATE INDEX operator_by_org ON operator (org_id);

CREATE TABLE operator_key (
    id {id},
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    hash {bytes} NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    expires_at BIGINT,
    revoked_at BIGINT
);
CREATE UNIQUE INDEX operator_key_hash ON operator_key (hash);
CREATE INDEX operator_key_operator ON operator_key (operator_id);

CREATE TABLE operator_password (
    operator_id BIGINT NOT NULL PRIMARY KEY REFERENCES operator (id),
    hash TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    one_time_until BIGINT
);

CREATE TABLE operator_source (
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    source TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (operator_id, source)
);

CREATE TABLE browser_session (
    id {id},
    hash {bytes} NOT NULL,
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    key_id BIGINT REFERENCES operator_key (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    from_address TEXT,
    agent TEXT NOT NULL
);
CREATE UNIQUE INDEX browser_session_hash ON browser_session (hash);
CREATE INDEX browser_session_operator ON browser_session (operator_id);
CREATE INDEX browser_session_expiry ON browser_session (expires_at);

CREATE TABLE audit (
    id {id},
    org_id BIGINT,
    principal TEXT NOT NULL,
    principal_id BIGINT,
    from_address TEXT,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    refusal TEXT,
    count BIGINT NOT NULL,
    at BIGINT NOT NULL,
    fold TEXT,
    sealed_seq BIGINT,
    sealed_count BIGINT,
    sealed_at BIGINT
);
CREATE INDEX audit_by_org ON audit (org_id, id);
CREATE UNIQUE INDEX audit_fold ON audit (fold);
CREATE INDEX audit_unsealed ON audit (id) WHERE sealed_count IS NULL OR sealed_count < count;

-- No reference to the record: a link outlives it, and shows that it is missing.
CREATE TABLE audit_link (
    chain BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    audit_id BIGINT NOT NULL,
    count BIGINT NOT NULL,
    hash {bytes} NOT NULL,
    PRIMARY KEY (chain, seq)
);

CREATE TABLE audit_head (
    chain BIGINT NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL,
    hash {bytes} NOT NULL
);

-- The networks in which the nodes of a site stand. Within a site, an address means one host.
CREATE TABLE site (
    id {id},
    org_id BIGINT NOT NULL REFERENCES org (id),
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT site_tenant UNIQUE (org_id, id)
);

CREATE TABLE node (
    id {id},
    org_id BIGINT NOT NULL REFERENCES org (id),
    site_id BIGINT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    identity_key {bytes} NOT NULL,
    encryption_key {bytes} NOT NULL,
    keys_proved BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT,
    deleted_at BIGINT,
    duplicate_identity BOOLEAN NOT NULL,
    hello TEXT,
    halt_reason TEXT,
    replaces_node_id BIGINT,
    -- The key of every reference to a node together with its organization.
    CONSTRAINT node_tenant UNIQUE (org_id, id),
    FOREIGN KEY (org_id, site_id) REFERENCES site (org_id, id)
);
CREATE INDEX node_by_site ON node (site_id);
CREATE UNIQUE INDEX node_live_name ON node (org_id, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX node_live_identity ON node (org_id, identity_key) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX node_live_replacement ON node (org_id, replaces_node_id)
    WHERE deleted_at IS NULL AND replaces_node_id IS NOT NULL;

CREATE TABLE invitation (
    id {id},
    org_id BIGINT NOT NULL REFERENCES org (id),
    hash {bytes} NOT NULL,
    state TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    created_by BIGINT REFERENCES operator (id),
    node_id BIGINT,
    replaces_node_id BIGINT,
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);
CREATE UNIQUE INDEX invitation_hash ON invitation (hash);
CREATE INDEX invitation_by_org ON invitation (org_id, state);
CREATE INDEX invitation_expiry ON invitation (state, expires_at);
CREATE INDEX invitation_node ON invitation (node_id);

CREATE TABLE node_key (
    id {id},
    node_id BIGINT NOT NULL REFERENCES node (id),
    hash {bytes} NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE UNIQUE INDEX node_key_hash ON node_key (hash);
CREATE INDEX node_key_node ON node_key (node_id);

CREATE TABLE node_challenge (
    node_id BIGINT NOT NULL PRIMARY KEY REFERENCES node (id),
    key_id BIGINT NOT NULL REFERENCES node_key (id),
    hash {bytes} NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX node_challenge_hash ON node_challenge (hash);

CREATE TABLE node_session (
    id {id},
    node_id BIGINT NOT NULL REFERENCES node (id),
    key_id BIGINT NOT NULL REFERENCES node_key (id),
    hash {bytes} NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX node_session_hash ON node_session (hash);
CREATE INDEX node_session_node ON node_session (node_id);
CREATE INDEX node_session_expiry ON node_session (expires_at);

CREATE TABLE node_stream (
    node_id BIGINT NOT NULL PRIMARY KEY REFERENCES node (id),
    epoch BIGINT NOT NULL,
    replica {bytes} NOT NULL,
    session_id BIGINT NOT NULL,
    instance {bytes},
    claimed_at BIGINT NOT NULL,
    released_at BIGINT,
    takeovers TEXT
);
CREATE INDEX node_stream_claimed ON node_stream (claimed_at);
CREATE INDEX node_stream_held ON node_stream (replica) WHERE released_at IS NULL;

-- One row for each start of a server. The count grows while the server runs.
CREATE TABLE replica (
    id {bytes} NOT NULL PRIMARY KEY,
    heartbeats BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

CREATE TABLE scan (
    id TEXT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    request_id TEXT,
    state TEXT NOT NULL,
    priority TEXT NOT NULL,
    queues BOOLEAN NOT NULL,
    queued_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    served_at BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    busy_answers BIGINT NOT NULL,
    cancel_until BIGINT,
    code TEXT,
    reason TEXT NOT NULL,
    open_scope BOOLEAN NOT NULL,
    skipped TEXT NOT NULL,
    chunks BIGINT NOT NULL,
    chunks_done BIGINT NOT NULL,
    targets BIGINT NOT NULL,
    estimate_ms BIGINT NOT NULL,
    units BIGINT NOT NULL,
    units_done BIGINT NOT NULL,
    units_settled BIGINT NOT NULL,
    phase TEXT NOT NULL,
    last_sequence BIGINT NOT NULL,
    accepted BIGINT NOT NULL,
    rejected BIGINT NOT NULL,
    first_device_at BIGINT,
    ledger TEXT,
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);
CREATE UNIQUE INDEX scan_request_id ON scan (org_id, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX scan_by_org ON scan (org_id, id);
CREATE INDEX scan_by_node ON scan (node_id, state);
CREATE INDEX scan_by_state ON scan (state);

-- A table of its own, because a request is big and is read only with one scan.
CREATE TABLE scan_request (
    scan_id TEXT NOT NULL PRIMARY KEY REFERENCES scan (id),
    request TEXT NOT NULL
);

CREATE TABLE chunk (
    scan_id TEXT NOT NULL REFERENCES scan (id),
    position BIGINT NOT NULL,
    state TEXT NOT NULL,
    command TEXT NOT NULL,
    ports TEXT NOT NULL,
    scope TEXT NOT NULL,
    targets BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    grade TEXT,
    code TEXT,
    reason TEXT NOT NULL,
    outcomes {bytes},
    PRIMARY KEY (scan_id, position)
);
CREATE INDEX chunk_by_state ON chunk (state, scan_id);

CREATE TABLE scan_event (
    scan_id TEXT NOT NULL REFERENCES scan (id),
    sequence BIGINT NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (scan_id, sequence)
);
-- A scan ends at most once, whatever the race.
CREATE UNIQUE INDEX scan_event_end ON scan_event (scan_id) WHERE kind = 'ended';

CREATE TABLE device (
    id {id},
    org_id BIGINT NOT NULL,
    identifier TEXT NOT NULL,
    node_id BIGINT,
    ip TEXT,
    port BIGINT,
    scheme TEXT NOT NULL,
    driver TEXT NOT NULL,
    model TEXT NOT NULL,
    manufacturer TEXT NOT NULL,
    firmware TEXT NOT NULL,
    mac TEXT,
    serial TEXT NOT NULL,
    evidence TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    deleted_at BIGINT,
    kept_apart TEXT,
    shared BOOLEAN NOT NULL DEFAULT FALSE,
    claimed_from_node_id BIGINT,
    CONSTRAINT device_tenant UNIQUE (org_id, id),
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);
CREATE UNIQUE INDEX device_live_identifier ON device (org_id, identifier) WHERE deleted_at IS NULL;
CREATE INDEX device_by_endpoint ON device (node_id, ip, port);

CREATE TABLE device_alias (
    org_id BIGINT NOT NULL,
    identifier TEXT NOT NULL,
    device_id BIGINT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (org_id, identifier, device_id),
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id)
);

-- One row for each change. The record as it was before is kept beside, which lets a change be undone.
CREATE TABLE identity_change (
    id {id},
    org_id BIGINT NOT NULL,
    device_id BIGINT NOT NULL,
    merged_device_id BIGINT,
    reason TEXT NOT NULL,
    former TEXT NOT NULL,
    became TEXT NOT NULL,
    node_id BIGINT,
    former_node_id BIGINT,
    driver TEXT NOT NULL,
    model TEXT NOT NULL,
    manufacturer TEXT NOT NULL,
    evidence TEXT NOT NULL,
    last_seen BIGINT NOT NULL,
    binding_since BIGINT,
    at BIGINT NOT NULL,
    undone_at BIGINT,
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id),
    FOREIGN KEY (org_id, merged_device_id) REFERENCES device (org_id, id),
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id),
    FOREIGN KEY (org_id, former_node_id) REFERENCES node (org_id, id)
);
CREATE INDEX identity_change_device ON identity_change (device_id);
CREATE INDEX identity_change_merged ON identity_change (merged_device_id);
CREATE INDEX identity_change_former ON identity_change (org_id, former);

-- The nodes that report a device and to which it is not attributed: one row for each, whatever the number of reports.
CREATE TABLE device_sighting (
    device_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    org_id BIGINT NOT NULL,
    ip TEXT NOT NULL,
    port BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (device_id, node_id),
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id),
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);
CREATE INDEX device_sighting_by_node ON device_sighting (node_id);

-- One row for each endpoint of a reporter, with a bound for each reporter.
CREATE TABLE refused_device (
    id {id},
    org_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    ip TEXT NOT NULL,
    port BIGINT NOT NULL,
    identifier TEXT NOT NULL,
    reason TEXT NOT NULL,
    device_id BIGINT NOT NULL,
    count BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id),
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id)
);
CREATE UNIQUE INDEX refused_device_endpoint ON refused_device (node_id, ip, port);
CREATE INDEX refused_device_org ON refused_device (org_id, id);
CREATE INDEX refused_device_seen ON refused_device (node_id, last_seen);

CREATE TABLE node_endpoint (
    org_id BIGINT NOT NULL,
    ip TEXT NOT NULL,
    port BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (org_id, ip, port, node_id),
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);

-- No node means that the server itself has bound the device.
CREATE TABLE binding (
    device_id BIGINT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL,
    node_id BIGINT,
    created_at BIGINT NOT NULL,
    assigned_by BIGINT,
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id),
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);
CREATE INDEX binding_by_node ON binding (node_id);

-- Addresses that the server itself is dialing. While a lease lives, no endpoint at its address is
-- attributed to a node.
CREATE TABLE direct_lease (
    org_id BIGINT NOT NULL REFERENCES org (id),
    ip TEXT NOT NULL,
    scan_id TEXT NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (org_id, ip)
);

-- Separate from the binding: a bound device may still need credentials.
CREATE TABLE device_pairing (
    device_id BIGINT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL,
    status TEXT NOT NULL,
    error TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id)
);

-- A table of its own, which no list of devices reads.
CREATE TABLE device_credential (
    device_id BIGINT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    username {bytes} NOT NULL,
    password {bytes} NOT NULL,
    stored_at BIGINT NOT NULL,
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id),
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);
CREATE INDEX device_credential_by_node ON device_credential (node_id);

CREATE TABLE pairing (
    id TEXT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    parts BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    canceled_at BIGINT,
    ended_at BIGINT,
    code TEXT,
    reason TEXT NOT NULL,
    last_sequence BIGINT NOT NULL,
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);
-- A node has one pairing at a time.
CREATE UNIQUE INDEX pairing_open ON pairing (node_id) WHERE ended_at IS NULL;

CREATE TABLE pairing_target (
    pairing_id TEXT NOT NULL REFERENCES pairing (id),
    device_id BIGINT NOT NULL,
    org_id BIGINT NOT NULL,
    part BIGINT NOT NULL,
    identifier TEXT NOT NULL,
    ip TEXT NOT NULL,
    port BIGINT NOT NULL,
    scheme TEXT NOT NULL,
    driver TEXT NOT NULL,
    manufacturer TEXT NOT NULL,
    firmware TEXT NOT NULL,
    outcome TEXT,
    default_password BOOLEAN,
    result TEXT,
    error TEXT NOT NULL,
    sequence BIGINT,
    PRIMARY KEY (pairing_id, device_id),
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id)
);
CREATE UNIQUE INDEX pairing_target_identifier ON pairing_target (pairing_id, identifier);
CREATE INDEX pairing_target_device ON pairing_target (device_id);

-- A command is one chunk of a scan or one part of a pairing, which is its position.
CREATE TABLE command (
    id TEXT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    scan_id TEXT,
    pairing_id TEXT REFERENCES pairing (id),
    position BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    state TEXT NOT NULL,
    scope TEXT,
    issued_at BIGINT NOT NULL,
    deadline BIGINT NOT NULL,
    ended_at BIGINT,
    rows BIGINT NOT NULL,
    refused_rows BIGINT NOT NULL,
    flooded BOOLEAN NOT NULL,
    CHECK ((scan_id IS NULL) <> (pairing_id IS NULL)),
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id),
    FOREIGN KEY (scan_id, position) REFERENCES chunk (scan_id, position)
);
CREATE UNIQUE INDEX command_in_flight ON command (node_id) WHERE state = 'issued';
CREATE INDEX command_by_state ON command (state, deadline);
CREATE INDEX command_by_chunk ON command (scan_id, position);
-- A part is sent once, because its credentials are sent with it.
CREATE UNIQUE INDEX command_by_part ON command (pairing_id, position) WHERE pairing_id IS NOT NULL;

CREATE TABLE report (
    command_id TEXT NOT NULL REFERENCES command (id),
    digest {bytes} NOT NULL,
    accepted BIGINT NOT NULL,
    rejected BIGINT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (command_id, digest)
);

CREATE TABLE report_row (
    command_id TEXT NOT NULL REFERENCES command (id),
    ip TEXT NOT NULL,
    port BIGINT NOT NULL,
    scan_id TEXT NOT NULL,
    identifier TEXT NOT NULL,
    refusal TEXT,
    device_id BIGINT,
    shared_identity TEXT,
    PRIMARY KEY (command_id, ip, port)
);
CREATE INDEX report_row_by_scan ON report_row (scan_id, ip, port);

CREATE TABLE report_refusal (
    scan_id TEXT NOT NULL REFERENCES scan (id),
    reason TEXT NOT NULL,
    count BIGINT NOT NULL,
    example TEXT NOT NULL,
    PRIMARY KEY (scan_id, reason)
);

-- When deadlines were last checked, in one row. They do not run while no server checks them.
CREATE TABLE sweep (
    id BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL
);

-- One row that readiness probes write, to see that writes become durable.
CREATE TABLE write_check (
    id BIGINT NOT NULL PRIMARY KEY,
    writes BIGINT NOT NULL
);
