-- The probes per second at which a node scanned its share; 0 if unknown. It shows how much of the time of a scan was its
-- attempts.
ALTER TABLE scan_share ADD COLUMN rate BIGINT NOT NULL DEFAULT 0;
