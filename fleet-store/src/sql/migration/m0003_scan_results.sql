-- The result of each scan, for differences between scans: the reported facts of each device, and a hash of the
-- targets by which the previous scan of the same targets is found. Rows of earlier versions have neither.

ALTER TABLE report_row ADD COLUMN facts TEXT;
ALTER TABLE scan ADD COLUMN targets_key TEXT;
CREATE INDEX scan_by_targets ON scan (org_id, targets_key, id);
