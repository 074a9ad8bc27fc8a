//! A report with every defect that a faulty or hostile node can send.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fleet_core::{
    DeviceId, DeviceIdentifier, DeviceReport, OrgId, PairingStatus, RawDeviceReport, RejectReason,
    RejectReason::*, Role, ScanId,
};
use fleet_server::Environment as _;
use fleet_store::{
    Actor, Bindings as _, Changed, DeviceName, DialRequest, Direct as _, DirectOutcome,
    Enrollment as _, Inventory as _, NewSightings,
};
use fleet_wire::{
    fleet::ListDevicesRequest,
    gateway::{AckCode, DiscoveredDeviceReport},
};

use crate::harness::{Enrolled, Profile, World, device, list, start, target};

/// Where every bad row stands: in the same /22 as the good ones, at an address that no good one has.
const PLACE: &str = "10.77.0.5";

/// A sound device, changed.
fn row(change: impl FnOnce(&mut DiscoveredDeviceReport)) -> DiscoveredDeviceReport {
    let mut row = device(PLACE);
    change(&mut row);
    row
}

/// A text field, changed.
type Field = fn(&mut DiscoveredDeviceReport) -> &mut String;

/// Every defect that a single row can have, with the reason of its refusal.
fn wrong() -> Vec<(DiscoveredDeviceReport, RejectReason)> {
    let long = |most: usize| "x".repeat(most + 1);
    let (identifier, ip, port, scheme, driver): (Field, Field, Field, Field, Field) = (
        |row| &mut row.device_identifier,
        |row| &mut row.ip_address,
        |row| &mut row.port,
        |row| &mut row.url_scheme,
        |row| &mut row.driver_name,
    );
    let texts: [(Field, usize); 6] = [
        (|row| &mut row.model, 255),
        (|row| &mut row.manufacturer, 255),
        (|row| &mut row.firmware_version, 255),
        (|row| &mut row.mac_address, 64),
        (|row| &mut row.serial_number, 255),
        (|row| &mut row.evidence, 512),
    ];
    let mut fields: Vec<(Field, String, RejectReason)> = Vec::new();
    for text in ["", "a\nb", "a\u{0}b", "a\u{1b}[31mb", "a\u{85}b"] {
        fields.push((identifier, text.to_owned(), Identifier));
        fields.push((driver, text.to_owned(), Driver));
    }
    fields.push((identifier, long(255), Identifier));
    fields.push((driver, long(50), Driver));
    for text in [
        "miner.lan",
        "",
        "localhost",
        "10.77.3",
        "10.77.3.300",
        "010.77.3.200",
        "0x0a4d03c8",
        "172819400",
        "10.77.3.200/32",
        "10.77.3.200:80",
        " 10.77.3.200",
        "１０.77.3.200",
        "fe80::1%eth0",
        "fd00::1%1",
        "[fd00::1]",
    ] {
        fields.push((ip, text.to_owned(), Address));
    }
    for text in [
        "", "0", "080", "+80", "70000", "80/tcp", "http", "-1", "８０",
    ] {
        fields.push((port, text.to_owned(), Port));
    }
    for text in [
        "javascript:",
        "java script",
        "javascript:alert(1)",
        "1http",
        "http\n",
        "ｈttp",
        "data:text/html,<script>",
        &long(32),
    ] {
        fields.push((scheme, text.to_owned(), Scheme));
    }
    for (field, most) in texts {
        fields.push((field, long(most), Text));
        fields.push((field, "a\u{7}b".to_owned(), Text));
    }
    for text in [
        "8.8.8.8",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "10.77.4.1",
        "10.76.255.255",
        "fd00::1",
        "::1",
        "::ffff:10.78.0.1",
        "64:ff9b::10.77.3.200",
        "2002:a4d:3c8::1",
        "0.0.0.0",
        "255.255.255.255",
    ] {
        fields.push((ip, text.to_owned(), AddressOutOfScope));
    }
    for text in ["22", "4029", "65535"] {
        fields.push((port, text.to_owned(), PortOutOfScope));
    }
    fields
        .into_iter()
        .map(|(field, text, reason)| (row(|row| *field(row) = text), reason))
        .collect()
}

/// A device that the server found on its own path.
async fn servers_own(world: &World, org: OrgId, device: &DiscoveredDeviceReport) -> DeviceId {
    let now = world.clock.now();
    let row = DeviceReport::parse(RawDeviceReport {
        identifier: &device.device_identifier,
        ip: &device.ip_address,
        port: &device.port,
        driver: &device.driver_name,
        mac: &device.mac_address,
        ..RawDeviceReport::default()
    })
    .expect("well-formed");
    let scan = ScanId::new(now, [9; 10]);
    let request = DialRequest {
        org,
        scan,
        addresses: vec![row.endpoint.ip],
        until: now.plus(Duration::from_secs(45)),
        now,
    };
    let released = world.store.release_for_dialing(request).await;
    assert_eq!(released.expect("is released").allowed.len(), 1);
    let rows = vec![row];
    let sightings = NewSightings {
        org,
        scan,
        rows,
        seen: BTreeMap::new(),
        now,
    };
    let sighted = world.store.record_direct(sightings).await.expect("stored");
    world.store.give_back(org, scan).await.expect("given back");
    match &sighted.outcomes[..] {
        [DirectOutcome::Stored(row)] => row.id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_devices_with_every_kind_of_defect_exactly_the_valid_ones_are_stored() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    // Another node owns a device, under a MAC that it showed.
    let other = Enrolled::new(&world, &operator).await;
    let mut theirs = other.connect(&world, Profile::ours()).await;
    let request = list(&["10.77.0.8", "10.77.0.9"], &["4028"]);
    let scan = start(&operator, &other, request).await;
    let (command, _) = theirs.command().await;
    let (owned, bound) = (device("10.77.0.9"), device("10.77.0.8"));
    let stored = theirs
        .report(&command, vec![owned.clone(), bound.clone()])
        .await;
    assert_eq!(stored.expect("is judged").accepted_count, 2);
    theirs.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    // A third node owned a device before it was revoked.
    let gone = Enrolled::new(&world, &operator).await;
    let mut its = gone.connect(&world, Profile::ours()).await;
    let scan = start(&operator, &gone, list(&["10.77.0.5"], &["4028"])).await;
    let (command, _) = its.command().await;
    let orphan = device("10.77.0.5");
    let stored = its.report(&command, vec![orphan.clone()]).await;
    assert_eq!(stored.expect("is judged").accepted_count, 1);
    its.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    let revoked = world.store.revoke_node(
        operator.org,
        gone.id,
        None,
        Actor::SYSTEM,
        world.clock.now(),
    );
    revoked.await.expect("revokes");
    // An operator has paired one of them there.
    let named: DeviceIdentifier = bound.device_identifier.parse().expect("an identifier");
    let (store, now) = (&world.store, world.clock.now());
    let record = store
        .device(operator.org, DeviceName::Identifier(named))
        .await;
    let record = record.expect("reads").expect("is known").id;
    let node = other.id;
    let changed = store.bind_device(operator.org, node, record, Actor::SYSTEM, now);
    assert_eq!(changed.await.expect("binds"), Changed::Yes);
    // The server itself has found two devices, and paired one.
    let (servers, paired) = (device("10.77.0.3"), device("10.77.0.4"));
    servers_own(&world, operator.org, &servers).await;
    let record = servers_own(&world, operator.org, &paired).await;
    let status = PairingStatus::Paired;
    let changed = store.bind_to_server(operator.org, record, status, Actor::SYSTEM, now);
    assert_eq!(changed.await.expect("binds"), Changed::Yes);

    // This node knows a device only by its endpoint.
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::upstream()).await;
    let scan = start(&operator, &enrolled, list(&["10.77.0.7"], &["4028"])).await;
    let (command, _) = node.command().await;
    let nameless = DiscoveredDeviceReport {
        device_identifier: "auto:0000000000000000".to_owned(),
        mac_address: String::new(),
        ..device("10.77.0.7")
    };
    let stored = node.report(&command, vec![nameless]).await;
    assert_eq!(stored.expect("is judged").accepted_count, 1);
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;

    let request = target("fleetnode-local-subnet", &["4028", "80"]);
    let scan = start(&operator, &enrolled, request).await;
    let (command, _) = node.command().await;
    let (mut rows, mut reasons) = (Vec::new(), Vec::new());
    // Before the first good device the scope is still open: the class alone keeps this one out.
    rows.push(device("8.8.4.4"));
    reasons.push(AddressClass);
    let good = |n: u16| format!("10.77.{}.{}", n / 240, 11 + n % 240);
    rows.push(device(&good(0)));
    for (row, reason) in wrong() {
        rows.push(row);
        reasons.push(reason);
    }
    // What takes a second row, or an earlier report, to be wrong.
    rows.push(DiscoveredDeviceReport {
        device_identifier: "serial:ANOTHER".to_owned(),
        ..device(&good(0))
    });
    reasons.push(AlreadyReported);
    for (at, (theirs, reason)) in [
        (&owned, OwnedByOtherNode),
        (&orphan, OwnedByRevokedNode),
        (&bound, BoundToOtherNode),
        (&servers, Unattributed),
        (&paired, PairedByServer),
    ]
    .into_iter()
    .enumerate()
    {
        rows.push(DiscoveredDeviceReport {
            ip_address: format!("10.77.0.{}", 251 + at),
            ..theirs.clone()
        });
        reasons.push(reason);
    }
    rows.push(DiscoveredDeviceReport {
        ip_address: "10.77.0.7".to_owned(),
        ..owned.clone()
    });
    reasons.push(IdentityConflict);
    let reported_reasons: BTreeSet<RejectReason> = reasons.iter().copied().collect();
    assert_eq!(
        reported_reasons,
        RejectReason::ALL.into_iter().collect(),
        "every kind"
    );
    let bad = rows.len() - 1;
    let mut addresses = vec![good(0)];
    addresses.extend((1..).take(1_000 - rows.len()).map(good));
    // Good neighbors before, between and after: the bad ones stand in the middle of them.
    let (before, after) = addresses[1..].split_at(400);
    let between = rows.split_off(rows.len() / 2);
    rows.extend(before.iter().map(|ip| device(ip)));
    rows.extend(between);
    rows.extend(after.iter().map(|ip| device(ip)));
    assert_eq!(rows.len(), 1_000);

    let answer = node
        .report(&command, rows.clone())
        .await
        .expect("is judged");
    let counted = |answer: &fleet_wire::gateway::ReportDiscoveredDevicesResponse| {
        (
            answer.accepted_count as usize,
            answer.rejected_count as usize,
        )
    };
    assert_eq!(counted(&answer), (addresses.len(), bad));
    let again = node.report(&command, rows).await.expect("is judged");
    assert_eq!(
        again, answer,
        "a repeated report is answered as the first time"
    );
    node.ack(&command, AckCode::Ok).await;
    let over = scan.is("SCAN_STATE_COMPLETED").await;

    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for reason in &reasons {
        *expected.entry(reason.to_string()).or_default() += 1;
    }
    let ledger = over.ledger.expect("a ledger");
    let reported: BTreeMap<String, u64> = ledger
        .rejected_reasons
        .iter()
        .map(|tally| (tally.reason.clone(), tally.count))
        .collect();
    assert_eq!(reported, expected);
    for tally in &ledger.rejected_reasons {
        let printable = !tally.example.chars().any(char::is_control);
        assert!(!tally.example.is_empty() && printable, "{tally:?}");
    }
    assert_eq!(
        (ledger.accepted as usize, ledger.rejected as usize),
        (addresses.len(), bad)
    );

    let mut request = ListDevicesRequest::default();
    let mut listed = BTreeSet::new();
    loop {
        let page = operator
            .devices()
            .list_devices(&request, operator.options())
            .await;
        let page = page.expect("devices can be listed");
        listed.extend(page.devices.into_iter().map(|device| device.ip));
        request.cursor = page.next_cursor;
        if request.cursor == 0 {
            break;
        }
    }
    let mut stored: BTreeSet<String> = addresses.into_iter().collect();
    stored.extend(
        [
            "10.77.0.3",
            "10.77.0.4",
            "10.77.0.5",
            "10.77.0.7",
            "10.77.0.8",
            "10.77.0.9",
        ]
        .map(str::to_owned),
    );
    assert_eq!(listed, stored, "exactly the good ones are stored");

    let trail = world.audited(operator.org, "report.refuse").await;
    let audited: BTreeSet<String> = trail
        .iter()
        .filter(|row| row.entry.subject.contains(&command))
        .map(|row| format!("{:?}", row.entry.result))
        .collect();
    assert_eq!(
        audited.len(),
        expected.len(),
        "one record a reason: {audited:?}"
    );
}
