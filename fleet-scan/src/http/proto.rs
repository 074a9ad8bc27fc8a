//! Proto rigs: their API tells MAC, serial number, model and firmware without a login.

use fleet_core::{DeviceFacts, Serial};
use serde_json::Value;

use super::{mac, text_of};

/// What tells MAC and the control board's serial number.
pub(super) const PAIRING_INFO: &str = "/api/v1/pairing/info";

/// What tells model and firmware.
pub(super) const SYSTEM: &str = "/api/v1/system";

pub(super) fn is_pairing_info(info: &Value) -> bool {
    mac(&text_of(info, "mac")).is_some() && info.get("cb_sn").is_some_and(Value::is_string)
}

/// System information is in an envelope in some versions.
pub(super) fn identification(pairing: &Value, system: &Value) -> DeviceFacts {
    let system = system.get("system-info").unwrap_or(system);
    let maker = text_of(system, "manufacturer");
    let model = [text_of(system, "model"), text_of(system, "product_name")];
    DeviceFacts {
        driver: "proto".to_owned(),
        model: model
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default(),
        manufacturer: if maker.is_empty() {
            "Proto".to_owned()
        } else {
            maker
        },
        firmware: system
            .get("os")
            .map(|os| text_of(os, "version"))
            .unwrap_or_default(),
        mac: mac(&text_of(pairing, "mac")),
        serial: Serial::new(&text_of(pairing, "cb_sn")),
        evidence: PAIRING_INFO.to_owned(),
        ..DeviceFacts::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rig_is_read_with_and_without_envelope() {
        let pairing = json!({"mac": "02:00:00:ad:66:39", "cb_sn": "B1"});
        let bare = json!({"model": "Rig", "manufacturer": "Proto", "os": {"version": "1.8.0"}});
        for system in [bare.clone(), json!({ "system-info": bare })] {
            let rig = identification(&pairing, &system);
            assert_eq!(
                (
                    rig.model.as_str(),
                    rig.firmware.as_str(),
                    rig.driver.as_str()
                ),
                ("Rig", "1.8.0", "proto")
            );
            assert_eq!(
                rig.mac.map(|mac| mac.to_string()).as_deref(),
                Some("02:00:00:AD:66:39")
            );
        }
        assert!(!is_pairing_info(
            &json!({"mac": "00:00:00:00:00:00", "cb_sn": "B1"})
        ));
        assert!(!is_pairing_info(&json!({"mac": "02:00:00:ad:66:39"})));
    }
}
