//! Nodes, invitations, node credentials, and the claims of control streams.

use super::*;

pub(super) fn tables() -> Vec<TableCreateStatement> {
    let mut node = table(
        "node",
        [
            id(),
            integer("org_id"),
            text("name"),
            text("state"),
            bytes("identity_key"),
            bytes("encryption_key"),
            integer("created_at"),
            optional(integer("last_seen_at")),
            optional(integer("deleted_at")),
            flag("duplicate_identity"),
            optional(text("hello")),
        ],
    )
    .refers(["org_id"], "org", ["id"]);
    // What references to a node together with its tenant point at.
    node.index(
        Index::create()
            .unique()
            .name("node_tenant")
            .col("org_id")
            .col("id"),
    );
    vec![
        node,
        table(
            "invitation",
            [
                id(),
                integer("org_id"),
                bytes("hash"),
                text("state"),
                integer("created_at"),
                integer("expires_at"),
                optional(integer("created_by")),
                optional(integer("node_id")),
            ],
        )
        .refers(["org_id"], "org", ["id"])
        .refers(["created_by"], "operator", ["id"])
        .refers(["org_id", "node_id"], "node", ["org_id", "id"]),
        table(
            "node_key",
            [
                id(),
                integer("node_id"),
                bytes("hash"),
                integer("created_at"),
                optional(integer("revoked_at")),
            ],
        )
        .refers(["node_id"], "node", ["id"]),
        table(
            "node_challenge",
            [
                integer("node_id"),
                integer("key_id"),
                bytes("hash"),
                integer("expires_at"),
            ],
        )
        .keyed(["node_id"])
        .refers(["node_id"], "node", ["id"])
        .refers(["key_id"], "node_key", ["id"]),
        table(
            "node_session",
            [
                id(),
                integer("node_id"),
                integer("key_id"),
                bytes("hash"),
                integer("created_at"),
                integer("expires_at"),
            ],
        )
        .refers(["node_id"], "node", ["id"])
        .refers(["key_id"], "node_key", ["id"]),
        table(
            "node_stream",
            [
                integer("node_id"),
                integer("epoch"),
                bytes("replica"),
                integer("session_id"),
                optional(bytes("instance")),
                integer("claimed_at"),
                optional(integer("released_at")),
            ],
        )
        .keyed(["node_id"])
        .refers(["node_id"], "node", ["id"]),
    ]
}

pub(super) fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        unique(
            "node_live_name",
            "node",
            ["org_id", "name"],
            Some("deleted_at IS NULL"),
        ),
        unique(
            "node_live_identity",
            "node",
            ["org_id", "identity_key"],
            Some("deleted_at IS NULL"),
        ),
        unique("invitation_hash", "invitation", ["hash"], None),
        index("invitation_by_org", "invitation", ["org_id", "state"]),
        index("invitation_expiry", "invitation", ["state", "expires_at"]),
        index("invitation_node", "invitation", ["node_id"]),
        unique("node_key_hash", "node_key", ["hash"], None),
        index("node_key_node", "node_key", ["node_id"]),
        unique("node_challenge_hash", "node_challenge", ["hash"], None),
        unique("node_session_hash", "node_session", ["hash"], None),
        index("node_session_node", "node_session", ["node_id"]),
        index("node_session_expiry", "node_session", ["expires_at"]),
    ]
}
