//! The secrets of a run in every encoding that a log line could contain, and the places to search.

use std::{fs, path::Path};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};

use super::keeps_secrets;

/// Minimum length of a search pattern. Shorter ones would match by chance.
const SHORTEST: usize = 12;

/// The secrets of a run.
#[derive(Debug, Default)]
pub(super) struct Canaries(Vec<Canary>);

#[derive(Debug)]
struct Canary {
    name: String,
    /// The encodings of one secret.
    forms: Vec<Vec<u8>>,
}

impl Canaries {
    /// Adds a secret text, such as a password.
    pub(super) fn text(&mut self, name: &str, secret: &str) {
        self.raw(name, secret.as_bytes());
    }

    /// Adds a secret key in hexadecimal.
    pub(super) fn hex(&mut self, name: &str, secret: &str) {
        let bytes: Vec<u8> = (0..secret.len() / 2)
            .map(|at| u8::from_str_radix(&secret[2 * at..2 * at + 2], 16).expect("a hex digit"))
            .collect();
        self.raw(name, &bytes);
    }

    /// Adds secret bytes, such as a key or a signature.
    pub(super) fn raw(&mut self, name: &str, secret: &[u8]) {
        assert!(
            secret.len() >= SHORTEST,
            "{name} is too short to be looked for"
        );
        // The middle part is still found if a log line truncates the secret or encodes it with adjacent bytes.
        let body = &secret[secret.len() / 4..];
        let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
        let decimals: Vec<_> = body.iter().map(ToString::to_string).collect();
        let mut forms = vec![
            body.to_vec(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            decimals.join(", ").into_bytes(),
            body.escape_ascii().to_string().into_bytes(),
        ];
        // Base64 of the same bytes at each of three offsets. The ends depend on the adjacent bytes.
        for skipped in 0..3 {
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let whole = engine.encode(&body[skipped..]);
                forms.push(whole.as_bytes()[..whole.len() - 4].to_vec());
            }
        }
        forms.sort();
        forms.dedup();
        self.0.push(Canary {
            name: name.to_owned(),
            forms,
        });
    }

    /// Returns the secrets found in these bytes, with their context.
    pub(super) fn found_in(&self, place: &str, bytes: &[u8]) -> Vec<String> {
        let canaries = self.0.iter().filter_map(|canary| {
            let at = canary.forms.iter().find_map(|form| find(bytes, form))?;
            let around = &bytes[at.saturating_sub(120)..bytes.len().min(at + 20)];
            let around = String::from_utf8_lossy(around);
            Some(format!("{} is in {place}: ..{around}..", canary.name))
        });
        canaries.collect()
    }

    /// Asserts that a search finds every secret in every encoding. Otherwise an empty result would prove nothing.
    pub(super) fn would_be_found(&self) {
        for canary in &self.0 {
            for form in &canary.forms {
                let line = [b"key=".as_slice(), form, b" and more"].concat();
                assert_ne!(
                    self.found_in("a line", &line),
                    Vec::<String>::new(),
                    "{}",
                    canary.name
                );
            }
        }
    }
}

fn find(bytes: &[u8], form: &[u8]) -> Option<usize> {
    // Compare the first byte first: comparing every window takes minutes for a TRACE log.
    let (first, rest) = form.split_first()?;
    let mut from = 0;
    loop {
        let at = from + bytes[from..].iter().position(|byte| byte == first)?;
        if bytes[at + 1..].starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// Returns every file in the directory that must not contain a secret: logs and the database with its journal.
pub(super) fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder lists") {
        let path = entry.expect("the folder lists").path();
        if keeps_secrets(&path) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).expect("a file of ours");
            found.push((path.display().to_string(), bytes));
        }
    }
    found
}

/// Returns every table of the database as JSON or text, one row per line.
pub(super) async fn tables(url: &str) -> Vec<(String, Vec<u8>)> {
    let database = Database::connect(url).await.expect("connects");
    let backend = database.get_database_backend();
    let names = if backend == DbBackend::Postgres {
        "SELECT table_name::text AS name FROM information_schema.tables WHERE table_schema = CURRENT_SCHEMA()"
    } else {
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    };
    let names = Statement::from_string(backend, names);
    let mut found = Vec::new();
    for row in database.query_all_raw(names).await.expect("lists") {
        let name: String = row.try_get("", "name").expect("a name");
        let mut bytes = Vec::new();
        let rows = if backend == DbBackend::Postgres {
            // Bytes are printed as hexadecimal, which is one of the encodings.
            vec![format!(
                "SELECT row_to_json(t)::text AS cell FROM \"{name}\" t"
            )]
        } else {
            columns(&database, &name).await.iter().map(|column| format!(
                "SELECT hex(CAST(\"{column}\" AS BLOB)) AS cell FROM \"{name}\" WHERE \"{column}\" IS NOT NULL"
            )).collect()
        };
        for sql in rows {
            let sql = Statement::from_string(backend, sql);
            for row in database.query_all_raw(sql).await.expect("reads") {
                let cell: String = row.try_get("", "cell").expect("a text");
                bytes.extend(cell.into_bytes());
                bytes.push(b'\n');
            }
        }
        found.push((format!("table {name}"), bytes));
    }
    database.close().await.expect("closes");
    found
}

/// Returns the columns of a SQLite table.
async fn columns(database: &DatabaseConnection, table: &str) -> Vec<String> {
    let sql = format!("SELECT name FROM pragma_table_info('{table}')");
    let sql = Statement::from_string(DbBackend::Sqlite, sql);
    let rows = database.query_all_raw(sql).await.expect("lists");
    rows.iter()
        .map(|row| row.try_get("", "name").expect("a name"))
        .collect()
}
