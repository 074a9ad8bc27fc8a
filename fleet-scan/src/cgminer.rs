//! The driver for the CGMiner API (TCP 4028): asks `version` and, where a make has more to say without a login, one
//! to three further commands, each on a connection of its own since devices close after a reply.
//!
//! Who made it is told in `cgminer/make.rs`; replies are read, with the defects that real firmware has, in
//! `cgminer/json.rs`, and those of the API's older form in `cgminer/plain.rs`.

mod json;
mod make;
mod plain;

use fleet_core::{DeviceFacts, Mac, Port, Serial};
use make::Make;
use serde_json::Value;

use crate::{
    driver::{Answer, BoxFuture, Driver, DriverError},
    probe::{Ended, Probe},
    text,
};

/// Above the web pages' (50): the API names model and firmware where pages often do not.
const PRECEDENCE: u8 = 100;

/// Where the API listens on every make.
const PORT: u16 = 4028;

/// Names miners by their CGMiner-style API, read-only and without a login.
#[derive(Debug, Clone, Copy, Default)]
pub struct CgminerDriver;

impl CgminerDriver {
    /// The driver.
    pub fn new() -> Self {
        Self
    }
}

impl Driver for CgminerDriver {
    fn name(&self) -> &str {
        "cgminer"
    }

    fn default_ports(&self) -> Vec<Port> {
        Port::new(PORT).into_iter().collect()
    }

    fn precedence(&self) -> u8 {
        PRECEDENCE
    }

    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(identify(probe))
    }
}

async fn identify(probe: &mut Probe<'_>) -> Result<Answer, DriverError> {
    let Some(version) = ask(probe, "version").await? else {
        return Ok(Answer::Foreign);
    };
    if !make::is_api_reply(&version) {
        return Ok(Answer::Foreign);
    }
    if let Some(make) = Make::of(&version) {
        let said = gather(probe, make, version).await;
        return Ok(Answer::Named(Box::new(make.identification(&said))));
    }
    // Newer Whatsminers refuse `version` without naming themselves.
    if let Ok(Some(details)) = ask(probe, "devdetails").await
        && let Some(make) = Make::of(&details)
    {
        let mut said = gather(probe, make, version).await;
        said.details = details;
        return Ok(Answer::Named(Box::new(make.identification(&said))));
    }
    // Some firmware for older Antminers says in `version` only what cgminer it is.
    if let Ok(Some(stats)) = ask(probe, "stats").await
        && let Some(make) = Make::of(&stats)
    {
        let said = gather(probe, make, stats).await;
        return Ok(Answer::Named(Box::new(make.identification(&said))));
    }
    Ok(Answer::Stranger {
        evidence: make::words(&version),
    })
}

/// The replies of one device; null where it was not asked or did not say.
#[derive(Debug, Default)]
struct Said {
    /// The reply to `version`, or the one to `stats` where that named it.
    version: Value,
    details: Value,
    more: Vec<Value>,
}

/// Asks what this make has to say besides `version`. A command that fails leaves a gap, no error.
async fn gather(probe: &mut Probe<'_>, make: Make, version: Value) -> Said {
    let mut said = Said {
        version,
        ..Said::default()
    };
    for command in make.further_commands(&said.version) {
        let reply = ask(probe, command).await.ok().flatten().unwrap_or_default();
        if *command == "devdetails" {
            said.details = reply;
        } else {
            said.more.push(reply);
        }
    }
    said
}

/// The reply to one command; none when what came back is no object.
async fn ask(probe: &mut Probe<'_>, command: &str) -> Result<Option<Value>, DriverError> {
    let reply = probe
        .ask(
            format!(r#"{{"command":"{command}"}}"#).as_bytes(),
            is_complete,
        )
        .await?;
    probe.close();
    if reply.ended == Ended::Full {
        return Ok(None);
    }
    Ok(parse(&reply.bytes))
}

fn is_complete(bytes: &[u8]) -> bool {
    if plain::is_one(bytes) {
        plain::is_complete(bytes)
    } else {
        json::is_complete(bytes)
    }
}

/// The object that a reply is, in either form.
fn parse(bytes: &[u8]) -> Option<Value> {
    let value = if plain::is_one(bytes) {
        plain::parse(bytes)
    } else {
        json::parse(bytes)
    };
    value.filter(Value::is_object)
}

fn mac(text: &str) -> Option<Mac> {
    text.trim()
        .parse()
        .ok()
        .filter(|mac: &Mac| !mac.is_placeholder())
}

fn serial(text: &str) -> Option<Serial> {
    Serial::new(&text::field(text))
}

pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = is_complete(bytes);
    let Some(value) = parse(bytes) else {
        return;
    };
    let words = make::words(&value);
    assert!(words.chars().count() <= text::EVIDENCE && words.is_ascii());
    if let Some(make) = Make::of(&value) {
        let said = Said {
            version: value.clone(),
            details: value.clone(),
            more: vec![value],
        };
        let device: DeviceFacts = make.identification(&said);
        assert!(!device.driver.is_empty());
        assert!(device.evidence.chars().count() <= text::EVIDENCE);
        assert!(device.mac.is_none_or(|mac| !mac.is_placeholder()));
    }
}
