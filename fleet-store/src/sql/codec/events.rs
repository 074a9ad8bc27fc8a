//! Serialized forms of the events, tallies and ledger of a scan.

use fleet_core::{DeviceFacts, DeviceId, Endpoint, HostReport, NamedBy, NodeId, Port, Serial};
use fleet_discovery::{DeviceFound, HostFound, Ledger, LogEvent, ScanEnded, Tally};
use sea_orm::DbErr;
use serde::{Deserialize, Serialize};

use super::{read, read_conclusion, read_port, write};
use crate::sql::transaction::unreadable;

#[derive(Serialize, Deserialize)]
struct StoredTally {
    reason: String,
    count: u64,
    example: String,
}

impl From<&Tally> for StoredTally {
    fn from(
        Tally {
            reason,
            count,
            example,
        }: &Tally,
    ) -> Self {
        Self {
            reason: reason.clone(),
            count: *count,
            example: example.clone(),
        }
    }
}

impl From<StoredTally> for Tally {
    fn from(
        StoredTally {
            reason,
            count,
            example,
        }: StoredTally,
    ) -> Self {
        Self {
            reason,
            count,
            example,
        }
    }
}

pub(crate) fn write_tallies(tallies: &[Tally]) -> Result<String, DbErr> {
    write(
        "tallies",
        &tallies.iter().map(StoredTally::from).collect::<Vec<_>>(),
    )
}

pub(crate) fn read_tallies(text: &str) -> Result<Vec<Tally>, DbErr> {
    Ok(read::<Vec<StoredTally>>("tallies", text)?
        .into_iter()
        .map(Tally::from)
        .collect())
}

#[derive(Serialize, Deserialize)]
struct StoredLedger {
    targets: u64,
    #[serde(default)]
    targets_unknown: bool,
    identified: u64,
    #[serde(default)]
    owned_elsewhere: u64,
    unidentified: u64,
    refused: u64,
    silent: u64,
    skipped: u64,
    not_reached: u64,
    unknown: u64,
    reported: u64,
    accepted: u64,
    rejected: u64,
    #[serde(default)]
    owned_elsewhere_reasons: Vec<StoredTally>,
    skipped_reasons: Vec<StoredTally>,
    rejected_reasons: Vec<StoredTally>,
    first_device_ms: Option<u64>,
    elapsed_ms: u64,
}

impl From<&Ledger> for StoredLedger {
    fn from(ledger: &Ledger) -> Self {
        let Ledger {
            targets,
            targets_unknown,
            identified,
            owned_elsewhere,
            unidentified,
            refused,
            silent,
            skipped,
            not_reached,
            unknown,
            reported,
            accepted,
            rejected,
            owned_elsewhere_reasons,
            skipped_reasons,
            rejected_reasons,
            first_device_ms,
            elapsed_ms,
        } = ledger;
        Self {
            targets: *targets,
            targets_unknown: *targets_unknown,
            identified: *identified,
            owned_elsewhere: *owned_elsewhere,
            unidentified: *unidentified,
            refused: *refused,
            silent: *silent,
            skipped: *skipped,
            not_reached: *not_reached,
            unknown: *unknown,
            reported: *reported,
            accepted: *accepted,
            rejected: *rejected,
            owned_elsewhere_reasons: owned_elsewhere_reasons
                .iter()
                .map(StoredTally::from)
                .collect(),
            skipped_reasons: skipped_reasons.iter().map(StoredTally::from).collect(),
            rejected_reasons: rejected_reasons.iter().map(StoredTally::from).collect(),
            first_device_ms: *first_device_ms,
            elapsed_ms: *elapsed_ms,
        }
    }
}

impl From<StoredLedger> for Ledger {
    fn from(stored: StoredLedger) -> Self {
        let tallies = |stored: Vec<StoredTally>| stored.into_iter().map(Tally::from).collect();
        Self {
            targets: stored.targets,
            targets_unknown: stored.targets_unknown,
            identified: stored.identified,
            owned_elsewhere: stored.owned_elsewhere,
            unidentified: stored.unidentified,
            refused: stored.refused,
            silent: stored.silent,
            skipped: stored.skipped,
            not_reached: stored.not_reached,
            unknown: stored.unknown,
            reported: stored.reported,
            accepted: stored.accepted,
            rejected: stored.rejected,
            owned_elsewhere_reasons: tallies(stored.owned_elsewhere_reasons),
            skipped_reasons: tallies(stored.skipped_reasons),
            rejected_reasons: tallies(stored.rejected_reasons),
            first_device_ms: stored.first_device_ms,
            elapsed_ms: stored.elapsed_ms,
        }
    }
}

pub(crate) fn write_ledger(ledger: &Ledger) -> Result<String, DbErr> {
    write("ledger", &StoredLedger::from(ledger))
}

pub(crate) fn read_ledger(text: &str) -> Result<Ledger, DbErr> {
    read::<StoredLedger>("ledger", text).map(Ledger::from)
}

/// The name of an event's kind, which has its own column.
pub(crate) fn kind(event: &LogEvent) -> &'static str {
    match event {
        LogEvent::Device(_) => "device",
        LogEvent::Host(_) => "host",
        LogEvent::Warning { .. } => "warning",
        LogEvent::Ended(_) => "ended",
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredEventPayload {
    Device(StoredDevice),
    Host(StoredHost),
    Warning(String),
    Ended {
        state: String,
        code: String,
        reason: String,
        ledger: StoredLedger,
    },
}

#[derive(Serialize, Deserialize)]
struct StoredDevice {
    device: i64,
    #[serde(default)]
    node: Option<i64>,
    identifier: String,
    ip: std::net::IpAddr,
    port: u16,
    scheme: String,
    driver: String,
    model: String,
    manufacturer: String,
    firmware: String,
    mac: Option<String>,
    serial: Option<String>,
    // Events of earlier versions lack it.
    #[serde(default)]
    host_name: Option<String>,
    elapsed_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredHost {
    #[serde(default)]
    node: Option<i64>,
    ip: std::net::IpAddr,
    mac: Option<String>,
    name: Option<(String, String)>,
    open_ports: Vec<u16>,
    reply_port: Option<u16>,
    reply: String,
    requests: Vec<String>,
    elapsed_ms: u64,
}

impl From<&HostFound> for StoredHost {
    fn from(found: &HostFound) -> Self {
        let host = &found.host;
        let name = host.name.as_ref();
        Self {
            node: found.node.map(|node| node.0),
            ip: host.ip,
            mac: host.mac.map(|mac| mac.to_string()),
            name: name.map(|name| (name.name.clone(), name.source.to_string())),
            open_ports: host.open_ports.iter().map(|port| port.number()).collect(),
            reply_port: host.reply_port.map(Port::number),
            reply: host.reply.clone(),
            requests: host.requests.clone(),
            elapsed_ms: found.elapsed_ms,
        }
    }
}

impl StoredHost {
    fn read(self) -> Result<HostFound, DbErr> {
        let ports = self.open_ports.into_iter().map(i64::from).map(read_port);
        let name = self.name.as_ref();
        Ok(HostFound {
            node: self.node.map(NodeId),
            host: HostReport {
                ip: self.ip,
                mac: self.mac.and_then(|mac| mac.parse().ok()),
                name: name.and_then(|(name, source)| NamedBy::parse(name, source)),
                open_ports: ports.collect::<Result<_, _>>()?,
                reply_port: self.reply_port.and_then(Port::new),
                reply: self.reply,
                requests: self.requests,
            },
            elapsed_ms: self.elapsed_ms,
        })
    }
}

pub(crate) fn write_event(event: &LogEvent) -> Result<String, DbErr> {
    let twin = match event {
        LogEvent::Device(found) => StoredEventPayload::Device(StoredDevice {
            device: found.device.0,
            node: found.node.map(|node| node.0),
            identifier: found.identifier.to_string(),
            ip: found.endpoint.ip,
            port: found.endpoint.port.number(),
            scheme: found.facts.scheme.clone(),
            driver: found.facts.driver.clone(),
            model: found.facts.model.clone(),
            manufacturer: found.facts.manufacturer.clone(),
            firmware: found.facts.firmware.clone(),
            mac: found.facts.mac.map(|mac| mac.to_string()),
            serial: found
                .facts
                .serial
                .as_ref()
                .map(|serial| serial.as_str().to_owned()),
            host_name: found.facts.host_name.as_ref().map(ToString::to_string),
            elapsed_ms: found.elapsed_ms,
        }),
        LogEvent::Host(found) => StoredEventPayload::Host(found.into()),
        LogEvent::Warning { text } => StoredEventPayload::Warning(text.clone()),
        LogEvent::Ended(ScanEnded { conclusion, ledger }) => StoredEventPayload::Ended {
            state: conclusion.state.to_string(),
            code: conclusion.code.to_string(),
            reason: conclusion.reason.clone(),
            ledger: ledger.into(),
        },
    };
    write("event", &twin)
}

pub(crate) fn read_event(text: &str) -> Result<LogEvent, DbErr> {
    Ok(match read("event", text)? {
        StoredEventPayload::Device(stored) => LogEvent::Device(DeviceFound {
            device: DeviceId(stored.device),
            node: stored.node.map(NodeId),
            identifier: stored
                .identifier
                .parse()
                .map_err(|error| unreadable("event", error))?,
            endpoint: Endpoint {
                ip: stored.ip,
                port: read_port(i64::from(stored.port))?,
            },
            facts: DeviceFacts {
                driver: stored.driver,
                scheme: stored.scheme,
                model: stored.model,
                manufacturer: stored.manufacturer,
                firmware: stored.firmware,
                mac: stored.mac.and_then(|mac| mac.parse().ok()),
                serial: stored.serial.and_then(|serial| Serial::new(&serial)),
                host_name: stored.host_name.and_then(|name| name.parse().ok()),
                evidence: String::new(),
            },
            elapsed_ms: stored.elapsed_ms,
        }),
        StoredEventPayload::Host(stored) => LogEvent::Host(stored.read()?),
        StoredEventPayload::Warning(text) => LogEvent::Warning { text },
        StoredEventPayload::Ended {
            state,
            code,
            reason,
            ledger,
        } => LogEvent::Ended(ScanEnded {
            conclusion: read_conclusion(&state, &code, reason)?,
            ledger: ledger.into(),
        }),
    })
}
