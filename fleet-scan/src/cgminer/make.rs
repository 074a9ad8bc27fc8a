//! Which reply of the CGMiner API names which make, and what each make says of model, firmware and identity.

use fleet_core::DeviceFacts;
use serde_json::Value;

use super::{Said, mac, serial};
use crate::{
    maker::{firmware as firmware_named, of_board as board_maker},
    text,
};

/// Makes that a reply can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    Antminer,
    Whatsminer,
    Avalon,
    Braiins,
    LuxOs,
    Vnish,
    Hiveon,
    Marathon,
    SealMiner,
    Auradine,
}

/// Words that name a make, in upper case. Aftermarket firmware goes first: it runs on hardware that says
/// `Antminer` all the same.
const WORDS: [(&str, Make); 15] = [
    ("BOSMINER", Make::Braiins),
    ("BOSER", Make::Braiins),
    ("LUXMINER", Make::LuxOs),
    ("MARAFW", Make::Marathon),
    ("KAONSU", Make::Marathon),
    ("VNISH", Make::Vnish),
    ("HIVEON", Make::Hiveon),
    ("BITMICRO", Make::Whatsminer),
    ("BTMINER", Make::Whatsminer),
    ("WHATSMINER", Make::Whatsminer),
    ("BDMINER", Make::SealMiner),
    ("AVALON", Make::Avalon),
    ("GCMINER", Make::Auradine),
    ("FLUXOS", Make::Auradine),
    ("\"TYPE\":\"ANTMINER", Make::Antminer),
];

/// Whether a reply is one of this API at all.
pub(super) fn is_api_reply(reply: &Value) -> bool {
    reply.get("STATUS").is_some()
}

/// What an unknown device said, for the operator.
pub(super) fn words(reply: &Value) -> String {
    let said = first(reply, "STATUS")
        .and_then(|status| text_at(status, "Description"))
        .unwrap_or_default();
    let said = if said.is_empty() {
        text_of(reply, "Description")
    } else {
        said
    };
    text::quotable(
        format!("CGMiner API, {said}")
            .trim_end_matches([',', ' '])
            .as_bytes(),
        text::EVIDENCE,
    )
}

impl Make {
    /// The make that a reply names.
    pub(super) fn of(reply: &Value) -> Option<Self> {
        if !is_api_reply(reply) {
            return None;
        }
        let text = reply.to_string().to_uppercase();
        WORDS
            .iter()
            .find(|(word, _)| text.contains(word))
            .map(|(_, make)| *make)
    }

    /// What to ask besides `version`.
    pub(super) fn further_commands(self, version: &Value) -> &'static [&'static str] {
        match self {
            Self::Antminer | Self::Vnish | Self::Hiveon | Self::Avalon => &[],
            Self::Whatsminer => &["devdetails", "get_version", "get_miner_info"],
            Self::LuxOs => &["config"],
            Self::SealMiner => &["stats"],
            Self::Braiins => &["devdetails"],
            Self::Marathon | Self::Auradine => {
                let named =
                    first(version, "VERSION").is_some_and(|v| !text_of(v, "Model").is_empty());
                if named { &[] } else { &["devdetails"] }
            }
        }
    }

    /// What all replies together say.
    pub(super) fn identification(self, said: &Said) -> DeviceFacts {
        let empty = Value::Null;
        let version = first(&said.version, "VERSION")
            .or_else(|| first(&said.version, "STATS"))
            .unwrap_or(&empty);
        let details = first(&said.details, "DEVDETAILS").unwrap_or(&empty);
        let more = |list: &str| {
            said.more
                .iter()
                .find_map(|reply| first(reply, list))
                .unwrap_or(&empty)
        };
        let message = |field: &str| {
            said.more
                .iter()
                .filter_map(|reply| reply.get("Msg"))
                .find_map(|msg| text_at(msg, field))
                .unwrap_or_default()
        };
        let named = |model: String, manufacturer: &str, firmware: String| DeviceFacts {
            driver: self.driver().to_owned(),
            scheme: "tcp".to_owned(),
            model,
            manufacturer: manufacturer.to_owned(),
            firmware,
            evidence: words_of(self, said),
            ..DeviceFacts::default()
        };
        let type_or_model = || {
            [
                text_of(version, "Type"),
                text_of(version, "Model"),
                text_of(details, "Model"),
            ]
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default()
        };
        match self {
            Self::Antminer => {
                let said_type = text_of(version, "Type");
                if let Some((model, name, number)) = aftermarket(&said_type) {
                    return DeviceFacts {
                        driver: "asicrs".to_owned(),
                        ..named(model.to_owned(), "Bitmain", firmware_named(name, number))
                    };
                }
                let firmware = [text_of(version, "BMMiner"), text_of(version, "Miner")];
                let firmware = firmware
                    .into_iter()
                    .find(|text| !text.is_empty())
                    .unwrap_or_default();
                named(said_type, "Bitmain", firmware)
            }
            Self::Vnish => {
                let said_type = text_of(version, "Type");
                let (model, number) = match aftermarket(&said_type) {
                    Some((model, _, number)) => (model.to_owned(), number.to_owned()),
                    None => (said_type, String::new()),
                };
                let number = if number.is_empty() {
                    text_of(version, "Miner")
                } else {
                    number
                };
                let firmware = firmware_named("VNish", &number);
                named(model.clone(), board_maker(&model, "VNish"), firmware)
            }
            Self::Hiveon => {
                let said_type = text_of(version, "Type");
                // What it calls its versions are those of the program that it was made from.
                let model = match said_type.to_ascii_uppercase().find("HIVEON") {
                    Some(at) => said_type[..at].trim_end().to_owned(),
                    None => said_type,
                };
                named(
                    model.clone(),
                    board_maker(&model, "Hiveon"),
                    "Hiveon".to_owned(),
                )
            }
            Self::LuxOs => {
                let config = more("CONFIG");
                let model = [type_or_model(), text_of(config, "Model")];
                let model = model
                    .into_iter()
                    .find(|text| !text.is_empty())
                    .unwrap_or_default();
                let firmware = firmware_named("LuxOS", &text_of(version, "LUXminer"));
                DeviceFacts {
                    mac: mac(&text_of(config, "MACAddr")),
                    serial: serial(&text_of(config, "SerialNumber")),
                    ..named(model.clone(), board_maker(&model, "Luxor"), firmware)
                }
            }
            Self::Braiins => {
                let model = type_or_model();
                let firmware = firmware_named("Braiins OS", &text_under(version, "BOS"));
                named(model.clone(), board_maker(&model, "Braiins"), firmware)
            }
            Self::Marathon => {
                let model = type_or_model();
                let number = [text_under(version, "KAONSU"), text_under(version, "MARAFW")];
                let number = number
                    .into_iter()
                    .find(|text| !text.is_empty())
                    .unwrap_or_default();
                named(
                    model.clone(),
                    board_maker(&model, "Marathon"),
                    firmware_named("Marathon", &number),
                )
            }
            Self::Whatsminer => DeviceFacts {
                mac: mac(&message("mac")),
                serial: serial(&message("minersn")),
                ..named(text_of(details, "Model"), "MicroBT", message("fw_ver"))
            },
            Self::Avalon => {
                // Home devices name the family only (`Avalonnano`), and the device in MODEL.
                let (product, model) = (text_of(version, "PROD"), text_of(version, "MODEL"));
                let is_told = product.to_lowercase().contains(&model.to_lowercase());
                let model = if is_told {
                    product
                } else {
                    firmware_named(&product, &model)
                };
                let firmware = [text_of(version, "VERSION"), text_of(version, "LVERSION")];
                let firmware = firmware.into_iter().find(|text| !text.is_empty());
                DeviceFacts {
                    mac: mac(&text_of(version, "MAC")),
                    ..named(model, "Canaan", firmware.unwrap_or_default())
                }
            }
            Self::SealMiner => {
                let stats = more("STATS");
                let model = firmware_named("SealMiner", &text_of(stats, "Model"));
                DeviceFacts {
                    mac: mac(&text_of(stats, "MAC")),
                    serial: serial(&text_of(stats, "Ctrl Board SN")),
                    ..named(model, "Bitdeer", text_of(stats, "Firmware"))
                }
            }
            Self::Auradine => named(type_or_model(), "Auradine", text_under(version, "GCMINER")),
        }
    }

    /// Upstream Antminers have a driver of their own; the other makes share one.
    fn driver(self) -> &'static str {
        match self {
            Self::Antminer => "antminer",
            Self::Whatsminer
            | Self::Avalon
            | Self::Braiins
            | Self::LuxOs
            | Self::Vnish
            | Self::Hiveon
            | Self::Marathon
            | Self::SealMiner
            | Self::Auradine => "asicrs",
        }
    }
}

/// What named it, in the device's own words.
fn words_of(make: Make, said: &Said) -> String {
    let said_type = first(&said.version, "VERSION")
        .or_else(|| first(&said.version, "STATS"))
        .map(|version| text_of(version, "Type"))
        .unwrap_or_default();
    let named_by_type = matches!(make, Make::Antminer | Make::Vnish | Make::Hiveon);
    if named_by_type && !said_type.is_empty() {
        return text::quotable(
            format!("CGMiner API, type {said_type}").as_bytes(),
            text::EVIDENCE,
        );
    }
    let version = words(&said.version);
    if version == "CGMiner API" {
        words(&said.details)
    } else {
        version
    }
}

/// Firmware for Antminers that is not Bitmain's puts its name behind the model, with or without a number: `Antminer
/// S19 (Vnish 1.2.0)`, `Antminer S21+ Hyd (HashMaster)`. What begins with a digit is a hashrate or a board.
fn aftermarket(said_type: &str) -> Option<(&str, &str, &str)> {
    let (model, rest) = said_type.split_once(" (")?;
    let named = rest.trim_end().strip_suffix(')')?;
    let (name, number) = named.split_once(' ').unwrap_or((named, ""));
    // `7Miners` is a name, `110TH` and `024` are none.
    let is_name = name.chars().filter(|c| c.is_alphabetic()).count() > 2;
    is_name.then_some((model, name, number))
}

/// The first object of a list.
fn first<'a>(reply: &'a Value, list: &str) -> Option<&'a Value> {
    reply.get(list)?.get(0)
}

/// The text or number of a field.
fn text_at(object: &Value, field: &str) -> Option<String> {
    match object.get(field)? {
        Value::String(text) => Some(text::field(text)),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn text_of(object: &Value, field: &str) -> String {
    text_at(object, field).unwrap_or_default()
}

/// The text of the first field whose name begins so, in any case.
fn text_under(object: &Value, prefix: &str) -> String {
    object
        .as_object()
        .and_then(|fields| {
            fields
                .keys()
                .find(|key| key.to_ascii_uppercase().starts_with(prefix))
        })
        .map(|key| text_of(object, key))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::json, *};

    fn parse(text: &str) -> Value {
        json::parse(text.as_bytes()).unwrap_or_default()
    }

    /// Shapes of replies as published with the open libraries that read them (pyasic, asic-rs), shortened.
    #[test]
    fn replies_name_their_make() {
        for (reply, expected) in [
            (
                r#"{"STATUS":[{"Description":"cgminer 1.0.0"}],"VERSION":[{"BMMiner":"1.0.0","Miner":"49.0.1.3","Type":"Antminer S19 Pro"}]}"#,
                Some(Make::Antminer),
            ),
            (
                r#"{"STATUS":[{"Description":"cgminer 1.0.0"}],"VERSION":[{"Type":"Antminer S19 (Vnish 1.2.0)"}]}"#,
                Some(Make::Vnish),
            ),
            (
                r#"{"STATUS":[{"Description":"LUXminer 2025.4"}],"VERSION":[{"LUXminer":"2025.4","Type":"Antminer S19k Pro"}]}"#,
                Some(Make::LuxOs),
            ),
            (
                r#"{"STATUS":[{"Description":"BOSer boser-openwrt 0.1.0"}],"VERSION":[{"BOSer":"boser-openwrt 0.1.0"}]}"#,
                Some(Make::Braiins),
            ),
            (
                r#"{"STATUS":"E","Msg":"invalid cmd","Description":"whatsminer v1.1"}"#,
                Some(Make::Whatsminer),
            ),
            (
                r#"{"STATUS":"E","Msg":"invalid cmd","Description":""}"#,
                None,
            ),
            (
                r#"{"STATUS":[{"STATUS":"S"}],"DEVDETAILS":[{"Driver":"bitmicro","Model":"M30S"}]}"#,
                Some(Make::Whatsminer),
            ),
            (
                r#"{"STATUS":[{"Description":"bdminer 4.11.1"}],"VERSION":[{"BDMiner":"4.11.1"}]}"#,
                Some(Make::SealMiner),
            ),
            (
                r#"{"STATUS":[{"Description":"cgminer 4.11.1"}],"VERSION":[{"PROD":"AvalonMiner 1246-81"}]}"#,
                Some(Make::Avalon),
            ),
            (
                r#"{"STATUS":[{"Description":"cgminer 4.12.1"}],"VERSION":[{"CGMiner":"4.12.1"}]}"#,
                None,
            ),
            (r#"{"note":"an Antminer, a Whatsminer and VNISH"}"#, None),
            (
                r#"{"STATUS":[{"Description":"cgminer 4"}],"VERSION":[{"Type":"not an Antminer"}]}"#,
                None,
            ),
        ] {
            assert_eq!(Make::of(&parse(reply)), expected, "{reply}");
        }
    }

    #[test]
    fn aftermarket_firmware_is_named_behind_the_model() {
        for (said_type, expected) in [
            (
                "Antminer S19 (Vnish 1.2.0)",
                Some(("Antminer S19", "Vnish", "1.2.0")),
            ),
            (
                "Antminer T21 (7Miners 1.2.6-rc1)",
                Some(("Antminer T21", "7Miners", "1.2.6-rc1")),
            ),
            (
                "Antminer S21+ Hyd (HashMaster)",
                Some(("Antminer S21+ Hyd", "HashMaster", "")),
            ),
            ("Antminer S19 PRO (110TH)", None),
            ("Antminer L3+ (024)", None),
            ("Antminer S21+ Hyd.", None),
            ("Antminer S19 (Vnish", None),
        ] {
            assert_eq!(aftermarket(said_type), expected, "{said_type}");
        }
        let version = parse(
            r#"{"STATUS":[],"VERSION":[{"BMMiner":"1.0.0","Type":"Antminer T21 (7Miners 1.2.6-rc1)"}]}"#,
        );
        let named = Make::Antminer.identification(&Said {
            version,
            ..Said::default()
        });
        assert_eq!(
            (
                named.driver.as_str(),
                named.model.as_str(),
                named.firmware.as_str()
            ),
            ("asicrs", "Antminer T21", "7Miners 1.2.6-rc1")
        );
    }

    #[test]
    fn firmware_of_upstream_antminers_is_bmminer_else_miner() {
        for (fields, expected) in [
            (r#""BMMiner":"1.0.0","Miner":"49.0.1.3""#, "1.0.0"),
            (r#""Miner":"uart_trans.1.3""#, "uart_trans.1.3"),
            (r#""API":"3.1""#, ""),
        ] {
            let version = parse(&format!(
                r#"{{"STATUS":[],"VERSION":[{{{fields},"Type":"Antminer S19"}}]}}"#
            ));
            let named = Make::Antminer.identification(&Said {
                version,
                ..Said::default()
            });
            assert_eq!(
                (named.firmware.as_str(), named.model.as_str()),
                (expected, "Antminer S19")
            );
            assert_eq!(named.driver, "antminer");
        }
    }

    #[test]
    fn placeholders_are_no_identity() {
        let version = parse(r#"{"STATUS":[],"VERSION":[{"LUXminer":"1"}]}"#);
        let config = parse(r#"{"CONFIG":[{"MACAddr":"00:00:00:00:00:00","SerialNumber":"N/A"}]}"#);
        let named = Make::LuxOs.identification(&Said {
            version,
            more: vec![config],
            ..Said::default()
        });
        assert_eq!((named.mac, named.serial), (None, None));
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("cgminer-make"))]

        #[test]
        fn no_reply_panics_and_evidence_is_bounded(text in r#"\{"STATUS":\[\{"Description":"(BOSer|LUXminer|btminer|vnish|AVALON|bdminer|kaonsu|gcminer)[^"\\]{0,600}"\}\],"(VERSION|DEVDETAILS|CONFIG|Msg)":\[\{"(Type|Model|MAC|mac)":"[^"\\]{0,400}"\}\]"#) {
            let reply = parse(&text);
            prop_assert!(words(&reply).chars().count() <= text::EVIDENCE);
            let make = Make::of(&reply);
            prop_assert!(make.is_some());
            if let Some(make) = make {
                let said = Said { version: reply.clone(), details: reply.clone(), more: vec![reply] };
                let named = make.identification(&said);
                prop_assert!(named.evidence.chars().count() <= text::EVIDENCE);
                prop_assert!(!named.driver.is_empty());
            }
        }
    }
}
