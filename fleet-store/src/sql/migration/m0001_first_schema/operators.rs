//! Tenants, operators, their credentials, and the audit trail.

use super::*;

pub(super) fn tables() -> Vec<TableCreateStatement> {
    vec![
        table("org", [id(), text("name"), integer("created_at")]),
        table(
            "operator",
            [
                id(),
                integer("org_id"),
                text("email"),
                text("role"),
                integer("created_at"),
            ],
        )
        .refers(["org_id"], "org", ["id"]),
        table(
            "operator_key",
            [
                id(),
                integer("operator_id"),
                bytes("hash"),
                integer("created_at"),
                optional(integer("revoked_at")),
            ],
        )
        .refers(["operator_id"], "operator", ["id"]),
        table(
            "operator_session",
            [
                bytes("hash"),
                integer("key_id"),
                integer("created_at"),
                integer("expires_at"),
            ],
        )
        .keyed(["hash"])
        .refers(["key_id"], "operator_key", ["id"]),
        table(
            "audit",
            [
                id(),
                optional(integer("org_id")),
                text("who"),
                optional(integer("who_id")),
                optional(text("from_address")),
                text("action"),
                text("subject"),
                optional(text("refusal")),
                integer("count"),
                integer("at"),
                optional(text("fold")),
            ],
        ),
    ]
}

pub(super) fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        unique("org_name", "org", ["name"], None),
        unique("operator_email", "operator", ["email"], None),
        unique("operator_key_hash", "operator_key", ["hash"], None),
        index(
            "operator_session_expiry",
            "operator_session",
            ["expires_at"],
        ),
        index("audit_by_org", "audit", ["org_id", "id"]),
        unique("audit_fold", "audit", ["fold"], None),
    ]
}
