ALTER TABLE site ADD COLUMN deleted_at BIGINT;
ALTER TABLE site ADD COLUMN time_zone TEXT NOT NULL DEFAULT 'UTC';
ALTER TABLE site ADD COLUMN blackouts TEXT NOT NULL DEFAULT '';
ALTER TABLE scan ADD COLUMN ignores_blackout BOOLEAN NOT NULL DEFAULT FALSE;

CREATE TABLE site_exclude (
    id {id},
    org_id BIGINT NOT NULL,
    site_id BIGINT NOT NULL,
    target TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_by BIGINT NOT NULL REFERENCES operator (id),
    created_at BIGINT NOT NULL,
    FOREIGN KEY (org_id, site_id) REFERENCES site (org_id, id)
);
CREATE UNIQUE INDEX site_exclude_target ON site_exclude (site_id, target);
