-- The end of whole scans, and faster searches of the inventory.

-- A removed scan is hidden at once, and its rows are deleted in parts.
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

-- The texts in which a word of a search may occur, in lower case, one per line. One comparison replaces one for each
-- text. Written with each change of a device.
ALTER TABLE device ADD COLUMN search_text TEXT NOT NULL DEFAULT '';
UPDATE device SET search_text = lower(identifier || '
' || coalesce(ip, '') || '
' || manufacturer || '
' || model || '
' || firmware || '
' || coalesce(mac, '') || '
' || serial);
-- The frequent makes of the whole inventory are counted without its rows.
CREATE INDEX device_by_make ON device (org_id, manufacturer, id) WHERE deleted_at IS NULL;
