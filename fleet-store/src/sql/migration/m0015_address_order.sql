-- The order of devices by address, and of scans the name, the most probes per second, and
-- the changes since the previous scan.

-- Written with each report. Devices of earlier versions get theirs here; that of IPv6 addresses is exact after their
-- next report.
ALTER TABLE device ADD COLUMN address_key TEXT NOT NULL DEFAULT '';
UPDATE device SET address_key = {address_key} WHERE ip IS NOT NULL;
CREATE INDEX device_list_by_address ON device (org_id, address_key, id) WHERE deleted_at IS NULL;

ALTER TABLE scan ADD COLUMN rate BIGINT NOT NULL DEFAULT 0;
ALTER TABLE scan ADD COLUMN changes TEXT;
ALTER TABLE scan ADD COLUMN name TEXT NOT NULL DEFAULT '';
CREATE INDEX scan_without_changes ON scan (ended_at) WHERE changes IS NULL;
