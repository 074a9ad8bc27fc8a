//! Body of the fuzz target: properties of identities that hold for any input.

use std::collections::BTreeSet;

use fleet_core::{
    DeviceIdentifier, DeviceReport, Endpoint, Mac, NodeId, Port, RawDeviceReport, Serial, SiteId,
    auto_identifier, parse_literal,
};

use crate::{DeviceRecord, Inventory, Reporter};

/// The reporting nodes: an enrolled node, another one, and the replacement of a third that is revoked.
const REPORTERS: [Reporter; 3] = [
    Reporter {
        node: NodeId(1),
        site: SiteId(1),
        replaces: None,
    },
    Reporter {
        node: NodeId(2),
        site: SiteId(2),
        replaces: None,
    },
    Reporter {
        node: NodeId(4),
        site: SiteId(4),
        replaces: Some(NodeId(3)),
    },
];
/// Maximum number of rows in one input.
const ROWS: usize = 64;

/// Checks three properties. Parsing an identity is idempotent and rejects placeholders. The identity of a report
/// follows from its evidence and the node that sent it. Rows of several nodes keep identities and endpoints apart and
/// never take over each other's records.
///
/// The text is parsed as one identity, and its lines as rows: `reporter|endpoint|identifier|mac|serial|model`.
pub fn device_identity(data: &[u8]) {
    vectors();
    let text = String::from_utf8_lossy(data);
    identity(&text);
    let mut inventory = Inventory::default();
    for line in text.lines().take(ROWS) {
        identity(line);
        row(line, &mut inventory);
    }
    let records: Vec<DeviceRecord> = inventory.records().cloned().collect();
    let names: BTreeSet<_> = records.iter().map(|record| &record.identifier).collect();
    assert_eq!(names.len(), records.len(), "one identity, one record");
    let located = records.iter().filter(|record| record.endpoint.is_some());
    let endpoints: BTreeSet<_> = located
        .clone()
        .map(|record| (record.owner, record.endpoint))
        .collect();
    assert_eq!(endpoints.len(), located.count(), "one endpoint, one record");
}

fn vectors() {
    for (node, ip, port, driver, model, expected) in [
        (
            1,
            "10.0.0.7",
            4028,
            "antminer",
            "S19",
            "auto:bc7e693e1d31d8f6",
        ),
        (
            42,
            "192.168.1.20",
            80,
            "asicrs",
            "",
            "auto:f14f697b8f32b52d",
        ),
    ] {
        if let (Some(ip), Some(port)) = (parse_literal(ip), Port::new(port)) {
            let found = auto_identifier(NodeId(node), Endpoint { ip, port }, driver, model);
            assert_eq!(found.to_string(), expected);
        }
    }
}

fn identity(text: &str) {
    if let Ok(mac) = text.parse::<Mac>() {
        let shown = mac.to_string();
        let bare = shown.replace(':', "");
        for spelling in [
            shown.clone(),
            shown.to_lowercase(),
            shown.replace(':', "-"),
            bare.clone(),
            format!("{}.{}.{}", &bare[..4], &bare[4..8], &bare[8..]),
        ] {
            assert_eq!(spelling.parse(), Ok(mac), "{spelling}");
        }
    }
    if let Some(serial) = Serial::new(text) {
        assert_eq!(
            Serial::new(serial.as_str()),
            Some(serial.clone()),
            "{text:?}"
        );
        assert!(!serial.as_str().chars().any(char::is_control), "{text:?}");
        assert!(!serial.as_str().chars().all(|c| c == '0'), "{text:?}");
    }
    match text.parse::<DeviceIdentifier>() {
        Ok(identifier) => {
            let shown = identifier.to_string();
            assert_eq!(shown.parse().as_ref(), Ok(&identifier), "{shown}");
            assert!(shown.chars().count() <= 255, "{shown}");
            if let DeviceIdentifier::Mac(mac) = identifier {
                assert!(!mac.is_placeholder(), "{text:?}");
            }
        }
        Err(error) => {
            let error = error.to_string();
            assert!(
                error.len() < 1_024 && !error.chars().any(char::is_control),
                "{error}"
            );
        }
    }
}

fn row(line: &str, inventory: &mut Inventory) {
    let mut fields = line.split('|');
    let mut field = || fields.next().unwrap_or_default();
    let (who, endpoint) = (number(field()), number(field()));
    let (identifier, mac, serial, model) = (field(), field(), field(), field());
    let (ip, port) = (format!("10.0.0.{}", 1 + endpoint % 3), 80 + endpoint % 2);
    let parsed = DeviceReport::parse(RawDeviceReport {
        identifier,
        ip: &ip,
        port: &port.to_string(),
        driver: "antminer",
        model,
        mac,
        serial,
        ..RawDeviceReport::default()
    });
    let Ok(report) = parsed else {
        return;
    };
    let reporter = REPORTERS[usize::from(who) % REPORTERS.len()];
    let identity = report.identifier(reporter.node);
    let strong = report.facts.mac.is_some() || report.facts.serial.is_some();
    assert_eq!(identity.is_strong(), strong, "{line:?}");
    if !strong {
        let own = auto_identifier(
            reporter.node,
            report.endpoint,
            "antminer",
            &report.facts.model,
        );
        assert_eq!(identity, own, "for every input: {line:?}");
    }
    let before: Vec<DeviceRecord> = inventory.records().cloned().collect();
    let Ok(planned) = inventory.decide(reporter, &report) else {
        let after: Vec<DeviceRecord> = inventory.records().cloned().collect();
        assert_eq!(before, after, "a refusal changes nothing: {line:?}");
        return;
    };
    let untouched = before
        .iter()
        .filter(|record| record.owner != Some(reporter.node));
    for record in untouched {
        let after = inventory.records().find(|after| after.id == record.id);
        assert_eq!(after, Some(record), "another live node's: {line:?}");
    }
    let taken: Vec<DeviceRecord> = inventory.records().cloned().collect();
    let again = inventory
        .decide(reporter, &report)
        .map(|planned| planned.device);
    assert_eq!(again, Ok(planned.device), "{line:?}");
    let after: Vec<DeviceRecord> = inventory.records().cloned().collect();
    assert_eq!(taken, after, "re-delivery changes nothing: {line:?}");
}

fn number(text: &str) -> u8 {
    text.bytes()
        .fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
}
