//! Tables of findings, known records and owners, and properties that hold for all of them.

use fleet_core::{Port, RawDeviceReport, RejectReason};
use proptest::prelude::*;

use super::*;
use crate::{DeviceRecord, ReportDecision, decide_report};

const NODE: NodeId = NodeId(7);
const MAC: &str = "mac:02:00:5E:10:00:01";
const MAC_2: &str = "mac:02:00:5E:10:00:02";
const SERIAL: &str = "serial:S-1";
const HERE: &str = "10.0.0.7";
const ELSEWHERE: &str = "10.0.0.8";

fn endpoint(ip: &str) -> Endpoint {
    Endpoint {
        ip: fleet_core::parse_literal(ip).expect(ip),
        port: Port::new(4028).expect("a port"),
    }
}

/// A device that the server finds at [`HERE`]. `shows` holds identifiers separated by blanks.
fn found(shows: &str) -> DeviceReport {
    let kind = |kind: &str| {
        shows
            .split(' ')
            .find_map(|id| id.strip_prefix(kind))
            .unwrap_or_default()
    };
    DeviceReport::parse(RawDeviceReport {
        identifier: "auto:0000000000000000",
        ip: HERE,
        port: "4028",
        driver: "antminer",
        model: "S19",
        mac: kind("mac:"),
        serial: kind("serial:"),
        ..RawDeviceReport::default()
    })
    .expect("well-formed")
}

/// An unbound record at [`ELSEWHERE`] that the server found.
fn known(id: i64, identifier: &str) -> KnownDevice {
    let identifier = match identifier {
        "auto" => found("").identifier(SERVER),
        other => other.parse().expect(other),
    };
    KnownDevice {
        id: DeviceId(id),
        identifier,
        former: Vec::new(),
        live: true,
        endpoint: Some(endpoint(ELSEWHERE)),
        owner: None,
        binding: Binding::Free,
        shared: false,
        seen_at: None,
    }
}

fn here(known: KnownDevice) -> KnownDevice {
    KnownDevice {
        endpoint: Some(endpoint(HERE)),
        ..known
    }
}

fn owned(known: KnownDevice) -> KnownDevice {
    KnownDevice {
        owner: Some(NODE),
        ..known
    }
}

fn bound(binding: Binding, known: KnownDevice) -> KnownDevice {
    KnownDevice { binding, ..known }
}

fn formerly(identifier: &str, known: KnownDevice) -> KnownDevice {
    KnownDevice {
        former: vec![identifier.parse().expect(identifier)],
        ..known
    }
}

fn merged(known: KnownDevice) -> KnownDevice {
    KnownDevice {
        live: false,
        ..known
    }
}

#[track_caller]
fn check(shows: &str, known: &[KnownDevice], expected: &str) {
    let takes = |from: &[DeviceId]| {
        from.iter()
            .map(|id| format!(" takes {id}"))
            .collect::<String>()
    };
    let decided = match Sightings::new(known.to_vec()).decide(&found(shows), &mut Vec::new()) {
        DirectDecision::Create {
            endpoint_taken_from,
            ..
        } => format!("create{}", takes(&endpoint_taken_from)),
        DirectDecision::Update {
            device,
            endpoint_taken_from,
        } => format!("update {device}{}", takes(&endpoint_taken_from)),
        DirectDecision::Refuse(DirectRefusal::Attributed(node)) => format!("of node {node}"),
        DirectDecision::Refuse(DirectRefusal::Bound(node)) => format!("bound to node {node}"),
    };
    assert_eq!(decided, expected, "{shows} {known:?}");
}

/// What a scan decides that sees one identifier at [`ELSEWHERE`] and then at [`HERE`].
fn seen_twice(identifier: &str, known: KnownDevice) -> (String, Vec<String>) {
    let known = KnownDevice {
        seen_at: known.endpoint.map(|endpoint| endpoint.ip),
        ..known
    };
    let mut shared = Vec::new();
    let decided = Sightings::new(vec![known]).decide(&found(identifier), &mut shared);
    let decided = match decided {
        DirectDecision::Create { identifier, .. } => format!("create {identifier}"),
        DirectDecision::Update { device, .. } => format!("update {device}"),
        DirectDecision::Refuse(refusal) => format!("of node {}", refusal.node()),
    };
    (decided, shared.iter().map(ToString::to_string).collect())
}

#[test]
fn one_default_mac_at_two_addresses_is_two_devices_and_a_warning() {
    let auto = format!("create {}", found("").identifier(SERVER));
    let (decided, warned) = seen_twice(MAC, known(1, MAC));
    assert_eq!(decided, auto);
    assert!(
        warned.len() == 1 && warned[0].contains(ELSEWHERE) && warned[0].contains(HERE),
        "{warned:?}"
    );
    // A serial that nobody else shows still identifies the device.
    let (decided, warned) = seen_twice(&format!("{MAC} {SERIAL}"), known(1, MAC));
    assert_eq!((decided, warned.len()), (format!("create {SERIAL}"), 1));
    // A device whose address changed since the last scan is the same.
    let mut shared = Vec::new();
    let moved = Sightings::new(vec![known(1, MAC)]).decide(&found(MAC), &mut shared);
    assert!(matches!(moved, DirectDecision::Update { .. }), "{moved:?}");
    assert_eq!(shared, []);
    // The mark lasts: the next scan may see the clone first.
    let marked = KnownDevice {
        shared: true,
        ..known(1, MAC)
    };
    let decided = Sightings::new(vec![marked]).decide(&found(MAC), &mut shared);
    assert!(
        matches!(decided, DirectDecision::Create { .. }),
        "{decided:?}"
    );
    assert_eq!(shared.len(), 1);
}

#[test]
fn unknown_devices_are_created_and_the_servers_own_are_updated() {
    check("", &[], "create");
    check(MAC, &[], "create");
    for id in ["auto", MAC, SERIAL] {
        check(id, &[known(1, id)], "update 1");
        check(id, &[here(known(1, id))], "update 1");
        check(id, &[bound(Binding::Server, known(1, id))], "update 1");
    }
}

#[test]
fn devices_of_a_node_are_refused_with_its_name() {
    for id in [MAC, SERIAL, "auto"] {
        check(id, &[owned(known(1, id))], "of node 7");
        check(
            id,
            &[owned(bound(Binding::Server, known(1, id)))],
            "of node 7",
        );
        check(id, &[merged(owned(known(1, id)))], "of node 7");
        check(
            id,
            &[bound(Binding::Node(NODE), known(1, id))],
            "bound to node 7",
        );
    }
    // The match may be a former identifier, or any identifier that the device shows.
    check(
        SERIAL,
        &[owned(formerly(SERIAL, known(1, MAC)))],
        "of node 7",
    );
    check(
        "mac:02:00:5E:10:00:01 serial:S-1",
        &[owned(known(1, SERIAL))],
        "of node 7",
    );
    // A node's claim outweighs a record of the server.
    check(
        "mac:02:00:5E:10:00:01 serial:S-1",
        &[known(1, MAC), owned(known(2, SERIAL))],
        "of node 7",
    );
}

#[test]
fn a_serial_says_nothing_where_two_macs_differ() {
    let shows = "mac:02:00:5E:10:00:01 serial:S-1";
    let other = owned(formerly(SERIAL, known(1, MAC_2)));
    check(shows, &[other], "create");
}

#[test]
fn an_endpoint_is_lost_to_another_device_and_never_merges() {
    check(MAC, &[here(known(1, "auto"))], "create takes 1");
    check("", &[here(known(1, MAC))], "create takes 1");
    check(
        MAC_2,
        &[here(known(1, MAC)), known(2, MAC_2)],
        "update 2 takes 1",
    );
    // The same private endpoint of a node belongs to another site.
    check(MAC, &[owned(here(known(1, MAC_2)))], "create");
}

#[test]
fn the_same_device_twice_is_one_record() {
    let mut sightings = Sightings::default();
    let first = sightings.decide(&found(MAC));
    let DirectDecision::Create { device, .. } = first else {
        panic!("{first:?}")
    };
    let again = sightings.decide(&found(MAC));
    let update = DirectDecision::Update {
        device,
        endpoint_taken_from: Vec::new(),
    };
    assert_eq!(again, update);
}

#[test]
fn one_attributed_endpoint_excludes_its_address_on_every_port() {
    let ip = |text: &str| fleet_core::parse_literal(text).expect(text);
    let at = |text: &str, port: u16| Endpoint {
        ip: ip(text),
        port: Port::new(port).expect("a port"),
    };
    let asked = [
        "10.0.0.9",
        "10.0.0.7",
        "::ffff:10.0.0.7",
        "10.0.0.8",
        "10.0.0.9",
    ]
    .map(ip);
    let attributed = [
        (at(HERE, 80), NodeId(9)),
        (at(HERE, 4028), NODE),
        (at("10.0.0.1", 80), NODE),
    ];
    let divided = divide(asked, attributed);
    assert_eq!(divided.allowed, [ip("10.0.0.9"), ip("10.0.0.8")]);
    assert_eq!(divided.excluded, [(ip(HERE), NODE)]);
}

fn identifiers() -> impl Strategy<Value = DeviceIdentifier> {
    prop_oneof![
        Just(MAC.parse().expect("a MAC")),
        Just(MAC_2.parse().expect("a MAC")),
        Just(SERIAL.parse().expect("a serial")),
        Just(found("").identifier(SERVER)),
        Just(found("").identifier(NODE)),
    ]
}

fn inventories() -> impl Strategy<Value = Vec<KnownDevice>> {
    let device = (
        identifiers(),
        prop::collection::vec(identifiers(), 0..2),
        any::<bool>(),
        prop::option::of(prop_oneof![Just(HERE), Just(ELSEWHERE)]),
        prop::option::of((1..4_i64).prop_map(NodeId)),
        prop_oneof![
            Just(Binding::Free),
            Just(Binding::Server),
            Just(Binding::Node(NODE))
        ],
    );
    prop::collection::vec(device, 0..6).prop_map(|devices| {
        let mut inventory: Vec<KnownDevice> = Vec::new();
        for ((identifier, former, live, at, owner, binding), id) in devices.into_iter().zip(1..) {
            // The database keeps identifiers unique among live records.
            let taken = |known: &KnownDevice| known.live && known.identifier == identifier;
            inventory.push(KnownDevice {
                id: DeviceId(id),
                live: live && !inventory.iter().any(taken),
                identifier,
                former,
                endpoint: at.map(endpoint),
                owner,
                binding,
            });
        }
        inventory
    })
}

fn shows() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(""),
        Just(MAC),
        Just(MAC_2),
        Just(SERIAL),
        Just("mac:02:00:5E:10:00:01 serial:S-1")
    ]
}

proptest! {
    /// Attributed and bound records are never written, in any order. Nothing is merged.
    #[test]
    fn the_server_never_touches_a_device_that_has_or_had_a_node(
        inventory in inventories(), shown in prop::collection::vec(shows(), 1..5)
    ) {
        let mut sightings = Sightings::new(inventory.clone());
        for shows in shown {
            sightings.decide(&found(shows), &mut Vec::new());
        }
        for (before, after) in inventory.iter().zip(&sightings.known) {
            if before.claim().is_some() {
                prop_assert_eq!(before, after);
            }
            prop_assert_eq!(&before.identifier, &after.identifier);
            prop_assert_eq!(before.owner, after.owner);
        }
        for created in sightings.known.iter().skip(inventory.len()) {
            prop_assert_eq!(created.owner, None);
        }
        let live: Vec<_> = sightings.known.iter().filter(|known| known.live).collect();
        for (at, known) in live.iter().enumerate() {
            prop_assert!(live.iter().skip(at + 1).all(|other| other.identifier != known.identifier));
        }
    }

    /// Repeating a finding changes nothing.
    #[test]
    fn a_repeated_finding_changes_nothing(inventory in inventories(), shows in shows()) {
        let mut once = Sightings::new(inventory);
        once.decide(&found(shows), &mut Vec::new());
        let mut twice = once.clone();
        twice.decide(&found(shows), &mut Vec::new());
        prop_assert_eq!(once.known, twice.known);
    }

    /// No node can claim, by its identifier, a device that the server stored.
    #[test]
    fn devices_found_by_the_server_are_claimable_by_no_node(shows in shows(), node in 1..9_i64) {
        let report = found(shows);
        let record = DeviceRecord {
            id: DeviceId(1),
            identifier: report.identifier(SERVER),
            endpoint: Some(report.endpoint),
            owner: None,
            owner_live: false,
            site: None,
            binding: Binding::Free,
            facts: report.facts.clone(),
            kept_apart: Vec::new(),
            shared: false,
            seen_at: None,
        };
        let node = NodeId(node);
        let identifier = report.identifier(node);
        let decided = decide_report(node.into(), &report, &identifier, &[&record]);
        let touches = matches!(decided, ReportDecision::Update { .. })
            || matches!(&decided, ReportDecision::Create { endpoint_taken_from } if !endpoint_taken_from.is_empty());
        prop_assert!(!touches, "{decided:?}");
        if identifier.is_strong() {
            let refused = matches!(&decided, ReportDecision::Refuse(refused) if refused.reason == RejectReason::Unattributed);
            prop_assert!(refused, "{decided:?}");
        }
    }

    /// Every requested address is in one of the two parts. No allowed address ever belonged to a node.
    #[test]
    fn addresses_are_divided_without_rest(
        asked in prop::collection::vec(0_u8..32, 0..40),
        had in prop::collection::vec((0_u8..32, 1_u16..3, 1_i64..4), 0..20),
    ) {
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let had: Vec<_> = had
            .into_iter()
            .map(|(last, port, node)| {
                let port = Port::new(port).expect("a port");
                (Endpoint { ip: ip(last), port }, NodeId(node))
            })
            .collect();
        let divided = divide(asked.iter().map(|last| ip(*last)), had.clone());
        let mut parts: Vec<_> = divided.excluded.iter().map(|(ip, _)| *ip).chain(divided.allowed.iter().copied()).collect();
        parts.sort();
        let mut distinct: Vec<_> = asked.into_iter().map(ip).collect();
        distinct.sort();
        distinct.dedup();
        prop_assert_eq!(parts, distinct);
        for ip in &divided.allowed {
            prop_assert!(had.iter().all(|(endpoint, _)| endpoint.ip != *ip));
        }
        for (ip, node) in &divided.excluded {
            prop_assert!(had.iter().any(|(endpoint, owner)| endpoint.ip == *ip && owner == node));
        }
    }
}
