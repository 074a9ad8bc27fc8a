//! The inventory: devices, the names they had, the places they were at, and who they are bound to.

use super::*;

pub(super) fn tables() -> Vec<TableCreateStatement> {
    let mut device = table(
        "device",
        [
            id(),
            integer("org_id"),
            text("identifier"),
            optional(integer("node_id")),
            optional(text("ip")),
            optional(integer("port")),
            text("scheme"),
            text("driver"),
            text("model"),
            text("manufacturer"),
            text("firmware"),
            optional(text("mac")),
            text("serial"),
            text("evidence"),
            integer("first_seen"),
            integer("last_seen"),
            optional(integer("deleted_at")),
        ],
    )
    .refers(["org_id", "node_id"], "node", ["org_id", "id"]);
    device.index(
        Index::create()
            .unique()
            .name("device_tenant")
            .col("org_id")
            .col("id"),
    );
    vec![
        device,
        table(
            "device_alias",
            [
                integer("org_id"),
                text("identifier"),
                integer("device_id"),
                integer("since"),
            ],
        )
        .keyed(["org_id", "identifier", "device_id"])
        .refers(["org_id", "device_id"], "device", ["org_id", "id"]),
        table(
            "node_endpoint",
            [
                integer("org_id"),
                text("ip"),
                integer("port"),
                integer("node_id"),
                integer("since"),
            ],
        )
        .keyed(["org_id", "ip", "port", "node_id"])
        .refers(["org_id", "node_id"], "node", ["org_id", "id"]),
        table(
            "binding",
            [
                integer("device_id"),
                integer("org_id"),
                optional(integer("node_id")),
                integer("created_at"),
            ],
        )
        .keyed(["device_id"])
        .refers(["org_id", "device_id"], "device", ["org_id", "id"])
        .refers(["org_id", "node_id"], "node", ["org_id", "id"]),
    ]
}

pub(super) fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        unique(
            "device_live_identifier",
            "device",
            ["org_id", "identifier"],
            Some("deleted_at IS NULL"),
        ),
        index("device_by_org", "device", ["org_id", "id"]),
        index("device_by_place", "device", ["node_id", "ip", "port"]),
        index("binding_by_node", "binding", ["node_id"]),
    ]
}
