//! Results as files: the difference between two scans as CSV (RFC 4180), as one JSON document, or as NDJSON.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use fleet_core::{Permission, ScanId, text};
use fleet_inventory::Group;
use fleet_wire::{
    RpcError,
    fleet::{DifferenceRow, SeenDevice},
    server::Body,
};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};

use super::{caller, response::respond};
use crate::{app::App, auth, convert, results};

/// Answers with the difference between a scan and the scan that the query's `against` names, or the previous one. The
/// query's `group` selects one group.
pub(super) async fn difference(
    app: &Arc<App>,
    from: IpAddr,
    parts: &Parts,
    scan: &str,
    file: &str,
) -> Result<Response<Body>, RpcError> {
    let operator = caller::operator(app, parts, from).await?;
    caller::mark_known(parts, &operator);
    auth::permit(app, &operator, Permission::NodeRead, parts.uri.path(), from).await?;
    let permit = auth::count_operator(app, &operator, false)?;
    let scan: ScanId = convert::id("scan_id", scan)?;
    let against = parameter(parts, "against")
        .map(|text| convert::id("against", text))
        .transpose()?;
    let group: Option<Group> = parameter(parts, "group")
        .map(|text| convert::id("group", text))
        .transpose()?;
    permit.hold(app.whole_answers.wait(operator.org).await?);
    let found = results::difference(app, operator.org, scan, against).await?;
    let (content_type, file_body) = if file.ends_with(".csv") {
        (
            "text/csv; charset=utf-8; header=present",
            csv(found.rows_of(group)),
        )
    } else if file.ends_with(".ndjson") {
        ("application/x-ndjson", ndjson(found.rows_of(group)))
    } else {
        ("application/json", json(found, group))
    };
    // Counted until the caller has read it: the whole file is in memory.
    let cut = auth::cut_when_revoked(app, &operator, Permission::NodeRead, &parts.extensions);
    let body = Body::from(Bytes::from(file_body)).holding((permit, cut));
    let mut response = respond(StatusCode::OK, content_type, body);
    let name = format!("attachment; filename=\"scan-{scan}-{file}\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// A parameter of the query. Ids and names of groups need no percent-decoding.
fn parameter<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    let query = parts.uri.query().unwrap_or_default();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .filter(|value| !value.is_empty())
}

const COLUMNS: [&str; 22] = [
    "group",
    "device_id",
    "identifier",
    "ip",
    "port",
    "manufacturer",
    "model",
    "firmware",
    "mac",
    "serial",
    "changed",
    "before_ip",
    "before_port",
    "before_manufacturer",
    "before_model",
    "before_firmware",
    "reason",
    "count",
    "node",
    "site",
    "before_node",
    "before_site",
];

fn csv(rows: impl Iterator<Item = DifferenceRow>) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = writer.write_record(COLUMNS);
    for row in rows {
        // A spreadsheet must not run a device's text as a formula.
        let inert = cells(row).map(|cell| text::cell(&cell).into_owned());
        let _ = writer.write_record(inert);
    }
    writer.into_inner().unwrap_or_default()
}

fn cells(row: DifferenceRow) -> [String; 22] {
    let number = |number: u32| match number {
        0 => String::new(),
        number => number.to_string(),
    };
    let group = row.group().as_str_name();
    let group = group
        .strip_prefix("DIFFERENCE_GROUP_")
        .unwrap_or(group)
        .to_lowercase();
    let before = row.before.unwrap_or_default();
    let SeenDevice {
        manufacturer,
        model,
        firmware,
        mac,
        serial,
        ..
    } = row.after.unwrap_or_else(|| before.clone());
    [
        group,
        if row.device_id == 0 {
            String::new()
        } else {
            row.device_id.to_string()
        },
        row.identifier,
        row.ip,
        number(row.port),
        manufacturer,
        model,
        firmware,
        mac,
        serial,
        row.changed.join(" "),
        before.ip,
        number(before.port),
        before.manufacturer,
        before.model,
        before.firmware,
        row.reason,
        row.count.to_string(),
        row.node_name,
        row.site_name,
        before.node_name,
        before.site_name,
    ]
}

/// One object per line. A row has no line break outside of its texts, which JSON escapes.
fn ndjson(rows: impl Iterator<Item = DifferenceRow>) -> Vec<u8> {
    let line = |row: DifferenceRow| {
        let line = serde_json::to_string(&row).unwrap_or_default();
        format!("{}\n", text::visible(&line)).into_bytes()
    };
    rows.flat_map(line).collect()
}

fn json(found: results::Difference, group: Option<Group>) -> Vec<u8> {
    let counts = found.counts();
    let document = serde_json::json!({
        "scanId": found.scan.to_string(),
        "againstScanId": found.against.map(|id| id.to_string()),
        "explanation": found.explanation,
        "counts": counts,
        "rows": found.rows_of(group).collect::<Vec<_>>(),
    });
    // Unsafe characters occur only within its strings, where a mark is as valid as they are.
    text::visible(&document.to_string())
        .into_owned()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_file_has_a_header_and_no_formulas() {
        let row = DifferenceRow {
            group: fleet_wire::fleet::DifferenceGroup::Moved.into(),
            device_id: 7,
            ip: "10.0.0.9".into(),
            port: 80,
            changed: vec!["address".into(), "firmware".into()],
            before: Some(SeenDevice {
                ip: "10.0.0.7".into(),
                port: 80,
                node_name: "barn-1".into(),
                site_name: "north".into(),
                ..SeenDevice::default()
            }),
            after: Some(SeenDevice {
                model: "=1+1".into(),
                firmware: "1, \"2\"".into(),
                ..SeenDevice::default()
            }),
            count: 1,
            node_name: "barn-2".into(),
            site_name: "south".into(),
            ..DifferenceRow::default()
        };
        let text = String::from_utf8(csv(std::iter::once(row))).expect("UTF-8");
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines[0], COLUMNS.join(","));
        assert_eq!(
            lines[1],
            "moved,7,,10.0.0.9,80,,'=1+1,\"1, \"\"2\"\"\",,,address firmware,10.0.0.7,80,,,,,1,barn-2,south,barn-1,north"
        );
        assert_eq!(lines[2..], [""]);
    }
}
