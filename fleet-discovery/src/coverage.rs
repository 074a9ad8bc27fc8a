//! What a scan shows about single endpoints and hosts, from the outcome bytes of its chunks. The counts of all targets
//! are in [`settle`](crate::settle). Start with [`endpoint_outcomes`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{Endpoint, EndpointOutcome, Port, TargetOutcome};

use crate::{
    ChunkFacts,
    ledger::{Known, outcomes, says_nothing},
};

/// A chunk of a scan, with what its node reported.
#[derive(Clone, Copy, Debug)]
pub struct ScannedChunk<'a> {
    /// Its scope and its outcome bytes.
    pub facts: ChunkFacts<'a>,
    /// Whether only hosts that announced a service were probed.
    pub only_announced: bool,
}

/// Returns what a scan shows about each of these endpoints. Several chunks can probe one endpoint; the strongest
/// outcome counts.
///
/// A byte covers all ports of its chunk. `Silent` therefore means that no port of the chunk answered, and `Answered`
/// that one of them did.
pub fn endpoint_outcomes(
    chunks: &[ScannedChunk<'_>],
    endpoints: &BTreeSet<Endpoint>,
) -> BTreeMap<Endpoint, EndpointOutcome> {
    let mut known: BTreeMap<Endpoint, EndpointOutcome> = endpoints
        .iter()
        .map(|endpoint| (*endpoint, EndpointOutcome::NotATarget))
        .collect();
    let mut ports: BTreeMap<IpAddr, Vec<Port>> = BTreeMap::new();
    for Endpoint { ip, port } in endpoints {
        ports.entry(*ip).or_default().push(*port);
    }
    for chunk in chunks {
        for (ip, outcome) in outcomes(&chunk.facts, says_nothing(&chunk.facts)) {
            for port in ports.get(&ip).into_iter().flatten() {
                let outcome = of_port(chunk, *port, outcome);
                let best = known.entry(Endpoint { ip, port: *port }).or_default();
                *best = outcome.max(*best);
            }
        }
    }
    known
}

fn of_port(chunk: &ScannedChunk<'_>, port: Port, host: Known) -> EndpointOutcome {
    let scope = chunk.facts.scope;
    if !scope.ports().contains(&port) {
        // The node chose the ports itself and did not name them.
        return if scope.has_open_ports() {
            EndpointOutcome::Unknown
        } else {
            EndpointOutcome::PortNotScanned
        };
    }
    match host {
        Known::Skipped => EndpointOutcome::Skipped,
        Known::NotReached => EndpointOutcome::NotReached,
        Known::Unknown => EndpointOutcome::Unknown,
        Known::Silent if chunk.only_announced => EndpointOutcome::NotAnnounced,
        Known::Silent => EndpointOutcome::Silent,
        Known::Refused => EndpointOutcome::Refused,
        Known::Unidentified | Known::OwnedElsewhere | Known::Identified => {
            EndpointOutcome::Answered
        }
    }
}

/// Returns what a scan of an address with these ports shows about one port, from the outcome of the address.
pub fn port_outcome(outcome: TargetOutcome, ports: &[Port], port: Port) -> EndpointOutcome {
    if !ports.contains(&port) {
        return EndpointOutcome::PortNotScanned;
    }
    match outcome {
        TargetOutcome::NotReached => EndpointOutcome::NotReached,
        TargetOutcome::Silent => EndpointOutcome::Silent,
        TargetOutcome::Refused => EndpointOutcome::Refused,
        TargetOutcome::Unidentified | TargetOutcome::Identified => EndpointOutcome::Answered,
        TargetOutcome::Skipped => EndpointOutcome::Skipped,
    }
}

/// Returns the outcomes that a node reported about the addresses of a chunk; none without bytes of the right length.
///
/// An address that its byte calls identified counts as unidentified, because only an accepted device makes it
/// identified. If a chunk probes only hosts that announce a service, its silent hosts were not probed and are left out.
pub fn address_outcomes(chunk: &ScannedChunk<'_>) -> impl Iterator<Item = (IpAddr, TargetOutcome)> {
    let only_announced = chunk.only_announced;
    let addresses: Vec<IpAddr> = chunk.facts.scope.addresses().collect();
    let bytes = chunk.facts.outcomes.unwrap_or_default();
    let bytes = if bytes.len() == addresses.len() {
        bytes
    } else {
        &[]
    };
    let outcomes = bytes.iter().map(|byte| {
        let outcome = TargetOutcome::from_byte(*byte);
        outcome.min(TargetOutcome::Unidentified)
    });
    let reported: Vec<_> = addresses.into_iter().zip(outcomes).collect();
    reported
        .into_iter()
        .filter(move |(_, outcome)| !(only_announced && *outcome == TargetOutcome::Silent))
}

/// Returns the addresses that some chunk found silent or refused, in order.
pub fn quiet_hosts(chunks: &[ScannedChunk<'_>]) -> BTreeSet<IpAddr> {
    let is_quiet = |outcome| matches!(outcome, TargetOutcome::Silent | TargetOutcome::Refused);
    chunks
        .iter()
        .flat_map(address_outcomes)
        .filter(|(_, outcome)| is_quiet(*outcome))
        .map(|(ip, _)| ip)
        .collect()
}

/// Returns the hosts that answered without an accepted device, in order. `devices` holds the addresses of accepted
/// devices and of devices that belong to another owner.
pub fn unidentified_hosts(
    chunks: &[ScannedChunk<'_>],
    devices: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    chunks
        .iter()
        .flat_map(|chunk| outcomes(&chunk.facts, Known::NotReached))
        .filter(|(ip, known)| *known == Known::Unidentified && !devices.contains(ip))
        .map(|(ip, _)| ip)
        .collect()
}

#[cfg(test)]
mod tests {
    use EndpointOutcome as E;
    use fleet_core::outcome::Grade;

    use super::*;
    use crate::Scope;

    fn endpoint(text: &str) -> Endpoint {
        let socket: std::net::SocketAddr = text.parse().expect(text);
        Endpoint {
            ip: socket.ip(),
            port: Port::new(socket.port()).expect(text),
        }
    }

    /// The scope of a chunk, its outcomes as bytes, and its grade.
    type Ran<'a> = (&'a str, Option<&'a [u8]>, Option<Grade>);

    /// Checks the outcome of an endpoint after chunks.
    #[track_caller]
    fn check(chunks: &[Ran<'_>], only_announced: bool, at: &str, expected: EndpointOutcome) {
        let scopes: Vec<Scope> = chunks
            .iter()
            .map(|(scope, ..)| scope.parse().expect(scope))
            .collect();
        let chunks: Vec<ScannedChunk<'_>> = chunks
            .iter()
            .zip(&scopes)
            .map(|((_, outcomes, grade), scope)| ScannedChunk {
                facts: ChunkFacts {
                    scope,
                    outcomes: *outcomes,
                    grade: *grade,
                },
                only_announced,
            })
            .collect();
        let found = endpoint_outcomes(&chunks, &[endpoint(at)].into());
        assert_eq!(found[&endpoint(at)], expected, "{at}");
    }

    #[test]
    fn an_endpoint_has_the_outcome_of_its_address_and_port() {
        let done = Some(Grade::Complete);
        let six: (&str, Option<&[u8]>, _) = (
            "1|exact|10.0.0.1-10.0.0.6|80",
            Some(&[0, 1, 2, 3, 4, 5]),
            done,
        );
        for (at, expected) in [
            ("10.0.0.1:80", E::NotReached),
            ("10.0.0.2:80", E::Silent),
            ("10.0.0.3:80", E::Refused),
            ("10.0.0.4:80", E::Answered),
            ("10.0.0.5:80", E::Answered),
            ("10.0.0.6:80", E::Skipped),
            ("10.0.0.2:4028", E::PortNotScanned),
            ("10.0.0.7:80", E::NotATarget),
        ] {
            check(&[six], false, at, expected);
        }
        check(&[], false, "10.0.0.1:80", E::NotATarget);
    }

    #[test]
    fn each_share_of_the_ports_counts_for_its_own_ports() {
        let done = Some(Grade::Complete);
        let web: (&str, Option<&[u8]>, _) = ("1|exact|10.0.0.1|80", Some(&[1]), done);
        let rpc: (&str, Option<&[u8]>, _) = ("1|exact|10.0.0.1|4028", None, None);
        check(&[web, rpc], false, "10.0.0.1:80", E::Silent);
        check(&[web, rpc], false, "10.0.0.1:4028", E::NotReached);
    }

    #[test]
    fn a_chunk_without_bytes_never_shows_that_a_host_is_silent() {
        let scope = "1|exact|10.0.0.1|80";
        check(
            &[(scope, None, Some(Grade::Complete))],
            false,
            "10.0.0.1:80",
            E::Unknown,
        );
        check(
            &[(scope, None, Some(Grade::Failed))],
            false,
            "10.0.0.1:80",
            E::NotReached,
        );
        check(&[(scope, None, None)], false, "10.0.0.1:80", E::NotReached);
        // Bytes of the wrong length are ignored.
        check(
            &[(scope, Some(&[1, 1]), Some(Grade::Complete))],
            false,
            "10.0.0.1:80",
            E::Unknown,
        );
    }

    #[test]
    fn a_host_without_announcement_was_not_probed() {
        let chunk: (&str, Option<&[u8]>, _) = (
            "1|announced|10.0.0.1-10.0.0.2|80",
            Some(&[1, 2]),
            Some(Grade::Complete),
        );
        check(&[chunk], true, "10.0.0.1:80", E::NotAnnounced);
        check(&[chunk], true, "10.0.0.2:80", E::Refused);
    }

    #[test]
    fn a_port_has_the_outcome_of_its_address_if_it_was_scanned() {
        use fleet_core::TargetOutcome as T;
        let port = |number| Port::new(number).expect("a port");
        for (outcome, at, expected) in [
            (T::Silent, 80, E::Silent),
            (T::Refused, 80, E::Refused),
            (T::NotReached, 80, E::NotReached),
            (T::Skipped, 80, E::Skipped),
            (T::Identified, 80, E::Answered),
            (T::Unidentified, 80, E::Answered),
            (T::Silent, 4_028, E::PortNotScanned),
        ] {
            assert_eq!(port_outcome(outcome, &[port(80)], port(at)), expected);
        }
    }

    #[test]
    fn the_outcomes_of_a_chunk_are_those_that_its_node_reported() {
        use fleet_core::TargetOutcome as T;
        let scope: Scope = "1|exact|10.0.0.1-10.0.0.6|80".parse().expect("a scope");
        let chunk = |outcomes, only_announced| ScannedChunk {
            facts: ChunkFacts {
                scope: &scope,
                outcomes,
                grade: None,
            },
            only_announced,
        };
        let of = |outcomes, only_announced| {
            let chunk = chunk(outcomes, only_announced);
            address_outcomes(&chunk)
                .map(|(_, outcome)| outcome)
                .collect::<Vec<_>>()
        };
        let bytes: Option<&[u8]> = Some(&[0, 1, 2, 3, 4, 5]);
        assert_eq!(
            of(bytes, false),
            [
                T::NotReached,
                T::Silent,
                T::Refused,
                T::Unidentified,
                T::Unidentified,
                T::Skipped
            ]
        );
        assert_eq!(of(bytes, true).len(), 5);
        assert_eq!(of(Some(&[1]), false), []);
        assert_eq!(of(None, false), []);
        let ip = |text: &str| fleet_core::parse_literal(text).expect(text);
        let quiet = quiet_hosts(&[chunk(bytes, false)]);
        assert_eq!(quiet, [ip("10.0.0.2"), ip("10.0.0.3")].into());
        assert_eq!(quiet_hosts(&[chunk(bytes, true)]), [ip("10.0.0.3")].into());
    }

    #[test]
    fn unidentified_hosts_answered_and_have_no_device() {
        let scope: Scope = "1|exact|10.0.0.1-10.0.0.4|80".parse().expect("a scope");
        let chunk = ScannedChunk {
            facts: ChunkFacts {
                scope: &scope,
                outcomes: Some(&[3, 4, 4, 1]),
                grade: Some(Grade::Complete),
            },
            only_announced: false,
        };
        let ip = |text: &str| fleet_core::parse_literal(text).expect(text);
        let found = unidentified_hosts(&[chunk], &[ip("10.0.0.2")].into());
        assert_eq!(found, [ip("10.0.0.1"), ip("10.0.0.3")].into());
    }
}
