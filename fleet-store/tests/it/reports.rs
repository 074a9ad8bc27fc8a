//! Recording reports: which rows are accepted. Redelivery must change nothing.

use fleet_core::{DeviceFacts, NodeId, RawDeviceReport, Serial, outcome::AckCode};
use fleet_discovery::{LogEvent, Mode, NodeProfile};
use fleet_store::*;

use crate::site::{Node, Row, Site, at, blank, command_id, mac, plain, row};

contract! {
    an_accepted_device_and_its_event_are_stored_together
    the_same_report_again_is_answered_as_the_first_time
    the_same_rows_in_another_report_change_nothing
    a_full_report_fits
    an_open_scope_closes_by_the_first_device
    only_the_commands_node_can_report_while_it_is_in_flight
    an_empty_report_is_harmless
    reports_are_remembered_only_while_they_matter
    pins_are_stored_before_the_first_report
}

async fn reports_are_remembered_only_while_they_matter(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await.command;
    let remembered = async || site.number("SELECT count(*) FROM report").await;
    let known = || vec![plain("10.0.0.7", "80")];
    for _ in 0..20 {
        assert_eq!(site.reported(node, command, known()).await, (1, 0));
        assert_eq!(site.reported(node, command, vec![]).await, (0, 0));
    }
    assert_eq!(remembered().await, 1, "the others stored nothing");
    let outside = vec![plain("10.9.0.7", "80")];
    assert_eq!(site.reported(node, command, outside).await, (0, 1));
    assert_eq!(remembered().await, 2);
    site.acked(node, command, AckCode::Ok).await;
    assert_eq!(remembered().await, 0);
}

async fn an_accepted_device_and_its_event_are_stored_together(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let full = row(RawDeviceReport {
        identifier: "mac:02:00:5e:00:00:01",
        ip: "10.0.0.7",
        scheme: "HTTP",
        manufacturer: "Bitmain",
        firmware: "1.2",
        serial: "SN1",
        evidence: "title",
        host_name: "Miner7.lan.",
        host_name_source: "dns",
        ..blank()
    });
    let answer = site
        .store
        .record_report(site.report(node, command.command, vec![full]))
        .await
        .expect("recorded");
    assert_eq!(
        answer,
        ReportAnswer {
            accepted: 1,
            rejected: 0,
            owned_elsewhere: 0,
            scan: command.scan,
            ended: false
        }
    );
    let devices = site.devices().await;
    let device = &devices[0];
    assert_eq!(device.identifier.to_string(), "mac:02:00:5E:00:00:01");
    assert_eq!(
        (
            device.node,
            device.endpoint.map(|endpoint| endpoint.to_string())
        ),
        (Some(node.id), Some("10.0.0.7:80".into()))
    );
    let facts = DeviceFacts {
        scheme: "http".into(),
        driver: "antminer".into(),
        model: "S19".into(),
        manufacturer: "Bitmain".into(),
        firmware: "1.2".into(),
        mac: "02:00:5e:00:00:01".parse().ok(),
        serial: Serial::new("SN1"),
        host_name: "dns:miner7.lan".parse().ok(),
        evidence: "title".into(),
    };
    assert_eq!(device.facts, facts);
    assert_eq!((device.first_seen, device.last_seen), (at(30), at(30)));
    let log = site.log(command.scan).await;
    let [LogEvent::Device(found)] = log.as_slice() else {
        panic!("{log:?}")
    };
    assert_eq!(
        (found.device, &found.identifier, Some(found.endpoint)),
        (device.id, &device.identifier, device.endpoint)
    );
    let facts = DeviceFacts {
        evidence: String::new(),
        ..facts
    };
    assert_eq!(found.facts, facts);
    assert_eq!(found.elapsed_ms, 10_000);
}

async fn the_same_report_again_is_answered_as_the_first_time(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let report = site.report(
        node,
        command.command,
        vec![plain("10.0.0.7", "80"), plain("10.9.0.7", "80")],
    );
    let first = site
        .store
        .record_report(report.clone())
        .await
        .expect("recorded");
    assert_eq!((first.accepted, first.rejected), (1, 1));
    let (log, devices, audited) = (
        site.log(command.scan).await,
        site.devices().await,
        site.audited().await,
    );
    for _ in 0..3 {
        let again = NewReport {
            now: at(50),
            ..report.clone()
        };
        assert_eq!(
            site.store.record_report(again).await.expect("answered"),
            first
        );
    }
    assert_eq!(
        (
            site.log(command.scan).await,
            site.devices().await,
            site.audited().await
        ),
        (log, devices, audited)
    );
    site.acked(node, command.command, AckCode::Ok).await;
    let late = site.store.record_report(report).await;
    assert!(
        matches!(late, Err(ReportError::NotInFlight(_))),
        "the command's state comes first: {late:?}"
    );
    let ledger = site.look(command.scan).await.ledger.expect("ended");
    assert_eq!(
        (ledger.reported, ledger.accepted, ledger.rejected),
        (2, 1, 1)
    );
}

async fn the_same_rows_in_another_report_change_nothing(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let rows = || vec![plain("10.0.0.7", "80"), plain("10.0.0.8", "80")];
    assert_eq!(site.reported(node, command.command, rows()).await, (2, 0));
    let (log, devices) = (site.log(command.scan).await, site.devices().await);
    let mut more = rows();
    more.extend(rows());
    more.push(plain("10.0.0.9", "80"));
    assert_eq!(site.reported(node, command.command, more).await, (5, 0));
    assert_eq!(site.log(command.scan).await[..2], log);
    assert_eq!(site.devices().await[..2], devices);
    assert_eq!(site.stored_events(command.scan).await.len(), 3);
    assert_eq!(site.number("SELECT rows FROM command").await, 3);
}

async fn a_full_report_fits(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/22").await;
    let rows = |serial: &str| -> Vec<Row> {
        (1..1_023_usize)
            .map(|n| {
                let (ip, mac) = (format!("10.0.{}.{}", n >> 8, n & 255), mac(n));
                row(RawDeviceReport {
                    ip: &ip,
                    mac: &mac,
                    serial,
                    ..blank()
                })
            })
            .chain([plain("10.9.0.1", "80"), plain("10.9.0.2", "80")])
            .collect()
    };
    assert_eq!(
        site.reported(node, command.command, rows("")).await,
        (1_022, 2)
    );
    assert_eq!(site.stored_events(command.scan).await.len(), 1_022);
    site.acked(node, command.command, AckCode::Ok).await;
    assert_eq!(
        site.look(command.scan)
            .await
            .ledger
            .map(|ledger| (ledger.identified, ledger.targets)),
        Some((1_022, 1_024))
    );
    let ids: Vec<_> = site
        .devices()
        .await
        .into_iter()
        .map(|device| device.id)
        .collect();
    let again = site.running(node, "10.0.0.0/22").await;
    assert_eq!(
        site.reported(node, again.command, rows("S")).await,
        (1_022, 2),
        "all known, all changed"
    );
    let devices = site.devices().await;
    assert_eq!(
        devices.iter().map(|device| device.id).collect::<Vec<_>>(),
        ids
    );
    assert!(
        devices
            .iter()
            .all(|device| device.facts.serial == Serial::new("S"))
    );
}

async fn an_open_scope_closes_by_the_first_device(site: Site) {
    let node = site.node("north").await;
    let (request, plan) = Site::plan(
        Mode::Target("fleetnode-local-subnet".into()),
        &["80"],
        &NodeProfile::upstream(),
    );
    assert!(plan.open_scope);
    let scan = site
        .create(NewScan {
            request,
            shares: vec![NewShare::of(node.id, &plan)],
            plan,
            ..site.new_scan(node.id, "10.0.0.0/24", &["80"])
        })
        .await;
    assert!(scan.open_scope);
    let command = site.issue(node).await.expect("issued");
    assert_eq!(
        site.reported(
            node,
            command.command,
            vec![plain("10.7.1.7", "80"), plain("10.7.9.9", "80")]
        )
        .await,
        (1, 1)
    );
    assert_eq!(
        site.reported(
            node,
            command.command,
            vec![plain("10.7.3.7", "80"), plain("10.7.4.7", "80")]
        )
        .await,
        (1, 1)
    );
    site.acked(node, command.command, AckCode::Ok).await;
    let ledger = site.look(scan.id).await.ledger.expect("ended");
    assert_eq!(
        (
            ledger.targets,
            ledger.identified,
            ledger.accepted,
            ledger.rejected
        ),
        (2, 2, 2, 2)
    );
}

async fn refused(site: &Site, node: Node, command: fleet_core::CommandId) -> bool {
    let answer = site
        .store
        .record_report(site.report(node, command, vec![plain("10.0.0.7", "80")]))
        .await;
    matches!(answer, Err(ReportError::NotInFlight(id)) if id == command)
}

async fn only_the_commands_node_can_report_while_it_is_in_flight(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let command = site.running(north, "10.0.0.0/24").await.command;
    assert!(refused(&site, south, command).await, "another node's");
    assert!(refused(&site, north, command_id()).await, "unknown");
    let foreign = NewReport {
        org: site.other_org().await,
        ..site.report(north, command, vec![plain("10.0.0.7", "80")])
    };
    assert!(matches!(
        site.store.record_report(foreign).await,
        Err(ReportError::NotInFlight(_))
    ));
    assert!(
        refused(
            &site,
            Node {
                id: NodeId(9_999),
                ..north
            },
            command
        )
        .await
    );
    site.acked(north, command, AckCode::Ok).await;
    assert!(refused(&site, north, command).await, "it has ended");
    assert_eq!(site.devices().await, []);
}

async fn an_empty_report_is_harmless(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    assert_eq!(site.reported(node, command.command, vec![]).await, (0, 0));
    assert_eq!(site.log(command.scan).await, []);
}

async fn pins_are_stored_before_the_first_report(site: Site) {
    let node = site.node("north").await;
    let profile = NodeProfile {
        pins: true,
        ..NodeProfile::upstream()
    };
    let names = vec![
        "rig.example".into(),
        "gone.example".into(),
        "evil.example".into(),
    ];
    let (request, plan) = Site::plan(Mode::List(names), &["80"], &profile);
    let scan = site
        .create(NewScan {
            request,
            shares: vec![NewShare::of(node.id, &plan)],
            plan,
            ..site.new_scan(node.id, "10.0.0.0/24", &["80"])
        })
        .await
        .id;
    let command = site.issue(node).await.expect("issued").command;
    let early = site.report(node, command, vec![plain("10.0.0.7", "80")]);
    let early = site.store.record_report(early).await;
    assert!(
        matches!(early, Err(ReportError::AwaitsPins(_))),
        "nothing is pinned yet: {early:?}"
    );
    let pins = |names: Vec<(&str, Result<Vec<&str>, &str>)>| Pins {
        node: node.id,
        command,
        names: names
            .into_iter()
            .map(|(name, answer)| {
                let addresses = |list: Vec<&str>| {
                    list.into_iter()
                        .map(|ip| ip.parse().expect("an address"))
                        .collect()
                };
                (
                    name.to_owned(),
                    answer.map(addresses).map_err(str::to_owned),
                )
            })
            .collect(),
        addresses: fleet_core::AddressPolicy::default(),
        now: at(25),
    };
    let answers = vec![
        ("rig.example", Ok(vec!["10.0.0.7", "10.0.0.8"])),
        ("gone.example", Err("no such host")),
        ("evil.example", Ok(vec!["10.0.0.9", "8.8.8.8"])),
        ("other.example", Ok(vec!["10.0.0.1"])),
    ];
    let first = site.store.record_pins(pins(answers[..1].to_vec())).await;
    assert_eq!(first.expect("taken").pinned, 1);
    let early = site.report(node, command, vec![plain("10.0.0.7", "80")]);
    let early = site.store.record_report(early).await;
    assert!(
        matches!(early, Err(ReportError::AwaitsPins(_))),
        "{early:?}"
    );
    let taken = site
        .store
        .record_pins(pins(answers.clone()))
        .await
        .expect("taken");
    assert_eq!(
        (taken.scan, taken.pinned, taken.refused.len()),
        (scan, 0, 1)
    );
    let again = site
        .store
        .record_pins(pins(answers.clone()))
        .await
        .expect("taken");
    assert_eq!(again.pinned, 0);
    let otherwise = site
        .store
        .record_pins(pins(vec![("rig.example", Ok(vec!["10.0.0.66"]))]))
        .await
        .expect("answered");
    assert_eq!(otherwise.refused.len(), 1, "the first word stands");
    let events = site.log(scan).await;
    assert_eq!(events.len(), 3, "one event per name: {events:?}");

    let rows = ["10.0.0.7", "10.0.0.8", "10.0.0.9", "10.0.0.66"]
        .map(|ip| plain(ip, "80"))
        .to_vec();
    assert_eq!(site.reported(node, command, rows).await, (2, 2));
    // After a reconnect, the node sends the same report.
    let again = site.store.record_pins(pins(answers)).await.expect("taken");
    assert_eq!((again.pinned, site.log(scan).await.len()), (0, 5));
    site.acked(node, command, AckCode::Ok).await;
    let dead = site.store.record_pins(pins(vec![])).await;
    assert!(matches!(dead, Err(PinsError::NotInFlight(_))));
    let ledger = site.look(scan).await.ledger.expect("ended");
    assert!(ledger.adds_up());
    assert_eq!(
        (ledger.targets, ledger.identified, ledger.skipped),
        (4, 2, 2)
    );
}
