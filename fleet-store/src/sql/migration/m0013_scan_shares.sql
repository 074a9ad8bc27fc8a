-- The share of each node in a scan: its position in the queue of the node, its progress and its outcome.
CREATE TABLE scan_share (
    scan_id TEXT NOT NULL REFERENCES scan (id),
    node_id BIGINT NOT NULL,
    org_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    code TEXT,
    reason TEXT NOT NULL,
    -- The targets of the node, without the skipped ones.
    targets BIGINT NOT NULL,
    chunks BIGINT NOT NULL,
    chunks_done BIGINT NOT NULL,
    -- The targets of all chunks. A target is in several, one for each share of its ports.
    units BIGINT NOT NULL,
    units_done BIGINT NOT NULL,
    units_settled BIGINT NOT NULL,
    queued_until BIGINT NOT NULL,
    served_at BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    busy_answers BIGINT NOT NULL,
    PRIMARY KEY (scan_id, node_id),
    FOREIGN KEY (org_id, node_id) REFERENCES node (org_id, id)
);
CREATE INDEX scan_share_by_node ON scan_share (node_id, state);
CREATE INDEX scan_share_by_state ON scan_share (state, queued_until);

INSERT INTO scan_share (scan_id, node_id, org_id, state, code, reason, targets, chunks, chunks_done, units, units_done, units_settled, queued_until, served_at, not_before, busy_answers)
    SELECT id, node_id, org_id, state, code, reason, targets - skipped_targets, chunks, chunks_done, units - skipped_targets, units_done - skipped_targets, units_settled - skipped_targets, queued_until, served_at, not_before, busy_answers
    FROM (
        SELECT scan.*, scan.units - CAST(COALESCE((SELECT SUM(chunk.targets) FROM chunk WHERE chunk.scan_id = scan.id), 0) AS BIGINT) AS skipped_targets
        FROM scan
    ) AS counted;
ALTER TABLE scan DROP COLUMN queued_until;
ALTER TABLE scan DROP COLUMN served_at;
ALTER TABLE scan DROP COLUMN not_before;
ALTER TABLE scan DROP COLUMN busy_answers;

-- The nodes as the operator named them, such as `node 3` or `auto`. node_id is the first one.
ALTER TABLE scan ADD COLUMN choice TEXT NOT NULL DEFAULT '';
UPDATE scan SET choice = 'node ' || CAST(node_id AS TEXT);
ALTER TABLE schedule ADD COLUMN choice TEXT NOT NULL DEFAULT '';
UPDATE schedule SET choice = 'node ' || CAST(node_id AS TEXT);

ALTER TABLE chunk ADD COLUMN node_id BIGINT NOT NULL DEFAULT 0;
UPDATE chunk SET node_id = (SELECT scan.node_id FROM scan WHERE scan.id = chunk.scan_id);
DROP INDEX chunk_by_state;
CREATE INDEX chunk_by_state ON chunk (state, scan_id, node_id);
