//! VNish (AnthillOS), firmware for Antminers: its API tells model, version and MAC without unlocking anything.

use fleet_core::{DeviceFacts, Serial};
use serde_json::Value;

use super::{mac, text_of};
use crate::maker;

/// What tells model, version, MAC and serial number.
pub(super) const INFO: &str = "/api/v1/info";

/// What the information says; only the firmware's name when there is none.
pub(super) fn identification(info: &Value) -> DeviceFacts {
    let model = text_of(info, "miner");
    let network = info.pointer("/system/network_status");
    DeviceFacts {
        driver: "asicrs".to_owned(),
        manufacturer: maker::of_board(&model, "VNish").to_owned(),
        firmware: maker::firmware("VNish", &text_of(info, "fw_version")),
        mac: network.and_then(|network| mac(&text_of(network, "mac"))),
        serial: Serial::new(&text_of(info, "serial")),
        evidence: if model.is_empty() {
            String::new()
        } else {
            INFO.to_owned()
        },
        model,
        ..DeviceFacts::default()
    }
}
