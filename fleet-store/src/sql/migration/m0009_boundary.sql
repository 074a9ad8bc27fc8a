-- Makers of keys, e-mails that are unique within an organization, and the end of old events.

-- The key with which a key was made; none for keys that a person made with a password, or fleetd admin.
ALTER TABLE operator_key ADD COLUMN made_by BIGINT REFERENCES operator_key (id);
CREATE INDEX operator_key_made_by ON operator_key (made_by);

DROP INDEX operator_email;
CREATE UNIQUE INDEX operator_email ON operator (org_id, email) WHERE removed_at IS NULL;
CREATE INDEX operator_by_email ON operator (email);

-- When the events of an ended scan were deleted.
ALTER TABLE scan ADD COLUMN events_deleted_at BIGINT;
CREATE INDEX scan_with_events ON scan (ended_at) WHERE events_deleted_at IS NULL;
