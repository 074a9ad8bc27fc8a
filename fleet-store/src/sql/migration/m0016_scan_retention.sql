-- The end of whole scans: a removed scan is hidden at once, and its rows are deleted in parts.

ALTER TABLE scan ADD COLUMN removed_at BIGINT;
CREATE INDEX scan_kept ON scan (ended_at) WHERE removed_at IS NULL;
CREATE INDEX scan_removed ON scan (removed_at) WHERE removed_at IS NOT NULL;

-- The ids of removed scans, so that a link to one is answered with the reason.
CREATE TABLE removed_scan (
    scan_id TEXT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL REFERENCES org (id),
    removed_at BIGINT NOT NULL
);

-- The row that the server locks whose turn it is to remove scans.
INSERT INTO sweep (id, at) VALUES (2, 0);
