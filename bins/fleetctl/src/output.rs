//! Output: tables for people, JSON and CSV for programs. Read [`Rows`] first.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::cli::Format;

/// A type that is printed as rows. Its JSON form is its serialization.
pub(crate) trait Rows {
    /// The column titles.
    const HEAD: &'static [&'static str];

    /// The cells of this row, one per column.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list.
pub(crate) fn rows<R: Rows + Serialize>(format: Format, rows: &[R]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Table => {
            let mut table = table();
            table.set_header(R::HEAD);
            for row in rows {
                table.add_row(row.cells().into_iter().map(|cell| plain(&cell)));
            }
            writeln!(out, "{table}")
        }
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, rows)?;
            writeln!(out)
        }
        Format::Ndjson => rows.iter().try_for_each(|row| {
            serde_json::to_writer(&mut out, row)?;
            writeln!(out)
        }),
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(
                R::HEAD
                    .iter()
                    .map(|head| head.to_lowercase().replace(' ', "_")),
            )?;
            for row in rows {
                csv.write_record(row.cells().iter().map(|cell| inert(cell)))?;
            }
            csv.flush()
        }
    }
}

/// Prints one item. A table shows one field per line.
pub(crate) fn one<R: Rows + Serialize>(format: Format, row: &R) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Table => {
            let mut table = table();
            for (head, cell) in R::HEAD.iter().zip(row.cells()) {
                if !cell.is_empty() {
                    table.add_row([(*head).to_owned(), plain(&cell)]);
                }
            }
            writeln!(out, "{table}")
        }
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, row)?;
            writeln!(out)
        }
        Format::Ndjson => {
            serde_json::to_writer(&mut out, row)?;
            writeln!(out)
        }
        Format::Csv => rows(format, std::slice::from_ref(row)),
    }
}

/// Creates a table without borders that is at most as wide as the terminal.
pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Replaces control characters: devices and nodes choose these texts, and an escape sequence could move the cursor.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Quotes a cell that a spreadsheet would run as a formula: devices choose these texts.
pub(crate) fn inert(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula {
        format!("'{cell}")
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_devices_contain_no_formulas_and_no_control_characters() {
        assert_eq!(inert("=HYPERLINK(\"x\")"), "'=HYPERLINK(\"x\")");
        assert_eq!(inert("S19 Pro"), "S19 Pro");
        assert_eq!(plain("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
