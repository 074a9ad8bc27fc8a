//! Splits the targets of a pairing into commands that respect the limits of a node and of a message.

use fleet_store::PairTarget;
use fleet_wire::{
    Message,
    limits::{MAX_PAYLOAD, MAX_REPORT},
    pairing::{Credentials, FleetNodePairRequest, FleetNodePairTarget},
};

/// Maximum size of the field keys and lengths around the targets.
const ENVELOPE: usize = 64;

/// A target on the wire.
fn message(target: &PairTarget) -> FleetNodePairTarget {
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

/// The request of one batch.
pub(crate) fn request(
    targets: &[PairTarget],
    credentials: Option<Credentials>,
) -> FleetNodePairRequest {
    FleetNodePairRequest {
        targets: targets.iter().map(message).collect(),
        credentials,
    }
}

/// Splits targets into batches. Each has at most the targets that a node accepts, and encodes to at most 1 MiB together
/// with the credentials.
pub(crate) fn split(
    targets: Vec<PairTarget>,
    credentials: Option<&Credentials>,
) -> Vec<Vec<PairTarget>> {
    let fixed = ENVELOPE + credentials.map_or(0, Message::encoded_len);
    let mut batches: Vec<Vec<PairTarget>> = Vec::new();
    let mut size = 0;
    for target in targets {
        let length = message(&target).encoded_len();
        // One byte of key, at most three bytes of length.
        let length = length + 4;
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_REPORT && size + length <= MAX_PAYLOAD => {
                size += length;
                batch.push(target);
            }
            Some(_) | None => {
                size = fixed + length;
                batches.push(vec![target]);
            }
        }
    }
    batches
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
    fn no_command_exceeds_the_limits_of_a_node_and_no_target_is_lost() {
        let credentials = Credentials {
            username: "u".repeat(1_024),
            password: Some("p".repeat(1_024)),
            ..Credentials::default()
        };
        let wide = "\u{1F984}".repeat(255);
        for (count, text, expected) in [
            (1, "", 1),
            (1_024, "", 1),
            (1_025, "", 2),
            (2_000, &*wide, 5),
        ] {
            let targets: Vec<_> = (1..=count).map(|n| target(n, text)).collect();
            let batches = split(targets.clone(), Some(&credentials));
            assert_eq!(batches.len(), expected, "{count} targets");
            for batch in &batches {
                assert!(batch.len() <= MAX_REPORT);
                let command =
                    fleet_core::CommandId::new(fleet_core::Timestamp::from_micros(0), [0; 10]);
                let sent = messages::pair(command, request(batch, Some(credentials.clone())));
                assert!(sent.payload.len() <= MAX_PAYLOAD, "{}", sent.payload.len());
            }
            assert_eq!(batches.concat(), targets);
        }
        assert!(split(Vec::new(), None).is_empty());
        assert!(credentials.encoded_len() > 2_048);
    }
}
