//! Writes a recording as a fixture for a rule. Replaces MACs, serials, pool accounts, passwords and private addresses.
//! The same text always gets the same replacement. Pure.

use std::{collections::BTreeMap, sync::LazyLock};

use fleet_core::DeviceFacts;
use regex::{Captures, Regex};

use super::{Examination, Examined};
use crate::{http::response, probe::Exchange, whatsminer};

/// Headers that are specific to one connection or answer, or that the fixture replay generates.
const LEFT_OUT: [&str; 7] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "date",
    "set-cookie",
    "etag",
];

/// Writes the answers of every examined port. Lines that begin with `#` are notes for the author of the fixture.
pub fn recording(ports: &[Examination]) -> String {
    let mut scrub = Scrubber::default();
    let mut requests = String::new();
    for port in ports {
        let mut written: Vec<String> = Vec::new();
        for exchange in &port.exchanges {
            let Some((asked, answer)) = lines(exchange) else {
                continue;
            };
            if !written.contains(&asked) {
                requests.push_str(&format!(
                    "> {} {asked}\n{}\n",
                    port.endpoint.port,
                    scrub.text(&answer)
                ));
                written.push(asked);
            }
        }
    }
    let mut head = "# device: MODEL, FIRMWARE\n# source: ADDRESS OF THE PUBLICATION, or `own device`\n# date: YYYY-MM-DD\n\
                    # kind: recorded by `fleetnode identify --record`\n\
                    # trimmed: MACs, serials, pool accounts, passwords and private addresses are replaced\n"
        .to_owned();
    let found = ports.iter().find_map(|port| match &port.outcome {
        Examined::Identified(facts) => Some(facts),
        Examined::Unidentified(_) | Examined::Failed(_) => None,
    });
    for (fact, value) in found.map(|facts| expected(facts)).unwrap_or_default() {
        if !value.is_empty() {
            head.push_str(&format!("# expect.{fact}: {}\n", scrub.fact(fact, &value)));
        }
    }
    format!("{head}\n{requests}")
}

fn expected(facts: &DeviceFacts) -> Vec<(&'static str, String)> {
    vec![
        ("driver", facts.driver.clone()),
        ("scheme", facts.scheme.clone()),
        ("make", facts.manufacturer.clone()),
        ("model", facts.model.clone()),
        ("firmware", facts.firmware.clone()),
        (
            "mac",
            facts.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        ),
        (
            "serial",
            facts
                .serial
                .as_ref()
                .map(|serial| serial.as_str().to_owned())
                .unwrap_or_default(),
        ),
    ]
}

/// Formats a request and its answer for a fixture. None if a fixture cannot represent the request.
fn lines(exchange: &Exchange) -> Option<(String, String)> {
    let bytes = exchange.reply.as_ref().ok()?;
    let request = String::from_utf8_lossy(&exchange.request);
    if let Some((head, body)) = request.split_once("\r\n\r\n") {
        let mut words = head.split(' ');
        let asked = match (words.next()?, words.next()?) {
            ("GET", path) => path.to_owned(),
            (method, path) => format!("{method} {path} {body}"),
        };
        return Some((asked, response_lines(bytes)?));
    }
    let start = request.find('{')?;
    let command: serde_json::Value = serde_json::from_str(&request[start..]).ok()?;
    let asked = command
        .get("command")
        .or_else(|| command.get("cmd"))?
        .as_str()?
        .to_owned();
    // A frame of Whatsminer API 3 begins with its length.
    let answer = if start == 0 {
        bytes
    } else {
        whatsminer::body(bytes)?
    };
    let answer = String::from_utf8_lossy(answer)
        .trim_matches(['\0', '\n'])
        .to_owned();
    Some((asked, answer))
}

/// A response without framing, with its body decompressed. The replay compresses it again according to its header.
fn response_lines(bytes: &[u8]) -> Option<String> {
    let response = response::parse(bytes)?;
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..head]);
    let kept = head.lines().filter(|line| {
        let name = line
            .split(':')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        !LEFT_OUT.contains(&name.as_str())
    });
    let head: Vec<_> = kept.collect();
    Some(format!(
        "{}\n\n{}",
        head.join("\n"),
        String::from_utf8_lossy(&response.body).trim_end()
    ))
}

/// Replaces texts that identify a device or its owner.
#[derive(Debug, Default)]
struct Scrubber {
    macs: BTreeMap<String, String>,
    serials: BTreeMap<String, String>,
    addresses: BTreeMap<String, String>,
}

fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

/// A MAC with colons or dashes, or a MAC without separators after a name that contains `mac`.
static MAC: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(r#"(?i)\b(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b|\bmac[a-z_]*["=:\s]{1,5}[0-9a-f]{12}\b"#)
});
static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(r"\b(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01])|169\.254)\.\d{1,3}\.\d{1,3}\b")
});
/// Values by field name, in JSON and in the API's older text format.
static SERIAL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        r#"(?i)("[^"]*(?:serial|\bsn\b|[-_ ]sn|minersn|serinum|\bdna\b|uuid|\buid\b)[^"]*"\s*:\s*")([^"]+)(")"#,
    )
});
static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        r#"(?i)("[^"]*(?:user|worker|passw|\bpwd\b|\bpass\b|token|salt|wallet|ssid|email|stratum ?url|"url|pool ?url|current pool)[^"]*"\s*:\s*")([^"]+)(")"#,
    )
});
static PLAIN_SECRET: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?i)\b((?:user|url|pass|stratum url|worker)=)([^,|]+)()"));

impl Scrubber {
    fn text(&mut self, text: &str) -> String {
        let text = replace(&MAC, text, |found| self.mac(&found[0]));
        let text = replace(&SERIAL, &text, |found| {
            format!("{}{}{}", &found[1], self.serial(&found[2]), &found[3])
        });
        let text = replace(&SECRET, &text, |found| {
            format!("{}redacted{}", &found[1], &found[3])
        });
        let text = replace(&PLAIN_SECRET, &text, |found| {
            format!("{}redacted", &found[1])
        });
        replace(&ADDRESS, &text, |found| self.address(&found[0]))
    }

    fn fact(&mut self, fact: &str, value: &str) -> String {
        match fact {
            "mac" => self.mac(value),
            "serial" => self.serial(value),
            _ => self.text(value),
        }
    }

    /// The replacement in the same notation, with the original prefix.
    fn mac(&mut self, written: &str) -> String {
        let digits = written.len()
            - written
                .chars()
                .rev()
                .take_while(|c| c.is_ascii_hexdigit() || ":-".contains(*c))
                .count();
        let (before, mac) = written.split_at(digits.min(written.len()));
        let bare: String = mac
            .chars()
            .filter(char::is_ascii_hexdigit)
            .collect::<String>()
            .to_ascii_uppercase();
        // Keep placeholders, because rules must handle devices that do not know the value.
        if bare.chars().all(|c| c == '0') || bare.chars().all(|c| c == 'F') {
            return written.to_owned();
        }
        let next = self.macs.len() + 1;
        let stand_in = self
            .macs
            .entry(bare)
            .or_insert_with(|| format!("0200000000{next:02X}"))
            .clone();
        let separator = mac.chars().find(|c| ":-".contains(*c));
        let pairs: Vec<_> = stand_in
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair).into_owned())
            .collect();
        let joined = pairs.join(&separator.map(String::from).unwrap_or_default());
        let is_lower = mac.chars().any(|c| c.is_ascii_lowercase());
        format!(
            "{before}{}",
            if is_lower {
                joined.to_ascii_lowercase()
            } else {
                joined
            }
        )
    }

    fn serial(&mut self, written: &str) -> String {
        if fleet_core::Serial::new(written).is_none() {
            return written.to_owned();
        }
        let next = self.serials.len() + 1;
        self.serials
            .entry(written.trim().to_owned())
            .or_insert_with(|| format!("SERIAL{next:04}"))
            .clone()
    }

    fn address(&mut self, written: &str) -> String {
        let next = self.addresses.len() + 1;
        self.addresses
            .entry(written.to_owned())
            .or_insert_with(|| format!("10.0.{}.{}", next >> 8 & 0xff, next & 0xff))
            .clone()
    }
}

fn replace(
    pattern: &LazyLock<Option<Regex>>,
    text: &str,
    with: impl FnMut(&Captures<'_>) -> String,
) -> String {
    match pattern.as_ref() {
        Some(pattern) => pattern.replace_all(text, with).into_owned(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use fleet_core::{Endpoint, Port};

    use super::*;

    fn exchange(request: &str, reply: &[u8]) -> Exchange {
        Exchange {
            request: request.as_bytes().to_vec(),
            reply: Ok(reply.to_vec()),
            encrypted: false,
        }
    }

    fn port(number: u16, exchanges: Vec<Exchange>) -> Examination {
        let facts = DeviceFacts {
            driver: "asicrs".to_owned(),
            mac: "D4:41:51:00:00:07".parse().ok(),
            serial: fleet_core::Serial::new("HW123"),
            ..DeviceFacts::default()
        };
        Examination {
            endpoint: Endpoint {
                ip: [10, 1, 2, 3].into(),
                port: Port::new(number).expect("a port"),
            },
            outcome: Examined::Identified(Box::new(facts)),
            exchanges,
            rules: Vec::new(),
        }
    }

    #[test]
    fn a_recording_holds_the_answers_without_identifiers_of_the_device_or_its_owner() {
        let api = br#"{"STATUS":"S","Msg":{"mac":"d4:41:51:00:00:07","minersn":"HW123","User":"alice.1","fw_ver":"49.0.1.3"}}"#;
        let page = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: today\r\nContent-Length: 34\r\n\r\n{\"ip\":\"10.1.2.3\",\"stratumUser\":\"x\"}";
        let text = recording(&[
            port(4028, vec![exchange(r#"{"command":"get_miner_info"}"#, api)]),
            port(
                80,
                vec![
                    exchange("GET /a HTTP/1.1\r\n\r\n", page),
                    exchange("GET /a HTTP/1.1\r\n\r\n", page),
                ],
            ),
        ]);
        for expected in [
            "> 4028 get_miner_info\n",
            "> 80 /a\nHTTP/1.1 200 OK\nServer: nginx\n\n",
            "\"mac\":\"02:00:00:00:00:01\"",
            "\"minersn\":\"SERIAL0001\"",
            "\"fw_ver\":\"49.0.1.3\"",
            "# expect.mac: 02:00:00:00:00:01",
            "# expect.serial: SERIAL0001",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        for private in [
            "alice",
            "HW123",
            "41:51",
            "10.1.2.3",
            "stratumUser\":\"x",
            "Date",
        ] {
            assert!(!text.contains(private), "{private}\n{text}");
        }
        assert_eq!(
            text.matches("> 80 /a").count(),
            1,
            "a repeated request is written once"
        );
    }

    #[test]
    fn stand_ins_keep_the_spelling_and_placeholders_stay() {
        let mut scrub = Scrubber::default();
        for (text, expected) in [
            ("\"MAC\":\"d44151000007\"", "\"MAC\":\"020000000001\""),
            ("D4-41-51-00-00-07", "02-00-00-00-00-01"),
            ("MAC=d44151000008|", "MAC=020000000002|"),
            ("00:00:00:00:00:00", "00:00:00:00:00:00"),
            ("\"serial\":\"N/A\"", "\"serial\":\"N/A\""),
            ("User=bob,Pass=x|", "User=redacted,Pass=redacted|"),
        ] {
            assert_eq!(scrub.text(text), expected, "{text}");
        }
    }
}
