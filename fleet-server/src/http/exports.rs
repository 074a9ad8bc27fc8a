//! Results as files: the difference between two scans as CSV (RFC 4180), as one JSON document, or as NDJSON. The rows of a
//! comparison are in memory, and the file is written from them piece by piece while the caller reads.

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

use super::{
    caller,
    lists::{self, Format},
    response::respond,
};
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
    let permit = auth::count_operator(app, &operator, true)?;
    let scan: ScanId = convert::id("scan_id", scan)?;
    let against = parameter(parts, "against")
        .map(|text| convert::id("against", text))
        .transpose()?;
    let group: Option<Group> = parameter(parts, "group")
        .map(|text| convert::id("group", text))
        .transpose()?;
    permit.hold(app.whole_answers.wait(operator.org).await?);
    let found = results::difference(app, operator.org, scan, against).await?;
    let format = file.split_once('.').and_then(|(_, end)| Format::of(end));
    let format = format.unwrap_or(Format::Json);
    let pieces = futures::stream::iter(pieces(found, group, format).map(Ok));
    let body = lists::streamed(app, &operator, parts, permit, pieces);
    let mut response = respond(StatusCode::OK, format.content_type(), body);
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

/// Rows of a piece. A row takes about a kilobyte.
const PIECE: usize = 256;

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

/// The file in pieces of [`PIECE`] rows.
fn pieces(
    found: results::Difference,
    group: Option<Group>,
    format: Format,
) -> impl Iterator<Item = Bytes> + Send {
    let head = match format {
        Format::Csv => csv(std::iter::once(COLUMNS.map(str::to_owned))),
        Format::Ndjson => Vec::new(),
        Format::Json => json_head(&found),
    };
    let end: &[u8] = match format {
        Format::Csv | Format::Ndjson => b"",
        Format::Json => b"]}",
    };
    let mut rows = found.rows_of(group).peekable();
    let mut is_first = true;
    let middle = std::iter::from_fn(move || {
        rows.peek()?;
        let page = rows.by_ref().take(PIECE);
        let piece = match format {
            Format::Csv => csv(page.map(cells)),
            Format::Ndjson => page
                .flat_map(|row| [object(&row).as_slice(), b"\n"].concat())
                .collect(),
            Format::Json => {
                let mut piece = Vec::new();
                for row in page {
                    if !std::mem::take(&mut is_first) {
                        piece.push(b',');
                    }
                    piece.extend(object(&row));
                }
                piece
            }
        };
        Some(Bytes::from(piece))
    });
    std::iter::once(Bytes::from(head))
        .chain(middle)
        .chain(std::iter::once(Bytes::from_static(end)))
        .filter(|piece| !piece.is_empty())
}

fn csv(records: impl Iterator<Item = [String; 22]>) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    for cells in records {
        // A spreadsheet must not run a device's text as a formula. Writing to memory does not fail.
        let _ = writer.write_record(cells.map(|cell| text::cell(&cell).into_owned()));
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

/// The JSON of a row, without line breaks. Unsafe characters occur only within its strings, where a mark is as valid as
/// they are.
fn object(row: &DifferenceRow) -> Vec<u8> {
    let object = serde_json::to_string(row).unwrap_or_default();
    text::visible(&object).into_owned().into_bytes()
}

/// The document up to its first row.
fn json_head(found: &results::Difference) -> Vec<u8> {
    let head = serde_json::json!({
        "scanId": found.scan.to_string(),
        "againstScanId": found.against.map(|id| id.to_string()),
        "explanation": found.explanation,
        "counts": found.counts(),
    });
    let head = text::visible(&head.to_string()).into_owned();
    let fields = head.strip_suffix('}').unwrap_or(&head);
    format!("{fields},\"rows\":[").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rows: Vec<DifferenceRow>) -> results::Difference {
        results::Difference {
            scan: ScanId::new(fleet_core::Timestamp::from_micros(0), [1; 10]),
            against: None,
            rows,
            explanation: None,
        }
    }

    fn file(rows: Vec<DifferenceRow>, format: Format) -> String {
        let pieces: Vec<u8> = pieces(found(rows), None, format).flatten().collect();
        String::from_utf8(pieces).expect("UTF-8")
    }

    #[test]
    fn a_file_of_many_rows_is_written_in_pieces_and_is_whole() {
        let rows = |count: usize| -> Vec<DifferenceRow> {
            let row = |n: usize| DifferenceRow {
                device_id: n as i64 + 1,
                reason: "a\nb\u{202e}".to_owned(),
                ..DifferenceRow::default()
            };
            (0..count).map(row).collect()
        };
        for count in [0, 1, PIECE - 1, PIECE, PIECE + 1, 10 * PIECE] {
            let json: serde_json::Value =
                serde_json::from_str(&file(rows(count), Format::Json)).expect("a document");
            assert_eq!(json["rows"].as_array().map(Vec::len), Some(count));
            assert_eq!(
                json["counts"].as_array().map(Vec::len),
                Some(Group::ALL.len())
            );
            let lines = file(rows(count), Format::Ndjson);
            assert_eq!(lines.lines().count(), count);
            assert!(!lines.contains('\u{202e}'));
            let csv = file(rows(count), Format::Csv);
            assert_eq!(csv.matches("\r\n").count(), count + 1);
            for format in [Format::Csv, Format::Json, Format::Ndjson] {
                let mut longest = 0;
                let mut pieces_read = 0;
                for piece in pieces(found(rows(count)), None, format) {
                    longest = longest.max(piece.len());
                    pieces_read += 1;
                }
                assert!(longest < PIECE * 1_024, "{format:?}: {longest}");
                assert!(pieces_read >= count / PIECE, "{format:?}: {pieces_read}");
            }
        }
    }

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
        let text = file(vec![row], Format::Csv);
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines[0], COLUMNS.join(","));
        assert_eq!(
            lines[1],
            "moved,7,,10.0.0.9,80,,'=1+1,\"1, \"\"2\"\"\",,,address firmware,10.0.0.7,80,,,,,1,barn-2,south,barn-1,north"
        );
        assert_eq!(lines[2..], [""]);
    }
}
