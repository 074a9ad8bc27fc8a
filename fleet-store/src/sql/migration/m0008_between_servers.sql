-- What servers know of each other's nodes: keys for forwarded pairings, and why a stream ended.

-- The X25519 key that other servers seal to. Servers of the first schema have none.
ALTER TABLE replica ADD COLUMN encryption_key {bytes};

-- A pairing that waits for the server that holds the node's stream, with credentials that only that
-- server's process can open.
CREATE TABLE forwarded_pairing (
    pairing_id TEXT NOT NULL PRIMARY KEY REFERENCES pairing (id),
    replica {bytes} NOT NULL,
    sealed {bytes} NOT NULL
);
CREATE INDEX forwarded_pairing_replica ON forwarded_pairing (replica);

ALTER TABLE node_stream ADD COLUMN end_reason TEXT;

-- Why the node has no stream, as its heartbeats state.
ALTER TABLE node ADD COLUMN stream_problem TEXT;

-- How many of the rejected devices of a report belong to another owner.
ALTER TABLE report ADD COLUMN owned_elsewhere BIGINT NOT NULL DEFAULT 0;

-- Commands that were ended because too many of their rows were refused: the server that holds the
-- node's stream looks for them.
CREATE INDEX command_flooded ON command (node_id) WHERE flooded;
