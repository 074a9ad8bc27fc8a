-- Alerts: rules, channels, what alerts know of devices and nodes, and the messages with their deliveries.

-- Since when the devices of an organization are watched. Its row is the lock of the organization's alerts.
CREATE TABLE alert_org (
    org_id BIGINT NOT NULL PRIMARY KEY REFERENCES org (id),
    since BIGINT NOT NULL
);

CREATE TABLE alert_channel (
    id {id},
    org_id BIGINT NOT NULL REFERENCES org (id),
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    -- The target without the parts of a URL that can be secret.
    shown TEXT NOT NULL,
    -- The key that signs the messages of a webhook.
    secret {bytes},
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX alert_channel_name ON alert_channel (org_id, name);

CREATE TABLE alert_rule (
    id {id},
    org_id BIGINT NOT NULL REFERENCES org (id),
    name TEXT NOT NULL,
    event TEXT NOT NULL,
    threshold BIGINT NOT NULL,
    zone TEXT NOT NULL,
    quiet TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX alert_rule_name ON alert_rule (org_id, name);
CREATE INDEX alert_rule_event ON alert_rule (event) WHERE enabled;

CREATE TABLE alert_rule_channel (
    rule_id BIGINT NOT NULL REFERENCES alert_rule (id),
    channel_id BIGINT NOT NULL REFERENCES alert_channel (id),
    PRIMARY KEY (rule_id, channel_id)
);
CREATE INDEX alert_rule_channel_channel ON alert_rule_channel (channel_id);

-- Ended scans that alerts have not looked at. A row is written with the end, and deleted with the messages.
CREATE TABLE alert_scan (
    scan_id TEXT NOT NULL PRIMARY KEY REFERENCES scan (id)
);

-- Devices as the last scan showed them.
CREATE TABLE alert_device (
    device_id BIGINT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL REFERENCES org (id),
    ip TEXT NOT NULL,
    port BIGINT NOT NULL,
    former_ip TEXT,
    firmware TEXT NOT NULL,
    missed BIGINT NOT NULL
);

-- Nodes that are silent and of which a rule has notified.
CREATE TABLE alert_silence (
    rule_id BIGINT NOT NULL REFERENCES alert_rule (id),
    node_id BIGINT NOT NULL REFERENCES node (id),
    since BIGINT NOT NULL,
    PRIMARY KEY (rule_id, node_id)
);

-- Messages. They keep the names of their rule and channel, which can be deleted.
CREATE TABLE alert_delivery (
    id TEXT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL REFERENCES org (id),
    channel_id BIGINT NOT NULL,
    channel TEXT NOT NULL,
    rule_id BIGINT,
    rule TEXT NOT NULL,
    event TEXT NOT NULL,
    message TEXT NOT NULL,
    scan_id TEXT,
    node_id BIGINT,
    state TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    leased_until BIGINT,
    attempts BIGINT NOT NULL,
    answer TEXT NOT NULL,
    answered_at BIGINT,
    ended_at BIGINT
);
CREATE INDEX alert_delivery_due ON alert_delivery (due_at) WHERE state = 'waiting';
CREATE INDEX alert_delivery_org ON alert_delivery (org_id, id);
CREATE INDEX alert_delivery_waiting ON alert_delivery (org_id, channel_id) WHERE state = 'waiting';
CREATE INDEX alert_delivery_ended ON alert_delivery (ended_at);
