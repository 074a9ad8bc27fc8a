//! [`Encoder`]: rows as CSV, JSON or NDJSON, page by page. Pure. Every text passes `fleet_core::text`.

use fleet_core::text;
use serde_json::Value;

/// The format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Format {
    /// RFC 4180 with a header, UTF-8.
    Csv,
    /// One array.
    Json,
    /// One object per line.
    Ndjson,
}

impl Format {
    /// The format of a file's ending.
    pub(in crate::http) fn of(ending: &str) -> Option<Self> {
        match ending {
            "csv" => Some(Self::Csv),
            "json" => Some(Self::Json),
            "ndjson" => Some(Self::Ndjson),
            _ => None,
        }
    }

    pub(in crate::http) fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// Encodes the rows of one export. Call [`Encoder::rows`] for each page and [`Encoder::end`] once.
#[derive(Debug)]
pub(super) struct Encoder {
    format: Format,
    columns: &'static [&'static str],
    is_started: bool,
}

impl Encoder {
    /// `columns` are those of a CSV file.
    pub(super) fn new(format: Format, columns: &'static [&'static str]) -> Self {
        Self {
            format,
            columns,
            is_started: false,
        }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Encodes a page.
    pub(super) fn rows(&mut self, page: &[Value]) -> Vec<u8> {
        match self.format {
            Format::Csv => self.records(page),
            Format::Ndjson => page
                .iter()
                .flat_map(|row| format!("{}\n", object(row)).into_bytes())
                .collect(),
            Format::Json => {
                let mut out = Vec::new();
                for row in page {
                    let before = if self.is_started { ",\n" } else { "[\n" };
                    self.is_started = true;
                    out.extend_from_slice(before.as_bytes());
                    out.extend_from_slice(object(row).as_bytes());
                }
                out
            }
        }
    }

    /// Encodes the end.
    pub(super) fn end(&self) -> &'static [u8] {
        match (self.format, self.is_started) {
            (Format::Json, true) => b"\n]\n",
            (Format::Json, false) => b"[]\n",
            (Format::Csv | Format::Ndjson, _) => b"",
        }
    }

    fn records(&mut self, page: &[Value]) -> Vec<u8> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        if !self.is_started {
            self.is_started = true;
            // Writing to memory does not fail.
            let _ = writer.write_record(self.columns);
        }
        for row in page {
            let cells = self.columns.iter().map(|column| cell(row, column));
            let _ = writer.write_record(cells);
        }
        writer.into_inner().unwrap_or_default()
    }
}

/// The JSON of a row. Unsafe characters occur only within its strings, where a mark is as valid as they are.
fn object(row: &Value) -> String {
    text::visible(&row.to_string()).into_owned()
}

/// The cell of a column, which is a path of names in the JSON of the row. It is empty where the JSON has no value, and
/// joins the values of a list. A path through a list takes the value of each of its objects, each once.
pub(super) fn cell(row: &Value, column: &str) -> String {
    if let Some((list, rest)) = column.split_once('.')
        && let Some(Value::Array(parts)) = row.get(list)
    {
        let mut cells: Vec<String> = Vec::new();
        for cell in parts.iter().map(|part| cell(part, rest)) {
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
        return text::cell(&cells.join("; ")).into_owned();
    }
    let value = column
        .split('.')
        .try_fold(row, |value, name| value.get(name));
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text::cell(text).into_owned(),
        Some(Value::Array(values)) => {
            let plain = |value: &Value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            };
            let values: Vec<String> = values.iter().map(plain).collect();
            text::cell(&values.join("; ")).into_owned()
        }
        Some(other) => text::cell(&other.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encoded(format: Format, pages: &[&[Value]]) -> String {
        let mut encoder = Encoder::new(format, &["id", "model", "ledger.silent"]);
        let mut out = Vec::new();
        for page in pages {
            out.extend(encoder.rows(page));
        }
        out.extend_from_slice(encoder.end());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn pages_form_one_document_in_each_format() {
        let rows = [
            json!({"id": 1, "model": "S19, \"Pro\"", "ledger": {"silent": "4"}}),
            json!({"id": 2}),
        ];
        let pages: &[&[Value]] = &[&rows[..1], &rows[1..]];
        assert_eq!(
            encoded(Format::Csv, pages),
            "id,model,ledger.silent\n1,\"S19, \"\"Pro\"\"\",4\n2,,\n"
        );
        for format in [Format::Json, Format::Ndjson] {
            let text = encoded(format, pages);
            let read: Vec<Value> = match format {
                Format::Json => serde_json::from_str(&text).expect("a document"),
                Format::Csv | Format::Ndjson => text
                    .lines()
                    .map(|line| serde_json::from_str(line).expect("a line"))
                    .collect(),
            };
            assert_eq!(read, rows, "{text}");
        }
    }

    #[test]
    fn a_list_is_one_cell() {
        let row = json!({"id": [80, 443], "model": ["GET /", "=x"]});
        assert_eq!(
            encoded(Format::Csv, &[&[row]]),
            "id,model,ledger.silent\n80; 443,GET /; =x,\n"
        );
    }

    #[test]
    fn a_column_of_a_list_of_objects_has_each_value_once() {
        let row = json!({"shares": [
            {"node": "=a", "site": "north"}, {"node": "b", "site": "north"}, {"site": ""},
        ]});
        assert_eq!(cell(&row, "shares.node"), "'=a; b; ");
        assert_eq!(cell(&row, "shares.site"), "north; ");
    }

    #[test]
    fn an_export_without_rows_is_a_valid_document() {
        assert_eq!(encoded(Format::Csv, &[&[]]), "id,model,ledger.silent\n");
        assert_eq!(encoded(Format::Json, &[&[]]), "[]\n");
        assert_eq!(encoded(Format::Ndjson, &[&[]]), "");
    }

    #[test]
    fn formulas_and_characters_that_hide_text_are_disarmed() {
        let row =
            json!({"id": "=HYPERLINK(\"x\")", "model": "a\u{202e}b\nc", "ledger": {"silent": -1}});
        assert_eq!(
            encoded(Format::Csv, &[std::slice::from_ref(&row)]),
            "id,model,ledger.silent\n\"'=HYPERLINK(\"\"x\"\")\",a\u{fffd}b\u{fffd}c,'-1\n"
        );
        let lines = encoded(Format::Ndjson, &[&[row]]);
        assert_eq!(lines.lines().count(), 1);
        assert!(lines.contains("a\u{fffd}b\\nc"), "{lines}");
    }
}
