-- Nodes that fetch their API key themselves after their confirmation.
CREATE TABLE key_fetch (
    node_id BIGINT NOT NULL PRIMARY KEY REFERENCES node (id),
    -- Unset until the node is confirmed for it.
    allowed_until BIGINT,
    -- The highest sequence of the node's requests.
    sequence BIGINT NOT NULL,
    key_id BIGINT REFERENCES node_key (id),
    fetched_at BIGINT
);
