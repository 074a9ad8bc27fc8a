//! AxeOS and what descends from it: Bitaxe, NerdAxe, Lucky Miner. Its API tells everybody everything.

use fleet_core::DeviceFacts;
use serde_json::Value;

use super::{mac, text_of};

/// What tells model, firmware and MAC.
pub(super) const INFO: &str = "/api/system/info";

/// Whether a value is the information of such a device: no other API has this name in it.
pub(super) fn is_info(info: &Value) -> bool {
    !text_of(info, "ASICModel").is_empty()
}

/// What the information says; a Bitaxe without any when there is none.
pub(super) fn identification(info: &Value) -> DeviceFacts {
    let (manufacturer, model) = make_and_model(info);
    DeviceFacts {
        driver: "asicrs".to_owned(),
        model,
        manufacturer: manufacturer.to_owned(),
        firmware: text_of(info, "version"),
        mac: mac(&text_of(info, "macAddr")),
        evidence: if is_info(info) {
            INFO.to_owned()
        } else {
            String::new()
        },
        ..DeviceFacts::default()
    }
}

/// Newer firmware says what it runs on, forks under names of their own; else chip and board tell.
fn make_and_model(info: &Value) -> (&'static str, String) {
    let device = text_of(info, "deviceModel");
    if device.starts_with("Nerd") {
        return ("NerdAxe", device);
    }
    let lucky = text_of(info, "minerModel");
    if !lucky.is_empty() && text_of(info, "initMiner") == "lucky" {
        return ("Lucky Miner", lucky);
    }
    let model = match device.as_str() {
        "" => of_chip_and_board(&text_of(info, "ASICModel"), &text_of(info, "boardVersion")),
        device if device.starts_with("Bitaxe") => device.to_owned(),
        device => format!("Bitaxe {device}"),
    };
    ("Bitaxe", model)
}

/// Boards of the 700s carry six chips (bitaxeorg/ESP-Miner, pull request 1395).
fn of_chip_and_board(chip: &str, board: &str) -> String {
    let name = match chip {
        "BM1397" => " Max",
        "BM1366" => " Ultra",
        "BM1368" if board.starts_with('7') => " SupraHex",
        "BM1368" => " Supra",
        "BM1370" => " Gamma",
        _ => "",
    };
    format!("Bitaxe{name}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_descendant_of_axeos_is_named_by_its_own_word_or_its_chip_and_board() {
        for (info, expected) in [
            (json!({"ASICModel": "BM1368"}), ("Bitaxe", "Bitaxe Supra")),
            (
                json!({"ASICModel": "BM1368", "boardVersion": "702"}),
                ("Bitaxe", "Bitaxe SupraHex"),
            ),
            (
                json!({"ASICModel": "BM1370", "deviceModel": "Gamma"}),
                ("Bitaxe", "Bitaxe Gamma"),
            ),
            (json!({"deviceModel": "Bitaxe GT"}), ("Bitaxe", "Bitaxe GT")),
            (
                json!({"ASICModel": "BM1366", "minerModel": "LV07", "initMiner": "lucky"}),
                ("Lucky Miner", "LV07"),
            ),
            (
                json!({"ASICModel": "BM1370", "deviceModel": "NerdQAxe++"}),
                ("NerdAxe", "NerdQAxe++"),
            ),
            (json!({"ASICModel": "BM9999"}), ("Bitaxe", "Bitaxe")),
            (json!(null), ("Bitaxe", "Bitaxe")),
        ] {
            let device = identification(&info);
            assert_eq!(
                (device.manufacturer.as_str(), device.model.as_str()),
                expected,
                "{info}"
            );
        }
    }
}
