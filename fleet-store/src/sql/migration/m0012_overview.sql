-- The overview: the last outcome of each scanned address, counts per day, and the devices that are missing.

-- One row for each /24 network of a site with IPv4 addresses that a scan had as targets. `block` is the upper 24 bits
-- of the addresses. Each byte string has 256 entries: outcomes of 1 byte, the starts of their scans in milliseconds of
-- 6 bytes, and the times of the last answers in seconds of 4 bytes.
CREATE TABLE site_block (
    site_id BIGINT NOT NULL,
    block BIGINT NOT NULL,
    org_id BIGINT NOT NULL,
    outcomes {bytes} NOT NULL,
    scans {bytes} NOT NULL,
    answers {bytes} NOT NULL,
    scanned_at BIGINT NOT NULL,
    PRIMARY KEY (site_id, block),
    FOREIGN KEY (org_id, site_id) REFERENCES site (org_id, id)
);
CREATE INDEX site_block_scanned ON site_block (site_id, scanned_at);

-- One row for each day of UTC and node, which is 0 for the server itself. Days that the overview does not show are
-- deleted.
CREATE TABLE inventory_day (
    org_id BIGINT NOT NULL REFERENCES org (id),
    day BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    added BIGINT NOT NULL,
    missing BIGINT NOT NULL,
    PRIMARY KEY (org_id, day, node_id)
);

-- When a scan found the address of the device silent or refused, after its last report.
ALTER TABLE device ADD COLUMN missing_since BIGINT;
CREATE INDEX device_missing ON device (org_id, id) WHERE missing_since IS NOT NULL AND deleted_at IS NULL;

-- The map finds the scan that describes an unidentified host.
CREATE INDEX scan_host_by_address ON scan_host (ip, scan_id);
