-- Direct scans that have not ended, each with the server that runs it. When that server stops before the end, another one,
-- or the same one after its start, settles the alerts about the devices that the scan had stored.
CREATE TABLE direct_run (
    scan_id TEXT NOT NULL PRIMARY KEY,
    org_id BIGINT NOT NULL REFERENCES org (id),
    replica {bytes} NOT NULL,
    started BIGINT NOT NULL
);

-- Whether a site was created with its node, and not by an operator. Such a site ends when its node moves away.
ALTER TABLE site ADD COLUMN of_node BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE site SET of_node = TRUE WHERE EXISTS (SELECT 1 FROM node WHERE node.site_id = site.id AND node.name = site.name);
