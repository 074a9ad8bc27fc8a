//! Scans, their chunks, commands, reports and event logs.

use super::*;

pub(super) fn tables() -> Vec<TableCreateStatement> {
    vec![
        table(
            "scan",
            [
                ColumnDef::new("id")
                    .text()
                    .not_null()
                    .primary_key()
                    .to_owned(),
                integer("org_id"),
                integer("node_id"),
                integer("operator_id"),
                optional(text("request_id")),
                text("state"),
                text("priority"),
                flag("queues"),
                integer("queued_until"),
                integer("created_at"),
                optional(integer("started_at")),
                optional(integer("ended_at")),
                integer("served_at"),
                integer("not_before"),
                integer("busy_answers"),
                optional(integer("cancel_until")),
                optional(text("code")),
                text("reason"),
                flag("open_scope"),
                text("skipped"),
                integer("chunks"),
                integer("chunks_done"),
                integer("targets"),
                integer("units"),
                integer("units_done"),
                integer("units_settled"),
                text("phase"),
                integer("last_sequence"),
                integer("accepted"),
                integer("rejected"),
                optional(integer("first_device_at")),
                optional(text("ledger")),
            ],
        )
        .refers(["org_id", "node_id"], "node", ["org_id", "id"])
        .refers(["operator_id"], "operator", ["id"]),
        // Apart, because it is big and read only when somebody looks at the scan.
        table("scan_request", [text("scan_id"), text("request")])
            .keyed(["scan_id"])
            .refers(["scan_id"], "scan", ["id"]),
        table(
            "chunk",
            [
                text("scan_id"),
                integer("position"),
                text("state"),
                text("command"),
                text("ports"),
                text("scope"),
                integer("targets"),
                integer("attempts"),
                optional(text("grade")),
                optional(text("code")),
                text("reason"),
                optional(bytes("outcomes")),
            ],
        )
        .keyed(["scan_id", "position"])
        .refers(["scan_id"], "scan", ["id"]),
        table(
            "command",
            [
                ColumnDef::new("id")
                    .text()
                    .not_null()
                    .primary_key()
                    .to_owned(),
                integer("org_id"),
                integer("node_id"),
                text("scan_id"),
                integer("chunk"),
                integer("epoch"),
                text("state"),
                text("scope"),
                integer("issued_at"),
                integer("deadline"),
                optional(integer("ended_at")),
                integer("rows"),
                integer("refused_rows"),
                flag("flooded"),
            ],
        )
        .refers(["org_id", "node_id"], "node", ["org_id", "id"])
        .refers(["scan_id", "chunk"], "chunk", ["scan_id", "position"]),
        table(
            "report",
            [
                text("command_id"),
                bytes("digest"),
                integer("accepted"),
                integer("rejected"),
                flag("ended"),
                integer("at"),
            ],
        )
        .keyed(["command_id", "digest"])
        .refers(["command_id"], "command", ["id"]),
        table(
            "report_row",
            [
                text("command_id"),
                text("ip"),
                integer("port"),
                text("scan_id"),
                text("identifier"),
                optional(text("refusal")),
                optional(integer("device_id")),
            ],
        )
        .keyed(["command_id", "ip", "port"])
        .refers(["command_id"], "command", ["id"]),
        table(
            "report_refusal",
            [
                text("scan_id"),
                text("reason"),
                integer("count"),
                text("example"),
            ],
        )
        .keyed(["scan_id", "reason"])
        .refers(["scan_id"], "scan", ["id"]),
        table(
            "scan_event",
            [
                text("scan_id"),
                integer("sequence"),
                text("kind"),
                text("payload"),
                integer("at"),
            ],
        )
        .keyed(["scan_id", "sequence"])
        .refers(["scan_id"], "scan", ["id"]),
    ]
}

pub(super) fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        unique(
            "scan_request_id",
            "scan",
            ["org_id", "request_id"],
            Some("request_id IS NOT NULL"),
        ),
        index("scan_by_org", "scan", ["org_id", "id"]),
        index("scan_by_node", "scan", ["node_id", "state"]),
        index("scan_by_state", "scan", ["state"]),
        index("chunk_by_state", "chunk", ["state", "scan_id"]),
        unique(
            "command_in_flight",
            "command",
            ["node_id"],
            Some("state = 'issued'"),
        ),
        index("command_by_state", "command", ["state", "deadline"]),
        index("command_by_chunk", "command", ["scan_id", "chunk"]),
        index(
            "report_row_by_scan",
            "report_row",
            ["scan_id", "ip", "port"],
        ),
        // At most one end, whatever the race.
        unique(
            "scan_event_end",
            "scan_event",
            ["scan_id"],
            Some("kind = 'ended'"),
        ),
    ]
}
