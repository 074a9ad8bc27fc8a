//! `fleetctl devices pair`, `pair-all` and `cancel-pairing`. Credentials come from a file, standard input or the
//! environment, never from an argument, because other users can read arguments.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use fleet_wire::{
    admin::DevicePairingResult,
    fleet::{CancelPairingRequest, Device, DevicePairing, GetPairingRequest, StartPairingRequest},
    fleetmanagement::PairingStatus,
    pairing::Credentials,
};

use crate::{
    cli::{Format, Login, PairOn},
    devices,
    failure::{self, Failure},
    nodes,
    output::{self, Rows},
    server::Server,
};

/// Variable that holds the password if no file is given.
const PASSWORD_VARIABLE: &str = "FLEET_DEVICE_PASSWORD";
/// Maximum size of a password file in bytes.
const PASSWORD_MOST: u64 = 4_096;
/// Interval between two polls of a running pairing.
const POLL: Duration = Duration::from_millis(300);

/// Starts a pairing and prints its results as they arrive.
pub(crate) async fn run(
    server: &Server,
    format: Format,
    names: &[String],
    all: bool,
    how: &PairOn,
) -> Result<u8, Failure> {
    let request = StartPairingRequest {
        fleet_node_id: nodes::resolve(server, &how.node).await?,
        device_identifiers: identifiers(server, names).await?,
        all_unpaired: all,
        credentials: credentials(&how.login)?,
    };
    let started = server
        .pairing
        .start_pairing(&request, server.call()?)
        .await?;
    let mut screen = Screen::new(format)?;
    screen.show(started.refused)?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    tokio::select! {
        ended = follow(server, &started.pairing_id, &mut screen) => screen.end(&ended?),
        _ = &mut interrupted => {
            writeln!(
                io::stderr(),
                "the pairing continues; to cancel it: fleetctl devices cancel-pairing {}",
                started.pairing_id
            )?;
            Ok(130)
        }
    }
}

/// Cancels a pairing.
pub(crate) async fn cancel(server: &Server, pairing: String) -> Result<u8, Failure> {
    let request = CancelPairingRequest {
        pairing_id: pairing,
    };
    server
        .pairing
        .cancel_pairing(&request, server.call()?)
        .await?;
    Ok(0)
}

async fn follow(
    server: &Server,
    pairing: &str,
    screen: &mut Screen,
) -> Result<DevicePairing, Failure> {
    let mut after = 0;
    loop {
        let request = GetPairingRequest {
            pairing_id: pairing.to_owned(),
            after,
        };
        let page = server.pairing.get_pairing(&request, server.call()?).await?;
        let results = page.results.len();
        screen.show(page.results)?;
        after = page.next_cursor;
        match page.pairing {
            // A pairing that has ended can still have results on further pages.
            Some(pairing) if pairing.ended && results == 0 => return Ok(pairing),
            Some(_) | None => {}
        }
        if results == 0 {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Resolves ids and identifiers of devices to identifiers.
async fn identifiers(server: &Server, names: &[String]) -> Result<Vec<String>, Failure> {
    if names.iter().all(|name| name.parse::<i64>().is_err()) {
        return Ok(names.to_vec());
    }
    let known = devices::all(server, 0).await?;
    let identifier = |name: &String| match name.parse::<i64>() {
        Err(_) => Ok(name.clone()),
        Ok(id) => known
            .iter()
            .find(|device: &&Device| device.device_id == id)
            .map(|device| device.identifier.clone())
            .ok_or_else(|| {
                Failure::Usage(format!(
                    "no device {id} in this organization: `fleetctl devices list` shows them"
                ))
            }),
    };
    names.iter().map(identifier).collect()
}

/// Returns the credentials to try. `None` only finds out which devices need a password.
pub(crate) fn credentials(login: &Login) -> Result<Option<Credentials>, Failure> {
    let password = password(login.password_file.as_deref())?;
    let given = password.is_some() || login.username.is_some() || login.try_defaults;
    Ok(given.then(|| Credentials {
        username: login.username.clone().unwrap_or_else(|| "root".to_owned()),
        password,
        try_defaults: login.try_defaults,
    }))
}

/// Reads the password without its line ending.
fn password(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let text = match file {
        None => match std::env::var(PASSWORD_VARIABLE) {
            Ok(text) => text,
            Err(_) => return Ok(None),
        },
        Some(path) if path.as_os_str() == "-" => read(io::stdin(), "standard input")?,
        Some(path) => {
            let shown = path.display().to_string();
            let file = std::fs::File::open(path)
                .map_err(|error| Failure::Usage(format!("cannot read {shown}: {error}")))?;
            read(file, &shown)?
        }
    };
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn read(from: impl Read, shown: &str) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(PASSWORD_MOST)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("cannot read {shown}: {error}")))?;
    Ok(text)
}

impl Rows for DevicePairingResult {
    const HEAD: &'static [&'static str] = &["Device", "Status", "Error"];
    const WHOLE: &'static [&'static str] = &["Device"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.device_identifier.clone(),
            status(self).to_owned(),
            self.error.clone(),
        ]
    }
}

/// Prints results as lines when they arrive, or as one JSON document at the end.
struct Screen {
    format: Format,
    rows: Vec<DevicePairingResult>,
    csv: Option<csv::Writer<io::Stdout>>,
}

impl Screen {
    fn new(format: Format) -> Result<Self, Failure> {
        let csv = match format {
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(io::stdout());
                csv.write_record(output::head_of::<DevicePairingResult>())
                    .map_err(io::Error::from)?;
                Some(csv)
            }
            Format::Table | Format::Wide | Format::Json | Format::Ndjson => None,
        };
        Ok(Self {
            format,
            rows: Vec::new(),
            csv,
        })
    }

    fn show(&mut self, results: Vec<DevicePairingResult>) -> Result<(), Failure> {
        for row in results {
            match (self.format, &mut self.csv) {
                (Format::Csv, Some(csv)) => {
                    csv.write_record(row.cells().iter().map(|cell| output::inert(cell)))
                        .map_err(io::Error::from)?;
                    csv.flush()?;
                }
                (Format::Ndjson, _) => output::line(&mut io::stdout(), &row)?,
                (Format::Table | Format::Wide, _) => writeln!(
                    io::stdout(),
                    "{:<28} {}",
                    output::plain(&row.device_identifier),
                    outcome(&row)
                )?,
                (Format::Json | Format::Csv, _) => {}
            }
            self.rows.push(row);
        }
        Ok(())
    }

    /// Prints the totals by reason and returns the exit status.
    fn end(self, ended: &DevicePairing) -> Result<u8, Failure> {
        if self.format == Format::Json {
            output::rows(Format::Json, &self.rows)?;
        }
        let mut out = io::stderr();
        for (outcome, count) in totals(&self.rows) {
            writeln!(out, "{count:>7} {outcome}")?;
        }
        let paired = self.rows.iter().filter(|row| is_paired(row)).count();
        let all = self.rows.len();
        writeln!(out, "{paired} of {all} devices paired")?;
        if ended.code != "ok" {
            writeln!(out, "fleetctl: {}", output::plain(&ended.reason))?;
            return Ok(failure::of_code_named(&ended.code));
        }
        Ok(match (paired, all) {
            (paired, all) if paired == all => 0,
            (0, _) => 1,
            _ => 2,
        })
    }
}

fn is_paired(row: &DevicePairingResult) -> bool {
    matches!(
        row.pairing_status(),
        PairingStatus::Paired | PairingStatus::DefaultPassword
    )
}

/// Describes a result without its device.
fn outcome(row: &DevicePairingResult) -> String {
    let status = word(status(row));
    if row.error.is_empty() {
        status
    } else {
        format!("{status}: {}", output::plain(&row.error))
    }
}

/// A status of the API in words for people.
pub(crate) fn word(status: &str) -> String {
    match status {
        "AUTHENTICATION_NEEDED" => "password needed".to_owned(),
        other => other.to_lowercase().replace('_', " "),
    }
}

/// Counts results by outcome, the most frequent first.
fn totals(rows: &[DevicePairingResult]) -> Vec<(String, usize)> {
    let mut counts = BTreeMap::<String, usize>::new();
    for row in rows {
        *counts.entry(outcome(row)).or_default() += 1;
    }
    let mut totals: Vec<_> = counts.into_iter().collect();
    totals.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    totals
}

/// The status of a result, where a device without a login has one of its own.
fn status(row: &DevicePairingResult) -> &'static str {
    if row.open {
        "OPEN"
    } else {
        name(row.pairing_status())
    }
}

fn name(status: PairingStatus) -> &'static str {
    let name = status.as_str_name();
    name.strip_prefix("PAIRING_STATUS_").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_by_reason_with_the_most_frequent_first() {
        let result = |status: PairingStatus, error: &str| DevicePairingResult {
            pairing_status: status.into(),
            error: error.to_owned(),
            ..DevicePairingResult::default()
        };
        let rows = [
            result(PairingStatus::Paired, ""),
            result(PairingStatus::Failed, "the device was too slow"),
            result(PairingStatus::Failed, "the device was too slow"),
            result(PairingStatus::AuthenticationNeeded, ""),
            DevicePairingResult {
                open: true,
                ..result(PairingStatus::Paired, "")
            },
        ];
        let expected = [
            ("failed: the device was too slow", 2),
            ("open", 1),
            ("paired", 1),
            ("password needed", 1),
        ];
        assert_eq!(
            totals(&rows),
            expected.map(|(outcome, count)| (outcome.to_owned(), count))
        );
    }
}
