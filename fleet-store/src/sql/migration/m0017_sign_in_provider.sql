-- Sign-in by OpenID Connect: accounts of providers, sessions that they opened, and attempts that were used.

-- The link of a removed operator stays, so that its account does not create another operator.
CREATE TABLE operator_link (
    id {id},
    org_id BIGINT NOT NULL REFERENCES org (id),
    operator_id BIGINT NOT NULL REFERENCES operator (id),
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    linked_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX operator_link_operator ON operator_link (operator_id);
CREATE UNIQUE INDEX operator_link_subject ON operator_link (org_id, issuer, subject);

-- The issuer whose account opened the session; none for a password or a key.
ALTER TABLE browser_session ADD COLUMN issuer TEXT;

CREATE TABLE used_attempt (
    hash {bytes} NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
CREATE INDEX used_attempt_expiry ON used_attempt (expires_at);
