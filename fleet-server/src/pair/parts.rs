//! Cutting targets into commands: each within what a node takes and what a message may hold.

use fleet_store::PairTarget;
use fleet_wire::{
    Message,
    limits::{MAX_PAYLOAD, MAX_REPORT},
    pairing::{Credentials, FleetNodePairRequest, FleetNodePairTarget},
};

/// What keys and lengths around the targets take at most.
const ENVELOPE: usize = 64;

/// A target as a node is told.
pub(crate) fn on_the_wire(target: &PairTarget) -> FleetNodePairTarget {
    FleetNodePairTarget {
        device_identifier: target.identifier.to_string(),
        ip_address: target.endpoint.ip.to_string(),
        port: target.endpoint.port.to_string(),
        url_scheme: target.facts.scheme.clone(),
        driver_name: target.facts.driver.clone(),
        manufacturer: target.facts.manufacturer.clone(),
        firmware_version: target.facts.firmware.clone(),
    }
}

/// The request of one part.
pub(crate) fn request(
    targets: &[PairTarget],
    credentials: Option<Credentials>,
) -> FleetNodePairRequest {
    FleetNodePairRequest {
        targets: targets.iter().map(on_the_wire).collect(),
        credentials,
    }
}

/// Cuts targets so that no part has more than a node takes, nor an encoded form beyond 1 MiB with
/// these credentials.
pub(crate) fn cut(
    targets: Vec<PairTarget>,
    credentials: Option<&Credentials>,
) -> Vec<Vec<PairTarget>> {
    let fixed = ENVELOPE + credentials.map_or(0, Message::encoded_len);
    let mut parts: Vec<Vec<PairTarget>> = Vec::new();
    let mut size = 0;
    for target in targets {
        let length = on_the_wire(&target).encoded_len();
        // A key of one byte, and a length of at most three.
        let length = length + 4;
        match parts.last_mut() {
            Some(part) if part.len() < MAX_REPORT && size + length <= MAX_PAYLOAD => {
                size += length;
                part.push(target);
            }
            Some(_) | None => {
                size = fixed + length;
                parts.push(vec![target]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use fleet_core::{DeviceFacts, DeviceId, DeviceIdentifier, Endpoint, Port, Serial};
    use fleet_wire::Message;

    use super::*;
    use crate::messages;

    fn target(n: i64, text: &str) -> PairTarget {
        let serial = Serial::new(&format!("S{n:0>200}")).expect("a serial");
        PairTarget {
            device: DeviceId(n),
            identifier: DeviceIdentifier::Serial(serial),
            endpoint: Endpoint {
                ip: "10.0.0.7".parse().expect("an address"),
                port: Port::new(80).expect("a port"),
            },
            facts: DeviceFacts {
                scheme: "http".to_owned(),
                driver: "antminer".to_owned(),
                manufacturer: text.to_owned(),
                firmware: text.to_owned(),
                ..DeviceFacts::default()
            },
        }
    }

    #[test]
    fn no_command_is_larger_than_a_node_takes_and_no_target_is_lost() {
        let credentials = Credentials {
            username: "u".repeat(1_024),
            password: Some("p".repeat(1_024)),
        };
        let wide = "\u{1F984}".repeat(255);
        for (count, text, expected) in [
            (1, "", 1),
            (1_024, "", 1),
            (1_025, "", 2),
            (2_000, &*wide, 5),
        ] {
            let targets: Vec<_> = (1..=count).map(|n| target(n, text)).collect();
            let parts = cut(targets.clone(), Some(&credentials));
            assert_eq!(parts.len(), expected, "{count} targets");
            for part in &parts {
                assert!(part.len() <= MAX_REPORT);
                let command =
                    fleet_core::CommandId::new(fleet_core::Timestamp::from_micros(0), [0; 10]);
                let sent = messages::pair(command, request(part, Some(credentials.clone())));
                assert!(sent.payload.len() <= MAX_PAYLOAD, "{}", sent.payload.len());
            }
            assert_eq!(parts.concat(), targets);
        }
        assert!(cut(Vec::new(), None).is_empty());
        assert!(credentials.encoded_len() > 2_048);
    }
}
