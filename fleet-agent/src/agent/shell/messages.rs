//! Messages of the server, the Hello, and the results of calls.

use std::time::{Duration, Instant};

use fleet_core::{Port, limits};
use fleet_registry::{
    Capabilities, Capability,
    link::{Attempt, GoodbyeReason, StreamEnd, WireCommandId},
    spool::UploadFailure,
};
use fleet_wire::gateway::{
    self, CommandProtocolVersion, ControlAccepted, ControlHello, control_stream_response as down,
};

use super::{CAPABILITIES, Shell, now};
use crate::agent::{
    calls::{CallResult, UploadCounts},
    stream::{ControlStream, StreamEvent},
};

/// Values of the site's policy in a Hello, as many as it may list.
fn texts<'a>(values: impl IntoIterator<Item = &'a (impl ToString + 'a)>) -> Vec<String> {
    let values = values.into_iter().take(limits::HELLO_POLICY);
    values.map(ToString::to_string).collect()
}

impl Shell {
    pub(super) fn open_stream(&mut self, attempt: Attempt) {
        let Some(session) = &self.session else {
            return self.link.stream_ended(now(), attempt, StreamEnd::Lost);
        };
        self.default_ports = self.announced_ports();
        let named = self.agent.options.local_subnets.as_deref();
        self.subnets = self.policy.choose_subnets(named);
        let chosen = self.subnets.iter().filter(|choice| choice.is_chosen);
        let options = &self.agent.options;
        let (listens, tries) = (options.listen_announcements, options.default_passwords);
        let capabilities = CAPABILITIES
            .iter()
            .filter(|one| listens || **one != Capability::Announcements)
            .filter(|one| tries || **one != Capability::DefaultPasswords);
        let hello = ControlHello {
            // Upstream servers since September send commands only to nodes that support this version.
            max_command_protocol_version: CommandProtocolVersion::V1.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: capabilities.map(ToString::to_string).collect(),
            instance_id: self.agent.instance.to_vec().into(),
            running: self
                .link
                .hello_running()
                .map(|command| command.as_str().to_owned())
                .collect(),
            default_ports: self.default_ports.iter().map(ToString::to_string).collect(),
            local_subnets: chosen.map(|choice| choice.subnet.to_string()).collect(),
            max_targets: self.agent.options.command_targets,
            max_ports: u32::try_from(limits::COMMAND_PORTS).unwrap_or(u32::MAX),
            rate: self.agent.options.scan.rate,
            arp: fleet_scan::can_send_arp(),
            denied_ports: texts(&self.policy.denied_ports),
            allowed_networks: texts(&self.policy.allowed_networks),
        };
        // The next server can be another one, so no extension is used before its Accepted.
        self.server = Capabilities::NONE;
        self.stream = Some(ControlStream::open(
            &self.agent.client,
            session,
            attempt,
            hello,
            self.events_tx.clone(),
            now(),
        ));
    }

    /// The ports of a scan without ports: the drivers' current defaults that the site permits.
    pub(super) fn announced_ports(&self) -> Vec<Port> {
        self.scanner
            .drivers()
            .default_ports()
            .into_iter()
            .filter(|port| !self.policy.denied_ports.contains(port))
            .take(limits::COMMAND_PORTS)
            .collect()
    }

    /// The drivers' default ports that the site denies.
    pub(super) fn denied_default_ports(&self) -> Vec<Port> {
        let mut ports = self.scanner.drivers().default_ports();
        ports.retain(|port| self.policy.denied_ports.contains(port));
        ports
    }

    pub(super) fn local_subnets(&self) -> Vec<ipnetwork::Ipv4Network> {
        let named = self.agent.options.local_subnets.as_deref();
        self.policy.local_subnets(named)
    }

    pub(super) fn on_stream_event(&mut self, attempt: Attempt, event: StreamEvent) {
        let now = now();
        let kind = match event {
            StreamEvent::Message(Some(kind)) => kind,
            // Of a kind that this version does not know. It proves that the server is alive.
            StreamEvent::Message(None) => return self.link.message_received(now, attempt),
            StreamEvent::Ended { end, reason } => {
                let current = |stream: &mut ControlStream| stream.attempt == attempt;
                if self.stream.take_if(current).is_some() {
                    // Read before the link handles the end.
                    let was_open = self.link.is_connected();
                    self.route.stream_ended(was_open, end, &reason);
                }
                return self.link.stream_ended(now, attempt, end);
            }
        };
        match kind {
            down::Kind::Accepted(accepted) => self.on_accepted(now, attempt, &accepted),
            down::Kind::Command(command) => match WireCommandId::new(&command.command_id) {
                Ok(id) => {
                    self.pending_payload = Some(command.payload);
                    self.link.command(now, attempt, id);
                }
                Err(error) => {
                    tracing::warn!(%error, "dropped a command without a valid id");
                    self.link.message_received(now, attempt);
                }
            },
            down::Kind::Cancel(cancel) => match WireCommandId::new(&cancel.command_id) {
                Ok(id) => self.link.cancel(now, attempt, &id),
                Err(_) => self.link.message_received(now, attempt),
            },
            down::Kind::Goodbye(goodbye) => {
                let retry_after = Duration::from_millis(goodbye.retry_after_ms.into());
                let reason = match goodbye.reason() {
                    gateway::GoodbyeReason::Drain => GoodbyeReason::Drain,
                    gateway::GoodbyeReason::Replaced => GoodbyeReason::Replaced,
                    gateway::GoodbyeReason::Revoked => GoodbyeReason::Revoked,
                    gateway::GoodbyeReason::Duplicate => GoodbyeReason::Duplicate,
                    gateway::GoodbyeReason::Unspecified => GoodbyeReason::Unspecified,
                };
                let retry_after_ms = goodbye.retry_after_ms;
                tracing::info!(%reason, retry_after_ms, "the server ends the stream");
                self.link.goodbye(
                    now,
                    attempt,
                    reason,
                    // Zero is the default of the field, and means that the server assigned no slot.
                    (!retry_after.is_zero()).then_some(retry_after),
                );
            }
        }
    }

    fn on_accepted(&mut self, now: Instant, attempt: Attempt, accepted: &ControlAccepted) {
        let capabilities = Capabilities::parse(accepted.capabilities.iter().map(String::as_str));
        let current = self.stream.as_mut();
        if let Some(stream) = current.filter(|stream| stream.attempt == attempt) {
            stream.answered();
            self.server = capabilities;
            self.clock.update(now, accepted.server_time.as_ref());
        }
        let first = !self.link.is_connected();
        self.link.accepted(now, attempt, !capabilities.is_empty());
        if first && self.link.is_connected() {
            self.route.connected();
            self.send_pins();
            tracing::info!(version = accepted.version, %capabilities, "connected to the server");
            if capabilities.is_empty() {
                self.state_limits();
            }
        }
    }

    pub(super) fn on_call_result(&mut self, result: CallResult) {
        let now = now();
        match result {
            CallResult::Handshake(Ok(session)) => {
                let lifetime_seconds = session.lifetime.as_secs();
                tracing::info!(lifetime_seconds, "opened a session");
                let lifetime = session.lifetime;
                self.session = Some(session);
                self.route.handshake_succeeded();
                self.link.session_opened(now, lifetime);
            }
            CallResult::Handshake(Err((failure, reason))) => {
                self.route.handshake_failed(&reason);
                self.link.handshake_failed(now, failure);
            }
            CallResult::Heartbeat(Ok(time)) => {
                self.clock.update(now, time.as_ref());
                self.link.heartbeat_done(now, Ok(()));
                if self.route.call_succeeded() {
                    // The next heartbeat reports it.
                    self.link.status_changed(now);
                }
            }
            CallResult::Heartbeat(Err(failure)) => self.link.heartbeat_done(now, Err(failure)),
            CallResult::Upload {
                batch,
                result:
                    Ok(UploadCounts {
                        accepted,
                        rejected,
                        owned_elsewhere,
                    }),
            } => self
                .spool
                .uploaded(now, batch, accepted, rejected, owned_elsewhere),
            CallResult::Upload {
                batch,
                result: Err(failure),
            } => {
                if matches!(failure, UploadFailure::Later { .. }) {
                    // The server may not have stored the pins, without which it accepts no report.
                    self.send_pins();
                }
                self.spool.upload_failed(now, batch, failure);
            }
        }
    }
}
