//! Watching a scan: rows and a progress bar for people, lines for programs. After a lost connection, the watch
//! resumes after the last event. Ending the watch does not cancel the scan.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use fleet_core::Backoff;
use fleet_wire::{
    Code, RpcError,
    fleet::{
        DeviceFound, HostFound, ScanEnded, ScanOwnNetworkRequest, ScanProgress, WatchScanRequest,
        WatchScanResponse, watch_scan_response::Event,
    },
    lines,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    cli::Format,
    failure::{self, Failure},
    output, scans,
    server::Server,
    times,
};

/// Time without a server after which a watch gives up.
const OUTAGE_LIMIT: Duration = Duration::from_secs(600);

/// Watches until the scan ends and returns the exit status.
pub(crate) async fn run(
    server: &Server,
    format: Format,
    scan: &str,
    after: i64,
) -> Result<u8, Failure> {
    let mut screen = Screen::new(format)?;
    let mut cursor = after;
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    let mut lost: Option<Instant> = None;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut wait = Duration::ZERO;
    loop {
        let watched = tokio::select! {
            watched = async {
                tokio::time::sleep(wait).await;
                follow(server, scan, &mut cursor, &mut screen, &mut lost).await
            } => watched,
            _ = &mut interrupted => {
                screen.close()?;
                writeln!(io::stderr(), "the scan continues; to watch it again: fleetctl scan watch {scan} --after {cursor}")?;
                return Ok(130);
            }
        };
        let error = match watched {
            Ok(Some(ended)) => return screen.end(&ended).map_err(Failure::from),
            // The cursor is past the last event.
            Ok(None) => {
                screen.close()?;
                return Ok(0);
            }
            Err(Failure::Call(error)) if error.code == Code::Unavailable => error,
            Err(other) => return Err(other),
        };
        // A message since the last outage ended that outage.
        if lost.is_none() {
            backoff.reset();
        }
        let since = *lost.get_or_insert_with(Instant::now);
        // A server that was never reached is an error, and not an outage to wait for.
        if since.elapsed() > OUTAGE_LIMIT || after == cursor && !screen.has_events {
            return Err(error.into());
        }
        screen.note(&format!(
            "connection lost ({}); resuming after event {cursor}",
            error.message
        ))?;
        wait = backoff.next_delay(random());
    }
}

/// Scans networks of the server and watches the scan, which ends with this stream.
pub(crate) async fn own_network(
    server: &Server,
    format: Format,
    request: &ScanOwnNetworkRequest,
) -> Result<u8, Failure> {
    let mut screen = Screen::new(format)?;
    let following = async {
        let mut messages = server
            .direct
            .scan_own_network(request, server.call()?)
            .await?;
        while let Some(message) = messages.message().await? {
            screen.show(&message)?;
            if let Some(Event::Ended(ended)) = message.event {
                return Ok(ended);
            }
        }
        let cut_off = "the server closed the stream before the scan ended; its devices so far are in the inventory";
        Err(RpcError::unavailable(cut_off).into())
    };
    let followed: Option<Result<ScanEnded, Failure>> = tokio::select! {
        followed = following => Some(followed),
        _ = tokio::signal::ctrl_c() => None,
    };
    let Some(followed) = followed else {
        screen.close()?;
        writeln!(
            io::stderr(),
            "the scan has ended; its devices so far are in the inventory"
        )?;
        return Ok(130);
    };
    match followed {
        Ok(ended) => Ok(screen.end(&ended)?),
        Err(failure) => {
            screen.close()?;
            Err(failure)
        }
    }
}

/// Follows one stream. Returns the end of the scan, or `None` if there were no more events.
async fn follow(
    server: &Server,
    scan: &str,
    cursor: &mut i64,
    screen: &mut Screen,
    lost: &mut Option<Instant>,
) -> Result<Option<ScanEnded>, Failure> {
    let request = WatchScanRequest {
        scan_id: scan.to_owned(),
        after_sequence: *cursor,
    };
    let mut messages = server.scans.watch_scan(&request, server.call()?).await?;
    while let Some(message) = messages.message().await? {
        *lost = None;
        if message.sequence > 0 {
            *cursor = message.sequence;
        }
        screen.show(&message)?;
        if let Some(Event::Ended(ended)) = message.event {
            return Ok(Some(ended));
        }
    }
    Ok(None)
}

fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    // Without randomness, the delay is the shortest one.
    getrandom::fill(&mut bytes).map_or(0, |()| u64::from_be_bytes(bytes))
}

/// Prints the events of a watch.
struct Screen {
    format: Format,
    bar: ProgressBar,
    csv: Option<csv::Writer<io::Stdout>>,
    has_events: bool,
    events: Vec<WatchScanResponse>,
}

impl Screen {
    fn new(format: Format) -> Result<Self, Failure> {
        let interactive = format.is_table() && io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            Some(0),
            if interactive {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            },
        );
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} targets  {msg}") {
            bar.set_style(style);
        }
        let csv = match format {
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(io::stdout());
                csv.write_record(DEVICE_HEAD).map_err(io::Error::from)?;
                Some(csv)
            }
            Format::Table | Format::Wide | Format::Json | Format::Ndjson => None,
        };
        Ok(Self {
            format,
            bar,
            csv,
            has_events: false,
            events: Vec::new(),
        })
    }

    fn show(&mut self, message: &WatchScanResponse) -> io::Result<()> {
        self.has_events = true;
        match (self.format, &message.event) {
            (_, None) => Ok(()),
            (Format::Ndjson, Some(_)) => output::line(&mut io::stdout(), message),
            // Progress is a state and not an event. Only the last one would be worth keeping, and the summary has it.
            (Format::Json, Some(event)) => {
                if !matches!(event, Event::Progress(_)) {
                    self.events.push(message.clone());
                }
                Ok(())
            }
            (Format::Csv, Some(Event::Device(found))) => match &mut self.csv {
                Some(csv) => {
                    csv.write_record(device_cells(found).iter().map(|cell| output::inert(cell)))?;
                    csv.flush()
                }
                None => Ok(()),
            },
            (Format::Table | Format::Wide, Some(Event::Device(found))) => self.row(found),
            (Format::Table | Format::Wide, Some(Event::Host(found))) => self.host(found),
            // The CSV has one kind of row. `scan hosts` exports hosts.
            (Format::Csv, Some(Event::Host(_))) => Ok(()),
            (_, Some(Event::Progress(progress))) => {
                self.progress(progress);
                Ok(())
            }
            (_, Some(Event::Warning(warning))) => {
                self.note(&format!("warning: {}", output::plain(&warning.text)))
            }
            (Format::Csv | Format::Table | Format::Wide, Some(Event::Ended(_))) => Ok(()),
        }
    }

    fn row(&self, found: &DeviceFound) -> io::Result<()> {
        let name = named(&found.host_name, &found.host_name_source);
        let what = [&found.manufacturer, &found.model, &found.firmware, &name]
            .map(|text| output::plain(text));
        let line = format!(
            "{:<21} {:<28} {:<9} {}",
            format!("{}:{}", found.ip, found.port),
            output::plain(&found.identifier),
            output::plain(&found.driver),
            what.join(" ")
        );
        let mut written = Ok(());
        self.bar
            .suspend(|| written = writeln!(io::stdout(), "{}", line.trim_end()));
        written
    }

    fn host(&self, found: &HostFound) -> io::Result<()> {
        let Some(host) = &found.host else {
            return Ok(());
        };
        let name = named(&host.host_name, &host.host_name_source);
        let about = [&host.vendor, &name, &host.reply].map(|text| output::plain(text));
        let about: Vec<_> = about
            .iter()
            .filter(|text| !text.is_empty())
            .cloned()
            .collect();
        let ports: Vec<String> = host.open_ports.iter().map(ToString::to_string).collect();
        self.note(&format!(
            "unidentified host {}, open ports {}{}{}",
            host.ip,
            ports.join(","),
            if about.is_empty() { "" } else { ": " },
            about.join(", ")
        ))
    }

    fn progress(&self, progress: &ScanProgress) {
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
        self.bar.set_message(format!(
            "{} {}",
            output::plain(&progress.phase),
            times::duration(progress.elapsed_ms)
        ));
    }

    fn note(&self, text: &str) -> io::Result<()> {
        let mut written = Ok(());
        self.bar
            .suspend(|| written = writeln!(io::stderr(), "{text}"));
        written
    }

    /// Ends the output. JSON is printed here, because it is one document.
    fn close(&self) -> io::Result<()> {
        self.bar.finish_and_clear();
        if self.format == Format::Json {
            output::document(&mut io::stdout(), &self.events)?;
        }
        Ok(())
    }

    /// Prints the outcome and the scan summary. Returns the exit status.
    fn end(&self, ended: &ScanEnded) -> io::Result<u8> {
        self.close()?;
        if self.format.is_table() {
            let mut out = io::stdout();
            let reason = if ended.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", output::plain(&ended.reason))
            };
            writeln!(out, "{}{reason}", lines::outcome(ended.state()))?;
            if let Some(ledger) = &ended.ledger {
                scans::ledger(&mut out, ledger)?;
            }
        }
        Ok(failure::of_scan(ended.state(), &ended.code))
    }
}

/// The name of a host with its source, as `miner-7.lan (dns)`.
fn named(name: &str, source: &str) -> String {
    match source {
        "" => name.to_owned(),
        source => format!("{name} ({source})"),
    }
}

const DEVICE_HEAD: [&str; 11] = [
    "elapsed_ms",
    "identifier",
    "ip",
    "port",
    "driver",
    "manufacturer",
    "model",
    "firmware",
    "device_id",
    "host_name",
    "host_name_source",
];

fn device_cells(found: &DeviceFound) -> [String; 11] {
    [
        found.elapsed_ms.to_string(),
        found.identifier.clone(),
        found.ip.clone(),
        found.port.to_string(),
        found.driver.clone(),
        found.manufacturer.clone(),
        found.model.clone(),
        found.firmware.clone(),
        found.device_id.to_string(),
        found.host_name.clone(),
        found.host_name_source.clone(),
    ]
}
