//! Commands from start to ack: their steps, progress, pins and halts.

use std::sync::Arc;

use fleet_core::outcome::AckCode;
use fleet_registry::{Capability, link::WireCommandId, spool::Tally};
use fleet_scan::{FoundDevice, ScanEvent, ScanProgress};
use fleet_wire::gateway::{ControlAck, ControlProgress, control_stream_request as up};
use tokio::time::Instant;

use super::{PROGRESS_INTERVAL, Shell, now};
use crate::agent::{
    ack::{self, Ending, StopCause, Unreported},
    command::{CommandReader, Job, Refusal, is_unknown, unknown_command},
    report, scan_task,
    upstream::Naming,
    work::{Step, Work},
};

impl Shell {
    pub(super) fn on_halt(&mut self) {
        match &*self.agent.options.halt.borrow_and_update() {
            Some(reason) => {
                tracing::warn!(reason, "the site halted this node: all scanning stops");
                if let Some(work) = &mut self.work {
                    work.stop(StopCause::Halted);
                }
            }
            None => tracing::info!("the halt has ended: this node scans again"),
        }
        self.link.status_changed(now());
    }

    /// The refusal for commands that arrive while the node is halted.
    pub(super) fn halted(&self) -> Option<Refusal> {
        let reason = self.agent.options.halt.borrow().clone()?;
        Some(Refusal::halted(&reason))
    }

    pub(super) fn start(&mut self, command: WireCommandId) {
        let payload = self.pending_payload.take().unwrap_or_default();
        if self.draining.is_some() {
            // Not acked: the server issues it again after this node's restart.
            return;
        }
        if let Err(misuse) = self.spool.begin(command.clone()) {
            tracing::error!(%misuse, %command, "a command arrived before the reports of the previous one were settled");
            self.acks.insert(command.clone(), ack::busy(&command));
            return self.link.finished(now(), &command);
        }
        let local_subnets = self.local_subnets();
        let denied_default_ports = self.denied_default_ports();
        let reader = CommandReader {
            policy: &self.policy,
            local_subnets: &local_subnets,
            default_ports: &self.default_ports,
            denied_default_ports: &denied_default_ports,
            upstream_server: self.server.is_empty(),
            announcements: self.agent.options.listen_announcements,
        };
        let job = self.halted().map_or_else(|| reader.read(payload), Err);
        match job {
            Ok(Job::Scan(mut task)) => {
                // An upstream server has no field for names and for unidentified hosts.
                if self.naming() == Naming::Own {
                    task.host_names = self.agent.options.host_names();
                }
                // Upstream's nodes do not read the neighbor table. Their server knows devices by their identifier alone,
                // so a device that they reported would appear a second time.
                task.link_identity = self.naming() == Naming::Own;
                task.note_hosts = !self.server.has(Capability::Hosts);
                tracing::info!(%command, entries = task.entries.len(), ports = task.ports.len(), "a scan starts");
                let resolver = &self.agent.options.resolver;
                let work = Work::begin(command, task, &self.scanner, resolver);
                let failed = !work.is_active();
                self.work = Some(work);
                if failed {
                    self.finish();
                }
            }
            Ok(Job::Pair(job)) => {
                tracing::info!(%command, targets = job.targets(), "a pairing starts");
                let (options, drivers) = (
                    self.agent.options.scan.clone(),
                    Arc::clone(&self.agent.options.drivers),
                );
                let key = self.agent.state.encryption_public();
                let job = job.with(self.login_budget.clone(), self.naming());
                let job = job.allowing_defaults(self.agent.options.default_passwords);
                self.work = Some(Work::pairing(command, options, drivers, key, job));
            }
            Err(refusal) => {
                self.log_refusal(&command, &refusal);
                self.work = Some(Work::ended(command, Some(Ending::Refused(refusal))));
                self.finish();
            }
        }
    }

    /// The ack of a command that arrived while another one runs. BUSY invites the server to send it again, so an unsupported
    /// command is refused at once.
    pub(super) fn refuse_second(&mut self, command: &WireCommandId) -> ControlAck {
        let payload = self.pending_payload.take();
        if !payload.is_some_and(|payload| is_unknown(&payload)) {
            return ack::busy(command);
        }
        let refusal = unknown_command();
        self.log_refusal(command, &refusal);
        ack::refused(command, refusal)
    }

    /// Logs a refusal. An unsupported command is no news: an upstream server sends telemetry commands all the time.
    fn log_refusal(&mut self, command: &WireCommandId, refusal: &Refusal) {
        let reason = &refusal.reason;
        if refusal.code == AckCode::Unimplemented {
            tracing::debug!(%command, reason, "refused a command");
            self.state_limits();
        } else {
            tracing::warn!(%command, reason, "refused a command");
        }
    }

    /// Logs the limits of this node under an upstream server, once.
    pub(super) fn state_limits(&mut self) {
        if !std::mem::replace(&mut self.stated_limits, true) {
            tracing::info!(
                "this node finds and pairs devices; it does not serve telemetry or miner commands of an upstream server"
            );
        }
    }

    /// How the current server expects devices to be named.
    fn naming(&self) -> Naming {
        if self.server.is_empty() {
            Naming::Upstream
        } else {
            Naming::Own
        }
    }

    pub(super) fn on_step(&mut self, step: Step) {
        let naming = self.naming();
        let Some(work) = &mut self.work else {
            return;
        };
        match step {
            Step::Pinned(pins) => {
                work.pinned(pins, &self.scanner);
                for pin in &work.pins {
                    if let Err(reason) = &pin.addresses {
                        tracing::info!(command = %work.command, name = %pin.name, reason, "skipped a host name");
                    }
                }
                let over = !work.is_active();
                self.send_pins();
                if over {
                    self.finish();
                }
            }
            // After the restart, this host is scanned again and may be identified at a better port.
            Step::Event(ScanEvent::Found(found))
                if found.provisional && work.stopped == Some(StopCause::ShuttingDown) =>
            {
                tracing::debug!(endpoint = %found.endpoint, "a provisional device is not reported, because the node is shutting down");
            }
            Step::Event(ScanEvent::Found(found)) => {
                tracing::debug!(endpoint = %found.endpoint, driver = found.facts.driver, model = found.facts.model, "found a device");
                let (endpoint, facts) = naming.report(found.endpoint, found.facts, |page| {
                    work.ports.contains(&page.port) && self.policy.check(page).is_ok()
                });
                let found = FoundDevice {
                    endpoint,
                    facts,
                    ..found
                };
                let row = report::row(self.agent.node, found, self.policy.addresses);
                let pushed = row.map(|row| self.spool.push(now(), report::Row::Found(row)));
                work.count_pushed(pushed.ok_or_else(|| "a field is invalid".to_owned()));
            }
            // Other servers have no field for it, and its reply is in a note.
            Step::Event(ScanEvent::Unidentified(_)) if !self.server.has(Capability::Hosts) => {}
            Step::Event(ScanEvent::Unidentified(host)) => {
                let row = report::host(&host, self.policy.addresses);
                let pushed = row.map(|row| self.spool.push(now(), report::Row::Host(row)));
                work.count_pushed(
                    pushed.ok_or_else(|| "its address may not be reported".to_owned()),
                );
            }
            Step::Event(ScanEvent::Progress(progress)) => {
                work.progress = Some(progress);
                if work
                    .progress_sent_at
                    .is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL)
                {
                    work.progress_sent_at = Some(Instant::now());
                    self.send_progress(String::new());
                }
            }
            Step::Event(ScanEvent::Note(note)) => {
                tracing::debug!(command = %work.command, note, "note of the scan");
                // The limit of the wire for a note.
                self.send_progress(note.chars().take(512).collect());
            }
            Step::Paired(result) => {
                let pushed = self.spool.push(now(), report::Row::Paired(result));
                work.count_pushed(Ok(pushed));
            }
            Step::PairingOver(result) => {
                work.end_pairing(result);
                self.finish();
            }
            // `work::next` returns the end of a scan as `Step::Over`.
            Step::Event(ScanEvent::Ended(_)) => {}
            Step::Over(result) => {
                work.end(result);
                self.send_progress(String::new());
                self.finish();
            }
        }
    }

    /// Sends the progress of the scan, if the server supports that.
    pub(super) fn send_progress(&self, note: String) {
        let (Some(stream), Some(work)) = (&self.stream, &self.work) else {
            return;
        };
        if !self.server.has(Capability::Progress) {
            return;
        }
        let (done, total, phase) = work
            .progress
            .map_or((0, 0, ""), |ScanProgress { done, total, phase }| {
                (done, total, phase.as_str())
            });
        stream.try_send(up::Kind::Progress(ControlProgress {
            command_id: work.command.as_str().to_owned(),
            targets_done: done,
            targets_total: total,
            phase: phase.to_owned(),
            note,
        }));
    }

    /// Sends the pins of the running command. The server rejects reports until it has them. They are repeated on a new
    /// stream, because the old one may not have delivered them, and before a report is repeated.
    pub(super) fn send_pins(&mut self) {
        let (Some(stream), Some(work)) = (&self.stream, &self.work) else {
            return;
        };
        if !self.server.has(Capability::Pins) {
            return;
        }
        let attempt = stream.attempt;
        for pins in scan_task::messages(&work.command, &work.pins) {
            self.send(attempt, up::Kind::Pins(pins));
        }
    }

    /// Marks the command's scan as ended in the spool.
    pub(super) fn finish(&mut self) {
        if let Err(misuse) = self.spool.finish(now()) {
            tracing::error!(%misuse, "the spool has no open command");
        }
    }

    /// Handles the settlement of a command's last report: its ack may be sent.
    pub(super) fn settled(&mut self, command: WireCommandId, tally: &Tally) {
        let Some(work) = self.work.take_if(|work| work.command == command) else {
            return;
        };
        let ending = work
            .ending
            .unwrap_or_else(|| Ending::Failed("the scan did not end".to_owned()));
        let interrupted = matches!(&ending, Ending::Ran(summary) if summary.interrupted.is_some());
        if interrupted && work.stopped == Some(StopCause::ShuttingDown) {
            tracing::info!(%command, reported = tally.accepted, "the scan stops and continues after the restart of this node");
            return;
        }
        // A server that supports pins already knows the skipped names; only failed lookups are a gap. For other servers,
        // every skipped name is a gap.
        let skipped_names = if self.server.has(Capability::Pins) {
            scan_task::failed_lookups(&work.pins)
        } else {
            scan_task::skipped_names(&work.pins)
        };
        let ack = ack::ack(
            &command,
            &ending,
            work.stopped,
            tally,
            Unreported {
                unreportable: work.unreportable,
                skipped_names,
                // An upstream server logs the reason of a partial scan.
                notes_in_reason: self.server.is_empty(),
            },
        );
        // An upstream server sends a telemetry command for every paired device, every few seconds.
        if ack.code == AckCode::Unimplemented.number() {
            tracing::debug!(%command, reason = ack.error_message, "a command ended");
        } else {
            tracing::info!(%command, code = ack.code, reason = ack.error_message, accepted = tally.accepted, rejected = tally.rejected, dropped = tally.dropped, "a command ended");
        }
        self.counts.ended(ack.code, &ack.outcomes, tally);
        self.acks.insert(command.clone(), ack);
        self.link.finished(now(), &command);
    }
}
