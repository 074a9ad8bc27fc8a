//! Replies of the CGMiner API in the format of each make: JSON without line breaks. The caller adds the final NUL and
//! closes the connection.

use crate::site::{Device, Make};

/// Braiins OS reports a build hash as its version here.
const BOSER: &str = "boser-openwrt 0.1.0-11012d53";

/// The timestamp in replies. The clocks of real devices are often wrong too.
const WHEN: u64 = 1_755_615_294;

/// The command of a complete request: `{"command":"version"}`, or the older `version` and `version|`. Like the real
/// API, it treats any other text as an unknown command.
pub(crate) fn command_in(request: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(request);
    let text = text.trim_matches(['\0', '\n', '\r', ' ']);
    if text.starts_with('{') {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        let command = value.get("command").or_else(|| value.get("cmd"))?;
        return Some(command.as_str()?.to_owned());
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (!text.is_empty()).then(|| text[..end].to_owned())
}

/// The reply to a command.
pub(crate) fn reply(device: &Device, command: &str) -> String {
    match (device.make, command) {
        (Make::Whatsminer, "version") => whatsminer_refusal(device),
        (Make::Whatsminer, "get_version") => {
            format!(
                r#"{{"STATUS":"S","When":{WHEN},"Code":131,"Msg":{{"api_ver":"2.0.5","fw_ver":"{}","platform":"H616"}},"Description":""}}"#,
                device.firmware
            )
        }
        (Make::Whatsminer, "get_miner_info") => {
            format!(
                r#"{{"STATUS":"S","When":{WHEN},"Code":131,"Msg":{{"mac":"{}","hostname":"WhatsMiner","ledstat":"auto"}},"Description":""}}"#,
                device.mac.as_deref().unwrap_or("00:00:00:00:00:00")
            )
        }
        (Make::Whatsminer, "get_token") => super::whatsminer::token(device),
        (_, "version") => version(device),
        (_, "devdetails") => devdetails(device),
        (_, "stats") => stats(device),
        (Make::LuxOs, "config") => luxos_config(device),
        (Make::Whatsminer, _) => whatsminer_refusal(device),
        (_, _) => {
            let daemon = daemon(device);
            format!(
                r#"{{"STATUS":[{{"STATUS":"E","When":{WHEN},"Code":14,"Msg":"Invalid command","Description":"{daemon}"}}],"id":1}}"#
            )
        }
    }
}

/// Old firmware reports its name in the refusal. Newer firmware leaves the field empty.
fn whatsminer_refusal(device: &Device) -> String {
    let description = if device.firmware.as_str() < "2021" {
        "whatsminer v1.1"
    } else {
        ""
    };
    format!(
        r#"{{"STATUS":"E","When":{WHEN},"Code":14,"Msg":"invalid cmd","Description":"{description}"}}"#
    )
}

fn status(code: u8, message: &str, device: &Device) -> String {
    format!(
        r#"{{"STATUS":"S","When":{WHEN},"Code":{code},"Msg":"{message}","Description":"{}"}}"#,
        daemon(device)
    )
}

/// The mining program and its version, which fill every `Description`.
fn daemon(device: &Device) -> String {
    let firmware = &device.firmware;
    match device.make {
        Make::Braiins => format!("BOSer {BOSER}"),
        Make::LuxOs => format!("LUXminer {firmware}"),
        Make::SealMiner => "bdminer 4.11.1".to_owned(),
        Make::Marathon => format!("kaonsu {firmware}"),
        Make::Auradine => format!("gcminer {firmware}"),
        Make::Avalon => "cgminer 4.11.1".to_owned(),
        Make::Whatsminer => "btminer".to_owned(),
        Make::PlainCgminer => format!("cgminer {firmware}"),
        Make::Antminer
        | Make::Vnish
        | Make::Bitaxe
        | Make::NerdAxe
        | Make::Epic
        | Make::Proto
        | Make::Printer
        | Make::Router => "cgminer 1.0.0".to_owned(),
    }
}

fn version(device: &Device) -> String {
    let (model, firmware) = (&device.model, &device.firmware);
    let (message, fields) = match device.make {
        Make::Antminer if firmware.starts_with("uart_trans") => (
            "CGMiner versions",
            format!(
                r#""API":"3.1","Miner":"{firmware}","CompileTime":"Fri Sep 15 14:39:20 CST 2023","Type":"{model}""#
            ),
        ),
        Make::Antminer => (
            "CGMiner versions",
            format!(
                r#""BMMiner":"{firmware}","API":"3.1","Miner":"49.0.1.3","CompileTime":"Tue Dec  6 16:12:30 CST 2022","Type":"{model}""#
            ),
        ),
        Make::Vnish => (
            "CGMiner versions",
            format!(
                r#""API":"3.1","Miner":"{firmware}","CompileTime":"Mon Nov 20 09:11:02 UTC 2023","Type":"{model} (Vnish {firmware})""#
            ),
        ),
        Make::Avalon => (
            "CGMiner versions",
            format!(
                r#""CGMiner":"4.11.1","API":"3.7","STM8":"20.08.01","PROD":"AvalonMiner {model}","MODEL":"{model}","HWTYPE":"MM3v2_X3","SWTYPE":"MM314","VERSION":"{firmware}","LOADER":"d0d779de.00","DNA":"020100000828a153","MAC":"{}","UPAPI":"2""#,
                bare_mac(device)
            ),
        ),
        Make::Braiins => (
            "BOSer versions",
            format!(r#""API":"3.7","BOSer":"{BOSER}""#),
        ),
        Make::LuxOs => (
            "LUXminer versions",
            format!(
                r#""API":"3.7","CompileTime":"Tue Apr  8 22:05:35 UTC 2025","LUXminer":"{firmware}","Miner":"2025.4.8.220305","Type":"{model}""#
            ),
        ),
        Make::SealMiner => (
            "BDMiner versions",
            r#""BDMiner":"4.11.1","API":"3.7""#.to_owned(),
        ),
        Make::Marathon => (
            "Kaonsu versions",
            format!(r#""API":"3.7","Kaonsu":"{firmware}","Model":"{model}""#),
        ),
        Make::Auradine => (
            "GCMiner versions",
            format!(r#""API":"3.7","GCMiner":"{firmware}","Model":"{model}""#),
        ),
        Make::Whatsminer
        | Make::PlainCgminer
        | Make::Bitaxe
        | Make::NerdAxe
        | Make::Epic
        | Make::Proto
        | Make::Printer
        | Make::Router => (
            "CGMiner versions",
            format!(r#""CGMiner":"{firmware}","API":"3.7""#),
        ),
    };
    format!(
        r#"{{"STATUS":[{}],"VERSION":[{{{fields}}}],"id":1}}"#,
        status(22, message, device)
    )
}

/// Three boards. Real replies list one object per hash board.
fn devdetails(device: &Device) -> String {
    let (name, driver) = match device.make {
        Make::Whatsminer => ("SM", "bitmicro"),
        Make::Braiins => ("", ""),
        Make::Antminer
        | Make::Avalon
        | Make::LuxOs
        | Make::Vnish
        | Make::Marathon
        | Make::SealMiner
        | Make::Auradine
        | Make::PlainCgminer
        | Make::Bitaxe
        | Make::NerdAxe
        | Make::Epic
        | Make::Proto
        | Make::Printer
        | Make::Router => ("BTM", "bmm"),
    };
    let boards: Vec<String> = (0..3)
        .map(|board| {
            format!(
                r#"{{"DEVDETAILS":{board},"Name":"{name}","ID":{board},"Driver":"{driver}","Kernel":"","Model":"{}"}}"#,
                device.model
            )
        })
        .collect();
    format!(
        r#"{{"STATUS":[{}],"DEVDETAILS":[{}],"id":1}}"#,
        status(69, "Device Details", device),
        boards.join(",")
    )
}

fn stats(device: &Device) -> String {
    let fields = if device.make == Make::SealMiner {
        format!(
            r#""Model":"{}","ASIC":"Seal02-V1","Firmware":"{}","MAC":"{}","Ctrl Board":"taurus_air_v1.1","Ctrl Board SN":"{}""#,
            device.model,
            device.firmware,
            device.mac.as_deref().unwrap_or_default(),
            device.serial.as_deref().unwrap_or_default()
        )
    } else {
        format!(r#""GHS 5s":95000.11,"fan_num":4,"Type":"{}""#, device.model)
    };
    format!(
        r#"{{"STATUS":[{}],"STATS":[{{"STATS":0,"ID":"A20","Elapsed":2481,{fields}}},{{"STATS":1,"ID":"POOL0","Calls":0}}],"id":1}}"#,
        status(70, "Stats", device)
    )
}

/// Devices without a MAC or serial return a placeholder.
fn luxos_config(device: &Device) -> String {
    format!(
        r#"{{"CONFIG":[{{"ControlBoardType":"cvitek","Hostname":"LuxOS","MACAddr":"{}","Model":"{}","OS":"LuxOS","SerialNumber":"{}"}}],"STATUS":[{}],"id":1}}"#,
        device
            .mac
            .as_deref()
            .map_or_else(|| "00:00:00:00:00:00".to_owned(), str::to_lowercase),
        device.model,
        device.serial.as_deref().unwrap_or("N/A"),
        status(33, "LUXminer config", device)
    )
}

/// Lower case without separators, as in the replies of Avalons.
fn bare_mac(device: &Device) -> String {
    device
        .mac
        .as_deref()
        .unwrap_or("00:00:00:00:00:00")
        .replace(':', "")
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_both_spellings() {
        for (request, expected) in [
            (r#"{"command":"version"}"#, Some("version")),
            (
                "{\"command\": \"stats\", \"parameter\":\"\"}\n",
                Some("stats"),
            ),
            (r#"{"cmd":"get_version"}"#, Some("get_version")),
            ("version|", Some("version")),
            ("devdetails\0", Some("devdetails")),
            (r#"{"comma"#, None),
            ("GET / HTTP/1.1\r\n\r\n", Some("GET")),
            ("", None),
        ] {
            assert_eq!(
                command_in(request.as_bytes()).as_deref(),
                expected,
                "{request:?}"
            );
        }
    }

    #[test]
    fn every_reply_of_every_make_is_json_and_names_the_model_where_the_make_does() {
        for device in crate::Site::one_of_everything(3).devices {
            for command in [
                "version",
                "devdetails",
                "stats",
                "config",
                "get_version",
                "get_miner_info",
                "nonsense",
            ] {
                let text = reply(&device, command);
                let value: Result<serde_json::Value, _> = serde_json::from_str(&text);
                assert!(value.is_ok(), "{:?} {command}: {text}", device.make);
            }
            if device.make == Make::Antminer {
                assert!(reply(&device, "version").contains(&device.model));
            }
        }
    }
}
