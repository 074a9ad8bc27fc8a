//! ePIC control boards serve an HTTP API where others have the CGMiner API (TCP 4028): two paths of it answer without
//! a password. Paths and names are those of the maker's own documentation (epicblockchain/epic-dashboard, docs/API.md).

use fleet_core::{DeviceFacts, Port};
use serde_json::Value;

use super::{get_json, text_of};
use crate::{
    driver::{Answer, BoxFuture, Driver, DriverError},
    maker,
    probe::Probe,
};

/// The CGMiner API's: both own the port and say as much.
const PRECEDENCE: u8 = 100;

/// Where the API listens.
const PORT: u16 = 4028;

/// What tells the software.
const SUMMARY: &str = "/summary";

/// What tells the model.
const CAPABILITIES: &str = "/capabilities";

/// Names ePIC control boards by their HTTP API, read-only and without a password.
#[derive(Debug, Clone, Copy, Default)]
pub struct EpicDriver;

impl EpicDriver {
    /// The driver.
    pub fn new() -> Self {
        Self
    }
}

impl Driver for EpicDriver {
    fn name(&self) -> &str {
        "epic"
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
    let Some(summary) = get_json(probe, SUMMARY).await?.filter(is_summary) else {
        return Ok(Answer::Foreign);
    };
    let capabilities = get_json(probe, CAPABILITIES).await.ok().flatten();
    let device = identification(&summary, &capabilities.unwrap_or_default());
    Ok(Answer::Named(Box::new(device)))
}

/// Whether a value is a summary of such a board.
pub(super) fn is_summary(summary: &Value) -> bool {
    !text_of(summary, "Software").is_empty()
        && ["Stratum", "HBs", "Session"]
            .iter()
            .all(|part| summary.get(part).is_some())
}

pub(super) fn identification(summary: &Value, capabilities: &Value) -> DeviceFacts {
    let model = match text_of(capabilities, "Model") {
        model if model.eq_ignore_ascii_case("undefined") => String::new(),
        model => model,
    };
    DeviceFacts {
        driver: "asicrs".to_owned(),
        scheme: "http".to_owned(),
        manufacturer: maker::of_board(&model, "ePIC").to_owned(),
        firmware: text_of(summary, "Software"),
        model,
        evidence: SUMMARY.to_owned(),
        ..DeviceFacts::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The form is the maker's documentation's, the values are ours: no recorded answer is published.
    #[test]
    fn a_board_is_named_by_summary_and_capabilities() {
        let summary = json!({"Software": "PowerPlay v1.2.3", "Mining": {}, "Stratum": {}, "Session": {}, "HBs": []});
        assert!(is_summary(&summary));
        for (capabilities, expected) in [
            (json!({"Model": "SC200"}), ("ePIC", "SC200")),
            (
                json!({"Model": "Antminer S19j Pro"}),
                ("Bitmain", "Antminer S19j Pro"),
            ),
            (json!({"Model": "Undefined"}), ("ePIC", "")),
            (json!(null), ("ePIC", "")),
        ] {
            let board = identification(&summary, &capabilities);
            assert_eq!(
                (board.manufacturer.as_str(), board.model.as_str()),
                expected
            );
            assert_eq!(board.firmware, "PowerPlay v1.2.3");
        }
        for other in [
            json!({"Software": "PowerPlay"}),
            json!({"Stratum": {}, "Session": {}, "HBs": []}),
            json!([]),
        ] {
            assert!(!is_summary(&other), "{other}");
        }
    }
}
