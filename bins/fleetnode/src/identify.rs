//! `fleetnode identify`: shows how one device is identified, and records it as a fixture for a rule.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use fleet_core::Endpoint;
use fleet_scan::{Examination, Examined, Examiner, Exchange, Guard, recording};

use crate::{
    cli::IdentifyArgs,
    halt::{self, Halted},
    options,
};

/// Characters of a request or an answer that are shown; `--record` keeps all.
const SHOWN: usize = 160;

/// Examines every port and prints what was found.
pub(crate) async fn run(state_dir: &Path, args: IdentifyArgs) -> anyhow::Result<ExitCode> {
    if let Some(reason) = halt::reason(state_dir) {
        return Err(Halted(reason).into());
    }
    let options = options::agent(args.site, args.engine)?;
    let ports = if args.ports.is_empty() {
        options.drivers.default_ports()
    } else {
        args.ports
    };
    let site = Arc::new(options.site);
    let guard = Guard::new(move |endpoint| {
        site.explain(endpoint)
            .map(|_| ())
            .map_err(|why| why.to_string())
    });
    let examiner = Examiner::new(options.scan, options.drivers, guard);
    let mut examined = Vec::new();
    for port in ports {
        let endpoint = Endpoint {
            ip: args.address,
            port,
        };
        examined.push(examiner.examine(endpoint).await);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}", args.address)?;
    for port in &examined {
        show(&mut out, port, args.all_rules)?;
    }
    if let Some(file) = &args.record {
        let file_name = file.display();
        fs::write(file, recording(&examined))
            .with_context(|| format!("cannot write {file_name}"))?;
        writeln!(
            out,
            "recorded to {file_name}; read it before you publish it"
        )?;
    }
    let is_identified = examined
        .iter()
        .any(|port| matches!(port.outcome, Examined::Identified(_)));
    Ok(if is_identified {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(out: &mut impl Write, port: &Examination, all_rules: bool) -> io::Result<()> {
    let number = port.endpoint.port;
    match &port.outcome {
        Examined::Identified(facts) => {
            let mac = facts.mac.map(|mac| mac.to_string()).unwrap_or_default();
            let serial = facts
                .serial
                .as_ref()
                .map(|serial| serial.as_str())
                .unwrap_or_default();
            writeln!(out, "\n{number}  identified")?;
            for (name, value) in [
                ("make", facts.manufacturer.as_str()),
                ("model", &facts.model),
                ("firmware", &facts.firmware),
                ("MAC", &mac),
                ("serial", serial),
                ("driver", &facts.driver),
            ] {
                writeln!(
                    out,
                    "  {name:<9} {}",
                    if value.is_empty() { "unknown" } else { value }
                )?;
            }
        }
        Examined::Unidentified(answered) => {
            writeln!(out, "\n{number}  not identified: {answered}")?
        }
        Examined::Failed(error) => writeln!(out, "\n{number}  {error}")?,
    }
    for exchange in &port.exchanges {
        writeln!(out, "  sent      {}", sent(exchange))?;
        match &exchange.reply {
            Ok(bytes) => writeln!(out, "  answered  {} bytes: {}", bytes.len(), shown(bytes))?,
            Err(error) => writeln!(out, "  answered  nothing: {error}")?,
        }
    }
    for rule in port.rules.iter().filter(|rule| rule.matched || all_rules) {
        let verdict = if rule.matched { "matched" } else { "no match" };
        writeln!(out, "  {verdict:<9} {}: {}", rule.rule, rule.reason)?;
    }
    let others = port.rules.iter().filter(|rule| !rule.matched).count();
    if others > 0 && !all_rules {
        writeln!(
            out,
            "  no match  {others} other rules; --all-rules says why"
        )?;
    }
    Ok(())
}

/// The first line of a request, or its command.
fn sent(exchange: &Exchange) -> String {
    let request = String::from_utf8_lossy(&exchange.request);
    let first = request.lines().next().unwrap_or_default();
    let start = if first.starts_with(char::is_alphabetic) {
        0
    } else {
        first.find('{').unwrap_or(0)
    };
    let tls = if exchange.encrypted { " (TLS)" } else { "" };
    format!("{}{tls}", shown(&first.as_bytes()[start..]))
}

/// The beginning of an answer on one line. Everything but printable ASCII is escaped.
fn shown(bytes: &[u8]) -> String {
    let text: String = bytes
        .iter()
        .take(SHOWN)
        .map(|byte| byte.escape_ascii().to_string())
        .collect();
    let more = if bytes.len() > SHOWN { "..." } else { "" };
    format!("{text}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_shown_by_their_first_line_or_command() {
        for (request, expected) in [
            (
                &b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"[..],
                "GET /a HTTP/1.1",
            ),
            (b"{\"command\":\"version\"}", r#"{\"command\":\"version\"}"#),
            (
                b"\x19\0\0\0{\"cmd\":\"get.device.info\"}",
                r#"{\"cmd\":\"get.device.info\"}"#,
            ),
        ] {
            let exchange = Exchange {
                request: request.to_vec(),
                reply: Ok(Vec::new()),
                encrypted: false,
            };
            assert_eq!(sent(&exchange), expected);
        }
        assert!(shown(&[b'x'; 500]).ends_with("..."));
    }
}
