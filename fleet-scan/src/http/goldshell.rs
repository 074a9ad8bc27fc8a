//! Goldshell boxes: one path of their web server answers without a login, and names model and firmware.

use fleet_core::DeviceFacts;
use serde_json::Value;

use super::text_of;

/// What tells model and firmware; all others want a token.
pub(super) const STATUS: &str = "/mcb/status";

/// How every model begins.
const MAKE: &str = "Goldshell";

pub(super) fn is_status(status: &Value) -> bool {
    text_of(status, "model").starts_with(MAKE)
}

pub(super) fn identification(status: &Value) -> DeviceFacts {
    let model = text_of(status, "model");
    DeviceFacts {
        driver: "asicrs".to_owned(),
        model: model
            .strip_prefix(MAKE)
            .map(|rest| rest.trim_start_matches(['-', ' ']).to_owned())
            .unwrap_or(model),
        manufacturer: MAKE.to_owned(),
        firmware: text_of(status, "firmware"),
        evidence: STATUS.to_owned(),
        ..DeviceFacts::default()
    }
}
