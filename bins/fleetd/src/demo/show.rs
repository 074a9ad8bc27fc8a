//! The output of the demonstration: rows, a progress line and the scan summary, or JSON lines.

use std::{
    io::{self, IsTerminal, Write},
    time::Instant,
};

use fleet_sim::DeviceLogin;
use fleet_wire::{
    fleet::{DeviceFound, ScanEnded, ScanProgress, WatchScanResponse, watch_scan_response::Event},
    lines,
};

use super::print;

/// Prints the steps and the events of the demonstration.
#[derive(Debug)]
pub(super) struct Show {
    json: bool,
    terminal: bool,
    devices: u64,
    first_ms: Option<u128>,
    progress: String,
    done: u64,
}

impl Show {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            terminal: !json && io::stdout().is_terminal(),
            devices: 0,
            first_ms: None,
            progress: String::new(),
            done: 0,
        }
    }

    /// Whether standard output has only JSON lines.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a step of the demonstration.
    pub(super) fn step(&self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { print(text) }
    }

    /// Prints an event of the scan. `requested_at` is the time of the request, for the time to the first device.
    pub(super) fn message(
        &mut self,
        message: &WatchScanResponse,
        requested_at: Instant,
    ) -> io::Result<()> {
        if matches!(message.event, Some(Event::Device(_))) {
            self.devices += 1;
            self.first_ms
                .get_or_insert(requested_at.elapsed().as_millis());
        }
        if self.json {
            return lines::line(message).map_or(Ok(()), |line| print(&line.to_string()));
        }
        match &message.event {
            Some(Event::Device(found)) => self.row(found),
            Some(Event::Progress(progress)) => self.progress(progress),
            Some(Event::Host(found)) => {
                let host = found.host.clone().unwrap_or_default();
                let reply = if host.reply.is_empty() {
                    "no reply"
                } else {
                    &host.reply
                };
                self.above(&format!("unidentified host {}: {reply}", host.ip))
            }
            Some(Event::Warning(warning)) => self.above(&format!("warning: {}", warning.text)),
            Some(Event::Ended(ended)) => self.end(ended),
            None => Ok(()),
        }
    }

    fn row(&mut self, found: &DeviceFound) -> io::Result<()> {
        let endpoint = format!("{}:{}", found.ip, found.port);
        let what = format!("{} {} {}", found.manufacturer, found.model, found.firmware);
        self.above(
            format!(
                "{endpoint:<20} {:<30} {:<9} {what}",
                found.identifier, found.driver
            )
            .trim_end(),
        )
    }

    fn progress(&mut self, progress: &ScanProgress) -> io::Result<()> {
        let seconds = progress.elapsed_ms as f64 / 1_000.0;
        let previous = std::mem::replace(&mut self.done, progress.done);
        if previous == progress.done && !self.terminal {
            return Ok(());
        }
        self.progress = format!(
            "{} of {} targets, {} devices, {seconds:.1} s",
            progress.done, progress.total, self.devices
        );
        if self.terminal {
            self.redraw()
        } else {
            print(&format!("-- {}", self.progress))
        }
    }

    /// Prints a line above the progress line.
    fn above(&self, line: &str) -> io::Result<()> {
        if !self.terminal {
            return print(line);
        }
        write!(io::stdout(), "\r\x1b[K{line}\n")?;
        self.redraw()
    }

    fn redraw(&self) -> io::Result<()> {
        let mut out = io::stdout();
        write!(out, "\r\x1b[K-- {}", self.progress)?;
        out.flush()
    }

    fn end(&mut self, ended: &ScanEnded) -> io::Result<()> {
        if self.terminal {
            write!(io::stdout(), "\r\x1b[K")?;
        }
        let reason = if ended.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", ended.reason)
        };
        print(&format!("\n{}{reason}", lines::outcome(ended.state())))?;
        let ledger = ended.ledger.clone().unwrap_or_default();
        for (name, count) in lines::parts(&ledger)
            .into_iter()
            .filter(|(_, count)| *count > 0)
        {
            print(&format!("  {name:<26}{count:>7}"))?;
        }
        print(&format!("  {:<26}{:>7}", "= targets", ledger.targets))?;
        print(&format!(
            "  {:<26}{:>7} = {} accepted + {} rejected",
            "reported", ledger.reported, ledger.accepted, ledger.rejected
        ))?;
        if let Some(first) = self.first_ms {
            print(&format!(
                "  first device after {first} ms, scan ended after {:.2} s",
                ledger.elapsed_ms as f64 / 1_000.0
            ))?;
        }
        Ok(())
    }

    /// Prints how to sign in.
    pub(super) fn sign_in(
        &self,
        base: &str,
        email: &str,
        password: &str,
        key: &str,
        node: i64,
    ) -> io::Result<()> {
        let DeviceLogin {
            username,
            password: device,
            ..
        } = DeviceLogin::demo();
        let lines = format!(
            "\nThe demonstration runs until Ctrl-C.\n  web page   {base}/\n  e-mail     {email}\n  password   {password}\n  key        {key}\n  try        FLEET_API_KEY={key} fleetctl --server {base} devices list\n\nThe devices were paired with the user name {username} and the password {device}. One in ten still has its default password:\n  pair       Devices > Pair all unpaired on the page, with default passwords, or\n             FLEET_API_KEY={key} FLEET_DEVICE_PASSWORD={device} fleetctl --server {base} devices pair-all --node {node} --try-defaults"
        );
        if self.json {
            writeln!(io::stderr(), "{lines}")
        } else {
            print(&lines)
        }
    }
}
