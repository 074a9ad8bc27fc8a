//! The serialized form of the facts that a report shows about a device. Unknown facts take no space.

use fleet_core::{DeviceFacts, Serial};
use sea_orm::DbErr;
use serde::{Deserialize, Serialize};

use super::{read, write};

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StoredFacts {
    #[serde(skip_serializing_if = "String::is_empty")]
    driver: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    scheme: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    model: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    manufacturer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    firmware: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
}

/// Writes facts without their evidence and host name.
pub(crate) fn write_facts(facts: &DeviceFacts) -> Result<String, DbErr> {
    let DeviceFacts {
        driver,
        scheme,
        model,
        manufacturer,
        firmware,
        mac,
        serial,
        // It follows leases and the answers of name servers: it would be a difference between any two scans.
        host_name: _,
        evidence: _,
    } = facts.clone();
    let twin = StoredFacts {
        driver,
        scheme,
        model,
        manufacturer,
        firmware,
        mac: mac.map(|mac| mac.to_string()),
        serial: serial.map(|serial| serial.as_str().to_owned()),
    };
    write("facts", &twin)
}

pub(crate) fn read_facts(text: &str) -> Result<DeviceFacts, DbErr> {
    let StoredFacts {
        driver,
        scheme,
        model,
        manufacturer,
        firmware,
        mac,
        serial,
    } = read("facts", text)?;
    Ok(DeviceFacts {
        driver,
        scheme,
        model,
        manufacturer,
        firmware,
        mac: mac.and_then(|mac| mac.parse().ok()),
        serial: serial.and_then(|serial| Serial::new(&serial)),
        host_name: None,
        evidence: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_as_they_were_written() {
        let facts = DeviceFacts {
            driver: "antminer".into(),
            scheme: "http".into(),
            model: "S19".into(),
            manufacturer: "Bitmain".into(),
            firmware: "1.0".into(),
            mac: "02:00:5E:00:00:01".parse().ok(),
            serial: Serial::new("A1"),
            host_name: None,
            evidence: String::new(),
        };
        let text = write_facts(&facts).expect("written");
        assert_eq!(read_facts(&text).expect("read"), facts);
        assert_eq!(write_facts(&DeviceFacts::default()).expect("written"), "{}");
    }
}
