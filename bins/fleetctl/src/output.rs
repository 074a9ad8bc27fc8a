//! Output: tables for people, JSON and CSV for programs. Read [`Rows`] first.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use fleet_core::text;
use serde::Serialize;

use crate::cli::Format;

/// Width of a table that is not printed on a terminal.
const WIDTH: u16 = 80;
/// Padding of a column.
const PADDING: usize = 2;

/// A type that is printed as rows. Its JSON form is its serialization, which is that of the API.
pub(crate) trait Rows {
    /// The column titles.
    const HEAD: &'static [&'static str];
    /// Columns to drop from a table that is too wide, in this order.
    const OPTIONAL: &'static [&'static str] = &[];
    /// Columns whose cells never break: ids and fingerprints, which people copy.
    const WHOLE: &'static [&'static str] = &[];

    /// The cells of this row, one per column.
    fn cells(&self) -> Vec<String>;

    /// The cells of a CSV record, for scripts: the names of the API where a table has words.
    fn record(&self) -> Vec<String> {
        self.cells()
    }
}

/// Prints a list.
pub(crate) fn rows<R: Rows + Serialize>(format: Format, rows: &[R]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Table | Format::Wide => {
            let table = table_of(rows, table(format));
            writeln!(out, "{table}")
        }
        Format::Json => document(&mut out, &rows),
        Format::Ndjson => rows.iter().try_for_each(|row| line(&mut out, row)),
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(head_of::<R>())?;
            for row in rows {
                csv.write_record(row.record().iter().map(|cell| inert(cell)))?;
            }
            csv.flush()
        }
    }
}

/// Prints one item. A table shows one field per line.
pub(crate) fn one<R: Rows + Serialize>(format: Format, row: &R) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Table | Format::Wide => {
            let mut table = table(format);
            for (head, cell) in R::HEAD.iter().zip(row.cells()) {
                if !cell.is_empty() {
                    table.add_row([(*head).to_owned(), plain(&cell)]);
                }
            }
            writeln!(out, "{table}")
        }
        Format::Json => document(&mut out, row),
        Format::Ndjson => line(&mut out, row),
        Format::Csv => rows(format, std::slice::from_ref(row)),
    }
}

/// Prints a secret. JSON contains the whole response. Other formats print the secret alone on standard output, where a
/// script reads it, and the note on standard error.
pub(crate) fn secret(
    format: Format,
    response: &impl Serialize,
    secret: &str,
    note: &str,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json => document(&mut out, response),
        Format::Ndjson => line(&mut out, response),
        Format::Table | Format::Wide | Format::Csv => {
            writeln!(out, "{secret}")?;
            writeln!(io::stderr(), "{note}")
        }
    }
}

/// Prints one JSON document.
pub(crate) fn document(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Prints a JSON object as a line.
pub(crate) fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// Returns the CSV header.
pub(crate) fn head_of<R: Rows>() -> impl Iterator<Item = String> {
    R::HEAD
        .iter()
        .map(|head| head.to_lowercase().replace(' ', "_"))
}

/// Creates a table without borders that is as wide as the terminal, or 80 columns.
pub(crate) fn table(format: Format) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if format == Format::Wide {
        table.set_content_arrangement(ContentArrangement::Disabled);
    } else if !io::stdout().is_terminal() {
        table.set_width(WIDTH);
    }
    table
}

/// Fills a table, without the optional columns for which it is too narrow.
fn table_of<R: Rows>(rows: &[R], mut table: Table) -> Table {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.cells().iter().map(|cell| plain(cell)).collect())
        .collect();
    let widths: Vec<usize> = R::HEAD
        .iter()
        .enumerate()
        .map(|(column, head)| {
            let cells = cells.iter().filter_map(|row| row.get(column));
            let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            longest.max(head.len()) + PADDING
        })
        .collect();
    let kept = match table.width() {
        Some(width) => fitting(R::HEAD, R::OPTIONAL, &widths, usize::from(width)),
        None => (0..R::HEAD.len()).collect(),
    };
    let pick = |row: &[String]| -> Vec<String> {
        kept.iter()
            .filter_map(|column| row.get(*column).cloned())
            .collect()
    };
    let head: Vec<String> = R::HEAD.iter().map(|head| (*head).to_owned()).collect();
    table.set_header(pick(&head));
    for row in &cells {
        table.add_row(pick(row));
    }
    for (position, column) in kept.iter().enumerate() {
        let whole = R::HEAD
            .get(*column)
            .is_some_and(|head| R::WHOLE.contains(head));
        if let Some(column) = table.column_mut(position)
            && whole
        {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
}

/// Returns the columns that fit into a width, after dropping optional ones in their order.
fn fitting(head: &[&str], optional: &[&str], widths: &[usize], width: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..head.len()).collect();
    for drop in optional {
        let total: usize = kept.iter().filter_map(|column| widths.get(*column)).sum();
        if total <= width {
            break;
        }
        kept.retain(|column| head.get(*column) != Some(drop));
    }
    kept
}

/// Marks characters that hide or reorder text: devices and nodes choose these texts, and an escape sequence could move
/// the cursor.
pub(crate) fn plain(text: &str) -> String {
    text::visible(text).into_owned()
}

/// The cell of a CSV file. A spreadsheet must not run it as a formula.
pub(crate) fn inert(cell: &str) -> String {
    text::cell(cell).into_owned()
}

#[cfg(test)]
mod tests {
    use fleet_wire::{
        admin::DevicePairingResult,
        fleet::{
            AuditRecord, BrowserSession, Device, DeviceAlias, DifferenceRow, EnrollmentCode, Node,
            Operator, OperatorKey, RefusedDevice, Scan,
        },
    };

    use super::*;

    #[test]
    fn texts_of_devices_contain_no_formulas_and_no_control_characters() {
        assert_eq!(inert("=HYPERLINK(\"x\")"), "'=HYPERLINK(\"x\")");
        assert_eq!(inert("S19 Pro"), "S19 Pro");
        assert_eq!(inert("\t=1"), "\u{fffd}=1");
        assert_eq!(plain("a\u{1b}[2Jb\u{202e}"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn optional_columns_are_dropped_in_order_until_the_rest_fits() {
        let head = ["Id", "Name", "Note", "Time"];
        let widths = [10, 20, 40, 22];
        for (width, kept) in [
            (92, vec![0, 1, 2, 3]),
            (91, vec![0, 1, 3]),
            (52, vec![0, 1, 3]),
            (51, vec![0, 1]),
            (5, vec![0, 1]),
        ] {
            assert_eq!(
                fitting(&head, &["Note", "Time"], &widths, width),
                kept,
                "{width}"
            );
        }
    }

    /// Prints a row into 80 columns and asserts that no line is longer and that the given texts are unbroken.
    fn fits<R: Rows>(row: R, whole: &[&str]) {
        let mut table = table(Format::Table);
        table.set_width(WIDTH);
        let printed = table_of(&[row], table).to_string();
        for line in printed.lines() {
            let line = line.trim_end();
            assert!(
                line.chars().count() <= usize::from(WIDTH),
                "too wide:\n{printed}"
            );
        }
        for text in whole {
            assert!(printed.contains(text), "`{text}` is broken:\n{printed}");
        }
        for column in R::OPTIONAL.iter().chain(R::WHOLE) {
            assert!(R::HEAD.contains(column), "there is no column {column}");
        }
    }

    #[test]
    fn the_wide_list_shows_what_each_node_needs_an_upgrade_for() {
        let node = |name: &str, missing: &[&str]| Node {
            name: name.to_owned(),
            missing_capabilities: missing.iter().map(|name| (*name).to_owned()).collect(),
            ..Node::default()
        };
        let nodes = [
            node("newest", &[]),
            node("older", &["pins"]),
            node("upstream", &["pins", "mdns", "big-commands"]),
        ];
        let printed = table_of(&nodes, table(Format::Wide)).to_string();
        let mut lines = printed.lines().map(str::trim_end);
        let head = lines.next().expect("a header");
        assert!(head.ends_with("Needs upgrade for"), "{head}");
        for (name, missing) in [
            ("newest", ""),
            ("older", "pins"),
            ("upstream", "pins mdns big-commands"),
        ] {
            let line = lines.next().expect(name);
            assert!(line.contains(name), "{line}");
            let column = head.find("Needs").and_then(|at| line.get(at..));
            assert_eq!(column.unwrap_or_default().trim(), missing, "{printed}");
        }
    }

    #[test]
    fn a_device_has_one_line_of_80_columns_with_make_model_and_pairing() {
        let device = |id: i64, model: &str, pairing: &str| Device {
            device_id: id,
            identifier: "auto:cd16f59707c71c50".to_owned(),
            ip: "10.171.100.111".to_owned(),
            port: 4_028,
            driver: "asicrs".to_owned(),
            manufacturer: "Bitmain".to_owned(),
            model: model.to_owned(),
            firmware: "uart_trans.1.3".to_owned(),
            pairing_status: pairing.to_owned(),
            ..Device::default()
        };
        let devices = [
            device(1, "Antminer S21+ Hyd.", "AUTHENTICATION_NEEDED"),
            device(100_000, "Antminer S19j Pro", "PAIRED"),
        ];
        let mut narrow = table(Format::Table);
        narrow.set_width(WIDTH);
        let printed = table_of(&devices, narrow).to_string();
        assert_eq!(printed.lines().count(), 3, "{printed}");
        for text in [
            "Bitmain",
            "Antminer S21+ Hyd.",
            "password needed",
            " paired",
        ] {
            assert!(printed.contains(text), "`{text}`:\n{printed}");
        }
        assert!(!printed.contains("asicrs"), "{printed}");
    }

    #[test]
    fn every_table_fits_80_columns_and_breaks_no_id() {
        let time = Some(fleet_wire::Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        });
        let id = "01a22a65-8f36-7b3a-83fc-a9ff3cbaad4f";
        let (fingerprint, identifier) = ("aab90b67d9cd45d4", "auto:cd16f59707c71c50");
        let (name, text) = ("x".repeat(63), "a long text of many words ".repeat(8));
        fits(
            Node {
                fleet_node_id: 9_999,
                name: name.clone(),
                enrollment: "awaiting_confirmation".to_owned(),
                identity_fingerprint: fingerprint.to_owned(),
                last_seen_at: time,
                version: "0.1.0".to_owned(),
                local_subnets: vec!["10.0.0.0/22".to_owned(); 8],
                ..Node::default()
            },
            &["9999", fingerprint],
        );
        fits(
            Scan {
                scan_id: id.to_owned(),
                fleet_node_id: 9_999,
                node_name: name.clone(),
                created_at: time,
                started_by: "a.long.address@mail.example.org".to_owned(),
                reason: text.clone(),
                ..Scan::default()
            },
            &[id],
        );
        fits(
            Device {
                device_id: 123_456,
                identifier: identifier.to_owned(),
                ip: "fd12:3456:789a:bcde:1234:5678:9abc:def0".to_owned(),
                port: 4_028,
                model: name.clone(),
                firmware: name.clone(),
                evidence: text.clone(),
                last_seen: time,
                ..Device::default()
            },
            &["123456"],
        );
        fits(
            DeviceAlias {
                identity_change_id: 77,
                identifier: identifier.to_owned(),
                reason: text.clone(),
                evidence: text.clone(),
                since: time,
                ..DeviceAlias::default()
            },
            &["77", identifier],
        );
        fits(
            RefusedDevice {
                identifier: identifier.to_owned(),
                reason: text.clone(),
                remedy: text.clone(),
                last_seen: time,
                ..RefusedDevice::default()
            },
            &[identifier],
        );
        fits(
            DifferenceRow {
                device_id: 123_456,
                identifier: identifier.to_owned(),
                ip: "fd12:3456:789a:bcde:1234:5678:9abc:def0".to_owned(),
                port: 65_535,
                reason: text.clone(),
                count: 1,
                node_name: text.clone(),
                site_name: text.clone(),
                ..DifferenceRow::default()
            },
            &["unspecified"],
        );
        fits(
            AuditRecord {
                seq: 1_234_567,
                at: time,
                actor_name: "a.long.address@mail.example.org".to_owned(),
                from_address: Some("fd12:3456:789a:bcde:1234:5678:9abc:def0".to_owned()),
                action: "operator.call".to_owned(),
                subject: "fleet.v1.OperatorService/ListOperators".to_owned(),
                refusal: Some(text.clone()),
                ..AuditRecord::default()
            },
            &["1234567"],
        );
        fits(
            EnrollmentCode {
                pending_enrollment_id: 42,
                created_by: "a.long.address@mail.example.org".to_owned(),
                expires_at: time,
                ..EnrollmentCode::default()
            },
            &["42"],
        );
        fits(
            OperatorKey {
                key_id: 42,
                name: name.clone(),
                email: "a.long.address@mail.example.org".to_owned(),
                created_at: time,
                last_used_at: time,
                expires_at: time,
                ..OperatorKey::default()
            },
            &["42"],
        );
        fits(
            Operator {
                operator_id: 42,
                email: "a.long.address@mail.example.org".to_owned(),
                role: "operator".to_owned(),
                created_at: time,
                ..Operator::default()
            },
            &["42", "a.long.address@mail.example.org"],
        );
        fits(
            BrowserSession {
                session_id: 42,
                created_at: time,
                expires_at: time,
                user_agent: text.clone(),
                ..BrowserSession::default()
            },
            &["42"],
        );
        fits(
            DevicePairingResult {
                device_identifier: identifier.to_owned(),
                error: text,
                ..DevicePairingResult::default()
            },
            &[identifier],
        );
    }
}
