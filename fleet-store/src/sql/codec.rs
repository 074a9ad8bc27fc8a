//! Serialized forms of the domain's compound values, stored as JSON text in single columns. Only values that no
//! query searches are stored this way. Readers ignore unknown fields of newer versions.

mod alerts;
mod cells;
mod changes;
mod events;
mod facts;
mod takeovers;

pub(crate) use alerts::{read_alert, write_alert};
pub(crate) use cells::{read_cells, write_cells};
pub(crate) use changes::{read_changes, write_changes};
pub(crate) use events::{
    kind, read_event, read_ledger, read_tallies, write_event, write_ledger, write_tallies,
};
pub(crate) use facts::{read_facts, write_facts};
use fleet_core::{
    DeviceIdentifier, Port, ScanState,
    outcome::{Code, Conclusion},
};
use fleet_discovery::{ChunkCommand, Listening, Mode, ScanRequest};
use sea_orm::DbErr;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
pub(crate) use takeovers::{read_takeovers, write_takeovers};

use super::transaction::unreadable;
use crate::Hello;

fn write<T: Serialize>(what: &'static str, twin: &T) -> Result<String, DbErr> {
    serde_json::to_string(twin).map_err(|error| unreadable(what, error))
}

fn read<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, DbErr> {
    serde_json::from_str(text).map_err(|error| unreadable(what, error))
}

/// Identifiers, one per line. No identifier contains a control character.
pub(crate) fn read_identifiers(text: Option<&str>) -> Result<Vec<DeviceIdentifier>, DbErr> {
    text.into_iter()
        .flat_map(str::lines)
        .map(|line| {
            line.parse()
                .map_err(|error| unreadable("identifiers", error))
        })
        .collect()
}

pub(crate) fn write_identifiers(identifiers: &[DeviceIdentifier]) -> Option<String> {
    let lines: Vec<_> = identifiers.iter().map(ToString::to_string).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[derive(Default, Serialize, Deserialize)]
// Rows of earlier versions lack later fields.
#[serde(default)]
struct StoredHello {
    version: String,
    capabilities: Vec<String>,
    default_ports: Vec<String>,
    local_subnets: Vec<String>,
    max_targets: u32,
    max_ports: u32,
    rate: u32,
    arp: bool,
    denied_ports: Vec<String>,
    allowed_networks: Vec<String>,
}

pub(crate) fn write_hello(hello: &Hello) -> Result<String, DbErr> {
    let Hello {
        version,
        capabilities,
        default_ports,
        local_subnets,
        max_targets,
        max_ports,
        rate,
        arp,
        denied_ports,
        allowed_networks,
    } = hello.clone();
    write(
        "hello",
        &StoredHello {
            version,
            capabilities,
            default_ports,
            local_subnets,
            max_targets,
            max_ports,
            rate,
            arp,
            denied_ports,
            allowed_networks,
        },
    )
}

pub(crate) fn read_hello(text: &str) -> Result<Hello, DbErr> {
    let StoredHello {
        version,
        capabilities,
        default_ports,
        local_subnets,
        max_targets,
        max_ports,
        rate,
        arp,
        denied_ports,
        allowed_networks,
    } = read("hello", text)?;
    Ok(Hello {
        version,
        capabilities,
        default_ports,
        local_subnets,
        max_targets,
        max_ports,
        rate,
        arp,
        denied_ports,
        allowed_networks,
    })
}

#[derive(Serialize, Deserialize)]
struct StoredRequest {
    mode: StoredMode,
    ports: Vec<String>,
    /// Rows of earlier versions lack it.
    #[serde(default)]
    rate: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredMode {
    List(Vec<String>),
    Range {
        start: String,
        end: String,
    },
    Target(String),
    Mdns {
        service_type: String,
        domain: String,
        timeout_seconds: i32,
    },
}

pub(crate) fn write_request(request: &ScanRequest) -> Result<String, DbErr> {
    let mode = match request.mode.clone() {
        Mode::List(entries) => StoredMode::List(entries),
        Mode::Range { start, end } => StoredMode::Range { start, end },
        Mode::Target(target) => StoredMode::Target(target),
        Mode::Mdns {
            service_type,
            domain,
            timeout_seconds,
        } => StoredMode::Mdns {
            service_type,
            domain,
            timeout_seconds,
        },
    };
    write(
        "request",
        &StoredRequest {
            mode,
            ports: request.ports.clone(),
            rate: request.rate,
        },
    )
}

pub(crate) fn read_request(text: &str) -> Result<ScanRequest, DbErr> {
    let StoredRequest { mode, ports, rate } = read("request", text)?;
    let mode = match mode {
        StoredMode::List(entries) => Mode::List(entries),
        StoredMode::Range { start, end } => Mode::Range { start, end },
        StoredMode::Target(target) => Mode::Target(target),
        StoredMode::Mdns {
            service_type,
            domain,
            timeout_seconds,
        } => Mode::Mdns {
            service_type,
            domain,
            timeout_seconds,
        },
    };
    Ok(ScanRequest { mode, ports, rate })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredCommand {
    List(Vec<String>),
    Target(String),
    Mdns { service_type: String, seconds: i32 },
}

pub(crate) fn write_command(command: &ChunkCommand) -> Result<String, DbErr> {
    let twin = match command.clone() {
        ChunkCommand::List(entries) => StoredCommand::List(entries),
        ChunkCommand::Target(target) => StoredCommand::Target(target),
        ChunkCommand::Mdns(listening) => StoredCommand::Mdns {
            service_type: listening.service.to_string(),
            seconds: listening.seconds(),
        },
    };
    write("command", &twin)
}

pub(crate) fn read_command(text: &str) -> Result<ChunkCommand, DbErr> {
    Ok(match read("command", text)? {
        StoredCommand::List(entries) => ChunkCommand::List(entries),
        StoredCommand::Target(target) => ChunkCommand::Target(target),
        StoredCommand::Mdns {
            service_type,
            seconds,
        } => {
            let listening = Listening::read(&service_type, "", seconds);
            ChunkCommand::Mdns(listening.map_err(|error| unreadable("command", error))?)
        }
    })
}

/// Ports joined by commas; empty means the node's defaults.
pub(crate) fn write_ports(ports: &[Port]) -> String {
    ports
        .iter()
        .map(Port::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

pub(crate) fn read_ports(text: &str) -> Result<Vec<Port>, DbErr> {
    let ports = text.split(',').filter(|port| !port.is_empty());
    ports
        .map(|port| port.parse().map_err(|error| unreadable("ports", error)))
        .collect()
}

/// A list of texts.
pub(crate) fn write_texts(texts: &[String]) -> Result<String, DbErr> {
    write("texts", &texts)
}

pub(crate) fn read_texts(text: &str) -> Result<Vec<String>, DbErr> {
    read("texts", text)
}

pub(crate) fn read_conclusion(
    state: &str,
    code: &str,
    reason: String,
) -> Result<Conclusion, DbErr> {
    let state: ScanState = state
        .parse()
        .map_err(|error| unreadable("conclusion", error))?;
    Ok(Conclusion {
        state,
        code: read_code(code)?,
        reason,
    })
}

pub(crate) fn read_code(text: &str) -> Result<Code, DbErr> {
    Code::parse(text).ok_or_else(|| unreadable("code", text))
}

pub(crate) fn read_port(number: i64) -> Result<Port, DbErr> {
    let port = u16::try_from(number).ok().and_then(Port::new);
    port.ok_or_else(|| unreadable("port", number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_they_were_written_by_this_version_and_before() {
        let listening = Listening::read("_axeos._tcp", "local", 30).expect("a service");
        for (command, text) in [
            (
                ChunkCommand::List(vec!["10.0.0.1".into(), "a.lan".into()]),
                r#"{"list":["10.0.0.1","a.lan"]}"#,
            ),
            (
                ChunkCommand::Target("10.0.0.0/22".into()),
                r#"{"target":"10.0.0.0/22"}"#,
            ),
            (
                ChunkCommand::Mdns(listening),
                r#"{"mdns":{"service_type":"_axeos._tcp","seconds":30}}"#,
            ),
        ] {
            assert_eq!(write_command(&command).expect("a text"), text);
            assert_eq!(read_command(text).expect("a command"), command);
        }
        assert!(read_command(r#"{"mdns":{"service_type":"http","seconds":30}}"#).is_err());
    }
}
