//! `fleetnode scan`: a scan without a server. Prints a table and a progress bar, or events as JSON lines. Start with [`run`].

use std::{
    fs::File,
    io::{self, IsTerminal, Read, Write},
    path::Path,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use fleet_agent::{AgentOptions, LocalScan, LocalScanError, LocalSummary};
use fleet_core::{HostReport, NamedBy, NodeId, Port, TargetOutcome};
use fleet_discovery::{IP_REPORTS, TARGET_FILE, expand_targets};
use fleet_plugin::PluginHost;
use fleet_scan::{DriverSet, FoundDevice, Interruption, ScanEvent};
use fleet_wire::{
    fleet::{
        DeviceFound, HostFound, Ledger, ReasonCount, ScanEnded, ScanHost, ScanProgress, ScanState,
        ScanWarning, WatchScanResponse, watch_scan_response::Event,
    },
    lines,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Format, ScanArgs},
    exit::{self, Usage},
    halt::{self, Halted},
    options,
    plugins::{self, PluginFlags},
    run::{PLUGIN_WAIT, Signals, raise_descriptor_limit},
};

/// Scans and prints the results.
pub(crate) async fn run(state_dir: &Path, args: ScanArgs) -> anyhow::Result<ExitCode> {
    if let Some(reason) = halt::reason(state_dir) {
        return Err(Halted(reason).into());
    }
    let flags = PluginFlags::of(&args.engine);
    let what = Request {
        targets: expand_targets(args.targets, read_targets).map_err(Usage::new)?,
        mdns: if args.announcements {
            Some(IP_REPORTS.to_owned())
        } else {
            args.mdns
        },
        listen: args.listen.unwrap_or(0),
        ports: args.ports,
    };
    let mut options = options::agent(args.site, args.engine)?;
    raise_descriptor_limit();
    let mut signals = Signals::new().context("cannot install signal handlers")?;
    let plugins = plugins::start(flags, false, state_dir);
    if let Some(plugins) = &plugins {
        plugins.wait_started(PLUGIN_WAIT).await;
        options.drivers = Arc::new(DriverSet::clone(&options.drivers).with(plugins.drivers())?);
    }
    let halted = halt::watch(state_dir);
    let done = scan(&what, &options, args.output, &mut signals, halted).await;
    if let Some(plugins) = plugins {
        PluginHost::stop(plugins).await;
    }
    done
}

/// Reads the targets of a file, or of standard input for `-`, up to the bound and one byte more.
fn read_targets(path: &str) -> io::Result<String> {
    let mut text = String::new();
    match path {
        "-" => io::stdin()
            .lock()
            .take(TARGET_FILE + 1)
            .read_to_string(&mut text),
        path => File::open(path)?
            .take(TARGET_FILE + 1)
            .read_to_string(&mut text),
    }?;
    Ok(text)
}

/// The targets and ports of the scan.
struct Request {
    targets: Vec<String>,
    /// The mDNS service or the word for IP reports, instead of targets.
    mdns: Option<String>,
    listen: i32,
    ports: Vec<String>,
}

impl Request {
    fn plan(&self, options: &AgentOptions) -> Result<LocalScan, LocalScanError> {
        match &self.mdns {
            Some(service) => LocalScan::listen(service, self.listen, &self.ports, options),
            None => LocalScan::plan(&self.targets, &self.ports, options),
        }
    }
}

async fn scan(
    what: &Request,
    options: &AgentOptions,
    output: Format,
    signals: &mut Signals,
    mut halted: watch::Receiver<Option<String>>,
) -> anyhow::Result<ExitCode> {
    let scan = what.plan(options).map_err(usage_error)?;
    let skipped: Vec<ReasonCount> = scan
        .skipped()
        .iter()
        .map(|tally| ReasonCount {
            reason: tally.reason.clone(),
            count: tally.count,
            example: tally.example.clone(),
        })
        .collect();
    let mut screen = Screen::new(output, scan.targets() as u64)?;
    for note in scan.notes() {
        screen.warning(note.clone())?;
    }
    let cancel = CancellationToken::new();
    let mut starting = pin!(scan.start(cancel.clone()));
    let mut running = loop {
        tokio::select! {
            running = &mut starting => break running?,
            _ = signals.next() => cancel.cancel(),
            Ok(()) = halted.changed() => cancel.cancel(),
        }
    };
    let summary = loop {
        tokio::select! {
            event = running.scan.next() => {
                let event = event.context("the scan crashed")?;
                if let ScanEvent::Ended(summary) = event {
                    break running.summarize(summary);
                }
                screen.show(event)?;
            }
            _ = signals.next() => running.scan.cancel(),
            Ok(()) = halted.changed() => running.scan.cancel(),
        }
    };
    let code = exit_code(&summary);
    screen.end(&summary, skipped)?;
    let halt = halted.borrow().clone();
    halt.map_or(Ok(code), |reason| Err(Halted(reason).into()))
}

/// Maps an invalid target or port to a usage error.
fn usage_error(error: LocalScanError) -> anyhow::Error {
    match error {
        LocalScanError::Scan(error) => error.into(),
        error @ (LocalScanError::Target(_)
        | LocalScanError::Ports(_)
        | LocalScanError::Listening(_)
        | LocalScanError::Plan(_)
        | LocalScanError::Site(_)
        | LocalScanError::NoLocalSubnet
        | LocalScanError::TooMany(_)) => Usage::new(error.to_string()).into(),
    }
}

fn exit_code(summary: &LocalSummary) -> ExitCode {
    match summary.scan.interrupted {
        Some(Interruption::Canceled) => exit::CANCELED.into(),
        Some(Interruption::BudgetSpent) => exit::PARTIAL.into(),
        None if is_complete(summary) => ExitCode::SUCCESS,
        None => exit::PARTIAL.into(),
    }
}

fn is_complete(summary: &LocalSummary) -> bool {
    summary.scan.is_complete() && summary.names.iter().all(|name| name.addresses.is_ok())
}

/// Why a scan is not complete, as phrases.
fn gaps(summary: &LocalSummary) -> Vec<String> {
    let interrupted = summary.scan.interrupted.map(|why| why.to_string());
    let not_reached = summary.scan.count(TargetOutcome::NotReached);
    let not_reached = (not_reached > 0).then(|| {
        let targets = summary.targets.len();
        format!("{not_reached} of {targets} targets were not reached")
    });
    let names = summary.names.iter().filter(|name| name.addresses.is_err());
    let names = match names.count() {
        0 => None,
        count => Some(format!("{count} names were skipped")),
    };
    let first = [interrupted, not_reached, names].into_iter().flatten();
    first.chain(summary.scan.gaps.reasons()).collect()
}

/// The output of the scan.
struct Screen {
    output: Format,
    /// The events for the JSON document.
    document: Vec<Value>,
    bar: ProgressBar,
    began: Instant,
    found: u64,
    first: Option<i64>,
    sequence: i64,
}

impl Screen {
    fn new(output: Format, targets: u64) -> io::Result<Self> {
        let bar = if output == Format::Table && io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(targets), bar);
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} targets  {msg}") {
            bar.set_style(style);
        }
        let screen = Self {
            output,
            document: Vec::new(),
            bar,
            began: Instant::now(),
            found: 0,
            first: None,
            sequence: 0,
        };
        if output == Format::Table {
            screen.row("Address", "Driver", "MAC or serial", "Device")?;
        }
        Ok(screen)
    }

    fn elapsed(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn show(&mut self, event: ScanEvent) -> io::Result<()> {
        match event {
            ScanEvent::Found(device) => self.device(&device),
            ScanEvent::Unidentified(host) => self.host(&host),
            ScanEvent::Progress(progress) => self.progress(progress),
            ScanEvent::Note(text) => self.warning(text),
            ScanEvent::Ended(_) => Ok(()),
        }
    }

    fn device(&mut self, device: &FoundDevice) -> io::Result<()> {
        let elapsed = self.elapsed();
        let facts = &device.facts;
        self.found += 1;
        self.first.get_or_insert(elapsed);
        if self.output != Format::Table {
            return self.line(Event::Device(DeviceFound {
                device_id: 0,
                identifier: facts.identifier(NodeId(0), device.endpoint).to_string(),
                ip: device.endpoint.ip.to_string(),
                port: device.endpoint.port.number().into(),
                scheme: facts.scheme.clone(),
                driver: facts.driver.clone(),
                model: facts.model.clone(),
                manufacturer: facts.manufacturer.clone(),
                firmware: facts.firmware.clone(),
                host_name: NamedBy::name_of(facts.host_name.as_ref()),
                host_name_source: NamedBy::source_of(facts.host_name.as_ref()),
                elapsed_ms: elapsed,
                fleet_node_id: 0,
            }));
        }
        let mac = facts.mac.map(|mac| mac.to_string());
        let serial = facts
            .serial
            .as_ref()
            .map(|serial| serial.as_str().to_owned());
        let identity = mac.or(serial).unwrap_or_else(|| "-".to_owned());
        let what = [&facts.manufacturer, &facts.model, &facts.firmware];
        let what: Vec<&str> = what
            .into_iter()
            .map(String::as_str)
            .filter(|text| !text.is_empty())
            .collect();
        let endpoint = device.endpoint.to_string();
        self.row(&endpoint, &facts.driver, &identity, &what.join(" "))
    }

    /// The table shows the replies of unidentified hosts in its warnings.
    fn host(&mut self, host: &HostReport) -> io::Result<()> {
        if self.output == Format::Table {
            return Ok(());
        }
        let number = |port: &Port| u32::from(port.number());
        let elapsed_ms = self.elapsed();
        self.line(Event::Host(HostFound {
            host: Some(ScanHost {
                ip: host.ip.to_string(),
                mac: host.mac.map(|mac| mac.to_string()).unwrap_or_default(),
                open_ports: host.open_ports.iter().map(number).collect(),
                reply_port: host.reply_port.as_ref().map_or(0, number),
                reply: host.reply.clone(),
                requests: host.requests.clone(),
                host_name: NamedBy::name_of(host.name.as_ref()),
                host_name_source: NamedBy::source_of(host.name.as_ref()),
                ..ScanHost::default()
            }),
            elapsed_ms,
        }))
    }

    fn row(&self, endpoint: &str, driver: &str, identity: &str, what: &str) -> io::Result<()> {
        let row = format!("{endpoint:<21} {driver:<10} {identity:<20} {what}");
        self.bar
            .suspend(|| writeln!(io::stdout(), "{}", row.trim_end()))
    }

    fn progress(&mut self, progress: fleet_scan::ScanProgress) -> io::Result<()> {
        let fleet_scan::ScanProgress { done, total, phase } = progress;
        if self.output != Format::Table {
            return self.line(Event::Progress(ScanProgress {
                done,
                total,
                phase: phase.as_str().to_owned(),
                elapsed_ms: self.elapsed(),
            }));
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar
            .set_message(format!("{}, {} found", phase.as_str(), self.found));
        Ok(())
    }

    fn warning(&mut self, text: String) -> io::Result<()> {
        if self.output != Format::Table {
            return self.line(Event::Warning(ScanWarning { text }));
        }
        self.bar
            .suspend(|| writeln!(io::stderr(), "warning: {text}"))
    }

    fn line(&mut self, event: Event) -> io::Result<()> {
        if !matches!(event, Event::Progress(_)) {
            self.sequence += 1;
        }
        let message = WatchScanResponse {
            sequence: self.sequence,
            event: Some(event),
        };
        match lines::line(&message) {
            Some(line) if self.output == Format::Json => {
                self.document.push(line);
                Ok(())
            }
            Some(line) => writeln!(io::stdout(), "{line}"),
            None => Ok(()),
        }
    }

    /// Prints the whole scan as one JSON document.
    fn print_document(&mut self) -> io::Result<()> {
        let mut of = |kind: &str| -> Vec<Value> {
            let is_kind = |event: &mut Value| event["type"] == kind;
            self.document.extract_if(.., is_kind).collect()
        };
        let (devices, hosts) = (of("device"), of("host"));
        let (warnings, ledger) = (of("warning"), of("ledger").pop());
        let document =
            json!({ "devices": devices, "hosts": hosts, "warnings": warnings, "ledger": ledger });
        writeln!(io::stdout(), "{document}")
    }

    /// Prints the outcome in a sentence, and the counts of targets by outcome.
    fn end(&mut self, summary: &LocalSummary, skipped: Vec<ReasonCount>) -> io::Result<()> {
        for name in &summary.names {
            if let Err(why) = &name.addresses {
                self.warning(format!("`{}` was skipped: {why}", name.name))?;
            }
        }
        self.bar.finish_and_clear();
        let ledger = self.ledger(summary, skipped);
        let state = match summary.scan.interrupted {
            Some(Interruption::Canceled) => ScanState::Canceled,
            Some(Interruption::BudgetSpent) => ScanState::Partial,
            None if is_complete(summary) => ScanState::Completed,
            None => ScanState::Partial,
        };
        if self.output != Format::Table {
            self.line(Event::Ended(ScanEnded {
                state: state.into(),
                code: String::new(),
                reason: gaps(summary).join("; "),
                ledger: Some(ledger),
            }))?;
            return if self.output == Format::Json {
                self.print_document()
            } else {
                Ok(())
            };
        }
        let mut out = io::stdout().lock();
        let parts: Vec<String> = lines::parts(&ledger)
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(part, count)| format!("{count} {part}"))
            .collect();
        writeln!(
            out,
            "{}: {} devices; {} of {} targets; {:.1} s",
            lines::outcome(state),
            self.found,
            parts.join(", "),
            ledger.targets,
            self.began.elapsed().as_secs_f64(),
        )?;
        for reason in &ledger.skipped_reasons {
            let ReasonCount {
                reason,
                count,
                example,
            } = reason;
            writeln!(out, "skipped {count}: {reason}, first {example}")?;
        }
        for reason in gaps(summary) {
            writeln!(out, "not complete: {reason}")?;
        }
        Ok(())
    }

    fn ledger(&self, summary: &LocalSummary, mut skipped: Vec<ReasonCount>) -> Ledger {
        let failed_names = summary
            .names
            .iter()
            .filter_map(|name| Some((name, name.addresses.as_ref().err()?)));
        // A cancel ends the lookups. Such a name is not skipped, it was not tried.
        let canceled = summary.scan.interrupted == Some(Interruption::Canceled);
        let (not_looked_up, failed_names): (Vec<_>, Vec<_>) =
            failed_names.partition(|(name, _)| canceled && name.lookup_failed);
        let not_looked_up = not_looked_up.len() as u64;
        if let Some((name, why)) = failed_names.first() {
            skipped.push(ReasonCount {
                reason: (*why).clone(),
                count: failed_names.len() as u64,
                example: name.name.to_string(),
            });
        }
        let count = |outcome| summary.scan.count(outcome);
        let before: u64 = skipped.iter().map(|reason| reason.count).sum();
        Ledger {
            targets: summary.targets.len() as u64 + before + not_looked_up,
            identified: count(TargetOutcome::Identified),
            targets_unknown: false,
            owned_elsewhere: 0,
            owned_elsewhere_reasons: Vec::new(),
            unidentified: count(TargetOutcome::Unidentified),
            refused: count(TargetOutcome::Refused),
            silent: count(TargetOutcome::Silent),
            skipped: count(TargetOutcome::Skipped) + before,
            not_reached: count(TargetOutcome::NotReached) + not_looked_up,
            unknown: 0,
            reported: self.found,
            accepted: self.found,
            rejected: 0,
            skipped_reasons: skipped,
            rejected_reasons: Vec::new(),
            first_device_ms: self.first,
            elapsed_ms: self.elapsed(),
        }
    }
}
