-- The device page: changes of each device, and labels and notes of operators.

-- The 200 newest events of a device are kept. Merges are in identity_change.
CREATE TABLE device_event (
    id {id},
    org_id BIGINT NOT NULL,
    device_id BIGINT NOT NULL,
    kind TEXT NOT NULL,
    former TEXT NOT NULL,
    became TEXT NOT NULL,
    node_id BIGINT,
    at BIGINT NOT NULL,
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id)
);
CREATE INDEX device_event_of_device ON device_event (device_id, id);

CREATE TABLE device_label (
    device_id BIGINT NOT NULL,
    label TEXT NOT NULL,
    org_id BIGINT NOT NULL,
    PRIMARY KEY (device_id, label),
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id)
);
CREATE INDEX device_label_by_org ON device_label (org_id, label);

CREATE TABLE device_note (
    device_id BIGINT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL,
    text TEXT NOT NULL,
    changed_by BIGINT NOT NULL REFERENCES operator (id),
    changed_at BIGINT NOT NULL,
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id)
);
