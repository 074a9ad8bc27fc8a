//! How upstream's own nodes report a device. Pure. Start with [`Naming::report`].
//!
//! Upstream's server pairs a device by the driver, make and port of its report, and knows devices without MAC and serial
//! by a hash of them. Its plugin `asicrs` names makes, models and firmware differently from this node's rules, and uses
//! the port of the web page. The names are facts of that plugin and of its library asic-rs.

use fleet_core::{DeviceFacts, Endpoint, Port};
use fleet_scan::DefaultPassword;

/// The driver whose plugin uses other names.
const DRIVER: &str = "asicrs";
/// The driver whose plugin takes every API that calls itself an Antminer, also under firmware that it does not know.
const ANTMINER: &str = "antminer";
/// The driver whose plugin reports whether the default password is active.
const REPORTS_DEFAULT: &str = "proto";
/// The model of a Proto rig that does not state one.
const RIG: &str = "Rig";
/// The port of the CGMiner API, and that of web pages.
const API: u16 = 4028;
const WEB: u16 = 80;

/// The names for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// Those of this node's rules.
    Own,
    /// Those of upstream's plugins.
    Upstream,
}

/// A make of the driver `asicrs`.
struct Make {
    ours: Ours,
    theirs: &'static str,
    /// The driver of upstream's plugin.
    driver: &'static str,
    /// Whether upstream's plugin reports the port of the web page instead of that of the API.
    at_page: bool,
    model: fn(&str) -> String,
}

/// How a make shows in the facts of this node's rules.
enum Ours {
    /// By the name before the version of its firmware, not by the make of the hardware.
    Firmware(&'static str),
    Manufacturer(&'static str),
}

const MAKES: [Make; 12] = [
    firmware("VNish", "VNish"),
    firmware("Braiins OS", "Braiins"),
    firmware("LuxOS", "LuxOS"),
    firmware("Marathon", "Marathon"),
    make("MicroBT", "Whatsminer", false, whatsminer),
    make("Canaan", "Avalonminer", false, avalon),
    make("Bitaxe", "Bitaxe", true, bitaxe),
    make("NerdAxe", "Nerdaxe", true, nerdaxe),
    make("ePIC", "ePIC", true, str::to_owned),
    make("Auradine", "Auradine", true, str::to_uppercase),
    named_bitmain("AsicSeer", str::to_owned),
    named_bitmain("Hiveon", hiveon),
];

const fn firmware(ours: &'static str, theirs: &'static str) -> Make {
    Make {
        ours: Ours::Firmware(ours),
        theirs,
        driver: DRIVER,
        at_page: true,
        model: antminer,
    }
}

/// Firmware for Antminers that upstream's plugin `antminer` takes for Bitmain's.
const fn named_bitmain(ours: &'static str, model: fn(&str) -> String) -> Make {
    Make {
        ours: Ours::Firmware(ours),
        theirs: "Bitmain",
        driver: ANTMINER,
        at_page: false,
        model,
    }
}

const fn make(
    ours: &'static str,
    theirs: &'static str,
    at_page: bool,
    model: fn(&str) -> String,
) -> Make {
    Make {
        ours: Ours::Manufacturer(ours),
        theirs,
        driver: DRIVER,
        at_page,
        model,
    }
}

impl Make {
    fn of(facts: &DeviceFacts) -> Option<&'static Self> {
        let mut makes = MAKES
            .iter()
            .filter(|make| facts.driver == DRIVER || facts.driver == make.driver);
        makes.find(|make| match make.ours {
            Ours::Firmware(name) => version(&facts.firmware, name).is_some(),
            Ours::Manufacturer(name) => facts.manufacturer == name,
        })
    }
}

impl Naming {
    /// The endpoint and facts to report. `may_report` decides whether a port is in the command and the site's policy.
    pub(super) fn report(
        self,
        endpoint: Endpoint,
        facts: DeviceFacts,
        may_report: impl Fn(Endpoint) -> bool,
    ) -> (Endpoint, DeviceFacts) {
        let facts = DeviceFacts {
            // A field of this product. The name tells people outside the site about its network.
            host_name: facts.host_name.filter(|_| self == Self::Own),
            ..facts
        };
        let Some(make) = self.make(&facts) else {
            return (endpoint, self.with_model(facts));
        };
        let page = Port::new(WEB).map(|port| Endpoint { port, ..endpoint });
        let page =
            page.filter(|page| make.at_page && endpoint.port.number() == API && may_report(*page));
        (page.unwrap_or(endpoint), renamed(make, facts))
    }

    /// The facts to report about a paired device.
    pub(super) fn facts(self, facts: DeviceFacts) -> DeviceFacts {
        match self.make(&facts) {
            Some(make) => renamed(make, facts),
            None => facts,
        }
    }

    /// Whether `theirs` is another name of the device's make.
    pub(super) fn is_make(self, facts: &DeviceFacts, theirs: &str) -> bool {
        self.make(facts)
            .is_some_and(|make| make.theirs.eq_ignore_ascii_case(theirs))
    }

    /// The driver name to report for a device.
    pub(super) fn driver(self, facts: &DeviceFacts) -> &str {
        self.make(facts).map_or(&facts.driver, |make| make.driver)
    }

    /// The flag of the default password to report for a device of this driver. Upstream leaves it empty where only the
    /// login that worked shows it.
    pub(super) fn default_password(
        self,
        driver: &str,
        known: Option<DefaultPassword>,
    ) -> Option<bool> {
        let known = known?;
        match (self, known) {
            (Self::Own, _) | (_, DefaultPassword::Reported(_)) => Some(known.is_active()),
            (Self::Upstream, DefaultPassword::Inferred(active)) => {
                (driver == REPORTS_DEFAULT).then_some(active)
            }
        }
    }

    fn with_model(self, facts: DeviceFacts) -> DeviceFacts {
        let is_nameless = facts.driver == REPORTS_DEFAULT && facts.model.is_empty();
        if self == Self::Upstream && is_nameless {
            return DeviceFacts {
                model: RIG.to_owned(),
                ..facts
            };
        }
        facts
    }

    fn make(self, facts: &DeviceFacts) -> Option<&'static Make> {
        match self {
            Self::Own => None,
            Self::Upstream => Make::of(facts),
        }
    }
}

fn renamed(make: &Make, facts: DeviceFacts) -> DeviceFacts {
    let firmware = match make.ours {
        Ours::Firmware(name) => version(&facts.firmware, name)
            .unwrap_or_default()
            .to_owned(),
        Ours::Manufacturer(_) => facts.firmware.clone(),
    };
    let model = if facts.model.is_empty() {
        String::new()
    } else {
        (make.model)(&facts.model)
    };
    DeviceFacts {
        driver: make.driver.to_owned(),
        model,
        manufacturer: make.theirs.to_owned(),
        firmware,
        ..facts
    }
}

/// The version behind the name of a firmware.
fn version<'f>(firmware: &'f str, name: &str) -> Option<&'f str> {
    let rest = firmware.strip_prefix(name)?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim_start())
}

/// Models of Bitmain in the spelling of asic-rs.
const ANTMINERS: [&str; 56] = [
    "D3",
    "HS3",
    "L3Plus",
    "L3PlusPlus",
    "KA3",
    "KS3",
    "DR5",
    "KS5",
    "KS5Pro",
    "L7",
    "K7",
    "D7",
    "E9Pro",
    "D9",
    "S9",
    "S9i",
    "S9j",
    "T9",
    "L9",
    "L11",
    "Z15",
    "Z15Pro",
    "S17",
    "S17Plus",
    "S17Pro",
    "S17e",
    "T17",
    "T17Plus",
    "T17e",
    "S19",
    "S19L",
    "S19Pro",
    "S19j",
    "S19i",
    "S19Plus",
    "S19ProPlus",
    "S19jPro",
    "S19jProPlus",
    "S19XP",
    "S19a",
    "S19aPro",
    "S19Hydro",
    "S19ProHydro",
    "S19ProPlusHydro",
    "S19KPro",
    "S19jXP",
    "T19",
    "S21",
    "S21Pro",
    "S21ProPlus",
    "S21XP",
    "S21Plus",
    "S21Hydro",
    "S21PlusHydro",
    "S21eXPHydro",
    "T21",
];

/// `Antminer S21 Pro` is `S21Pro`. Models that asic-rs does not know keep their name, in upper case.
fn antminer(model: &str) -> String {
    let upper = model.to_uppercase();
    let folded = upper.trim_start_matches("ANTMINER").replace([' ', '.'], "");
    let folded = folded.replace('+', "PLUS");
    let folded = match folded.strip_suffix("HYD") {
        Some(rest) => format!("{rest}HYDRO"),
        None => folded,
    };
    if folded == "S19J88NOPIC" {
        return "S19jNoPIC".to_owned();
    }
    let known = ANTMINERS.iter().find(|name| name.to_uppercase() == folded);
    known.map_or(upper, |name| (*name).to_owned())
}

/// Its API adds the name of the firmware to the model.
fn hiveon(model: &str) -> String {
    format!("{model} Hiveon")
}

/// `M30S+_VE41` is `M30SPlusVE40`: the last digit of a batch is always 0.
fn whatsminer(model: &str) -> String {
    let mut name = model.to_uppercase().replace('_', "").replace('+', "Plus");
    if name.pop().is_some() {
        name.push('0');
    }
    name
}

/// `AvalonMiner 1246-81` is `Avalon1246`.
fn avalon(model: &str) -> String {
    let word = model.rsplit(' ').next().unwrap_or(model);
    let word = word.split('-').next().unwrap_or(word).to_uppercase();
    let known = match &*word {
        "721" | "741" | "761" | "821" | "841" | "851" | "921" | "1026" | "1047" | "1066"
        | "1246" | "1466" | "1566" => word.clone(),
        "1166PRO" => "1166Pro".to_owned(),
        "1126PRO" => "1126Pro".to_owned(),
        "15" | "15PRO" => "15".to_owned(),
        "1566HA" => "1566Ha".to_owned(),
        "1566HU" => "1566Hu".to_owned(),
        "NANO3" => "Nano3".to_owned(),
        "NANO3S" => "Nano3s".to_owned(),
        "Q" => "HomeQ".to_owned(),
        _ => return word,
    };
    format!("Avalon{known}")
}

/// asic-rs names a board after its chip.
fn bitaxe(model: &str) -> String {
    match model.strip_prefix("Bitaxe ").unwrap_or(model) {
        "Hex" => "Ultra",
        "SupraHex" => "Supra",
        "GammaDuo" | "GammaTurbo" => "Gamma",
        board => board,
    }
    .to_owned()
}

fn nerdaxe(model: &str) -> String {
    match model {
        "NerdQAxe++" | "nerdqaxe++" => "NerdQAxe",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use fleet_core::parse_literal;

    use super::*;

    /// Driver, make, model, firmware and port.
    type Row = (&'static str, &'static str, &'static str, &'static str, u16);

    fn reported((driver, make, model, firmware, port): Row, ports: &[u16]) -> [String; 5] {
        let endpoint = Endpoint {
            ip: parse_literal("10.0.0.7").expect("an address"),
            port: Port::new(port).expect("a port"),
        };
        let facts = DeviceFacts {
            driver: driver.to_owned(),
            manufacturer: make.to_owned(),
            model: model.to_owned(),
            firmware: firmware.to_owned(),
            ..DeviceFacts::default()
        };
        let may_report = |endpoint: Endpoint| ports.contains(&endpoint.port.number());
        let (endpoint, facts) = Naming::Upstream.report(endpoint, facts.clone(), may_report);
        let port = endpoint.port.to_string();
        [
            facts.driver,
            facts.manufacturer,
            facts.model,
            facts.firmware,
            port,
        ]
    }

    #[test]
    fn an_upstream_server_never_gets_the_name_of_a_host() {
        let endpoint = Endpoint {
            ip: parse_literal("10.0.0.7").expect("an address"),
            port: Port::new(80).expect("a port"),
        };
        for (naming, expected) in [(Naming::Own, true), (Naming::Upstream, false)] {
            for manufacturer in ["Bitaxe", "No such make"] {
                let facts = DeviceFacts {
                    driver: DRIVER.to_owned(),
                    manufacturer: manufacturer.to_owned(),
                    host_name: "dns:miner7.lan".parse().ok(),
                    ..DeviceFacts::default()
                };
                let (_, reported) = naming.report(endpoint, facts, |_| true);
                assert_eq!(reported.host_name.is_some(), expected, "{naming:?}");
            }
        }
    }

    /// The first three are rows that upstream recorded with its plugins. The two with firmware of Hiveon and AsicSeer are those
    /// that upstream's node reported of recorded answers.
    #[test]
    fn a_device_is_named_as_upstreams_plugins_name_it() {
        let ports = [80, 443, 4028, 4433];
        for (ours, theirs) in [
            (
                ("asicrs", "Bitmain", "Antminer S21 Pro", "VNish 1.2.7", 4028),
                ("asicrs", "VNish", "S21Pro", "1.2.7", 80),
            ),
            (
                ("asicrs", "MicroBT", "M60SVK40", "20240624.18.REL", 4028),
                ("asicrs", "Whatsminer", "M60SVK40", "20240624.18.REL", 4028),
            ),
            (
                ("antminer", "Bitmain", "Antminer S19", "1.0.0", 4028),
                ("antminer", "Bitmain", "Antminer S19", "1.0.0", 4028),
            ),
            (
                ("asicrs", "MicroBT", "M30S+_VE41", "20251209.16.Rel2", 4433),
                (
                    "asicrs",
                    "Whatsminer",
                    "M30SPlusVE40",
                    "20251209.16.Rel2",
                    4433,
                ),
            ),
            (
                (
                    "asicrs",
                    "Bitmain",
                    "Antminer S19J88NoPic",
                    "Braiins OS 25.05.1",
                    80,
                ),
                ("asicrs", "Braiins", "S19jNoPIC", "25.05.1", 80),
            ),
            (
                (
                    "asicrs",
                    "Bitmain",
                    "Antminer S19 Pro+ Hyd.",
                    "LuxOS 2025.4.8",
                    4028,
                ),
                ("asicrs", "LuxOS", "S19ProPlusHydro", "2025.4.8", 80),
            ),
            (
                ("asicrs", "Bitmain", "Antminer S99", "LuxOS", 4028),
                ("asicrs", "LuxOS", "ANTMINER S99", "", 80),
            ),
            (
                ("asicrs", "Canaan", "AvalonMiner 1246-81", "21030201", 4028),
                ("asicrs", "Avalonminer", "Avalon1246", "21030201", 4028),
            ),
            (
                ("asicrs", "Bitaxe", "Bitaxe GammaTurbo", "v2.13.1", 80),
                ("asicrs", "Bitaxe", "Gamma", "v2.13.1", 80),
            ),
            (
                ("asicrs", "NerdAxe", "NerdQAxe++", "v1.0.36", 80),
                ("asicrs", "Nerdaxe", "NerdQAxe", "v1.0.36", 80),
            ),
            (
                ("asicrs", "Bitmain", "Antminer S19x88", "Hiveon", 4028),
                ("antminer", "Bitmain", "Antminer S19x88 Hiveon", "", 4028),
            ),
            (
                ("asicrs", "Bitmain", "Antminer S9", "AsicSeer 1.1.9", 4028),
                ("antminer", "Bitmain", "Antminer S9", "1.1.9", 4028),
            ),
            (
                ("asicrs", "Goldshell", "KD6", "2.2.5", 80),
                ("asicrs", "Goldshell", "KD6", "2.2.5", 80),
            ),
            (
                ("proto", "Proto", "Rig R2", "1.0.1", 443),
                ("proto", "Proto", "Rig R2", "1.0.1", 443),
            ),
            (
                ("proto", "Proto", "", "1.0.1", 443),
                ("proto", "Proto", "Rig", "1.0.1", 443),
            ),
        ] {
            let (driver, make, model, firmware, port) = theirs;
            let expected = [driver, make, model, firmware, &port.to_string()].map(str::to_owned);
            assert_eq!(reported(ours, &ports), expected, "{ours:?}");
        }
    }

    #[test]
    fn a_page_outside_the_command_is_not_reported() {
        let vnish = ("asicrs", "Bitmain", "Antminer S21 Pro", "VNish 1.2.7", 4028);
        assert_eq!(reported(vnish, &[4028])[4], "4028");
    }

    #[test]
    fn another_spelling_of_a_make_is_only_accepted_for_its_devices() {
        let facts = |driver: &str, manufacturer: &str| DeviceFacts {
            driver: driver.to_owned(),
            manufacturer: manufacturer.to_owned(),
            ..DeviceFacts::default()
        };
        let whatsminer = facts("asicrs", "MicroBT");
        assert!(Naming::Upstream.is_make(&whatsminer, "WhatsMiner"));
        assert!(!Naming::Own.is_make(&whatsminer, "Whatsminer"));
        assert!(!Naming::Upstream.is_make(&facts("asicrs", "Canaan"), "Whatsminer"));
        assert!(!Naming::Upstream.is_make(&facts("acme", "MicroBT"), "Whatsminer"));
    }

    #[test]
    fn an_inferred_default_password_is_only_reported_where_upstream_reports_it() {
        use DefaultPassword::{Inferred, Reported};
        for (naming, driver, known, expected) in [
            (Naming::Own, "antminer", Some(Inferred(true)), Some(true)),
            (Naming::Upstream, "antminer", Some(Inferred(true)), None),
            (Naming::Upstream, "asicrs", Some(Inferred(false)), None),
            (
                Naming::Upstream,
                "asicrs",
                Some(Reported(false)),
                Some(false),
            ),
            (Naming::Upstream, "proto", Some(Inferred(true)), Some(true)),
            (Naming::Upstream, "proto", None, None),
        ] {
            let sent = naming.default_password(driver, known);
            assert_eq!(sent, expected, "{naming:?} {driver} {known:?}");
        }
    }
}
