//! Scan commands: their reports and acks.

use std::collections::BTreeMap;

use fleet_core::outcome::AckCode;
use fleet_sim::{Site, Truth};
use fleet_wire::{
    gateway::{ControlAck, ControlCommand, control_stream_request, control_stream_response},
    pairing::{NmapModeRequest, discover_request::Mode},
};

use crate::{Running, gateway::Gateway, start};

fn code(ack: &ControlAck) -> AckCode {
    AckCode::from_number(ack.code)
}

#[tokio::test]
async fn devices_are_reported_at_once_and_the_ack_has_an_outcome_per_target() {
    let site = start(Site::demo(80, 5), 1).await;
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 5_000);
    let (mut stream, _) = gateway.accepted().await;
    let (mut addresses, ports) = (site.site().addresses(), site.site().ports());
    // The outcomes follow the order of the list.
    addresses.reverse();
    stream.discover("c1", &addresses, &ports);
    let mut progress = Vec::new();
    let ack = loop {
        match stream.next().await {
            control_stream_request::Kind::Ack(ack) => break ack,
            control_stream_request::Kind::Progress(progress_now) => {
                progress.push((progress_now.targets_done, progress_now.targets_total))
            }
            other @ (control_stream_request::Kind::Hello(_)
            | control_stream_request::Kind::Pins(_)) => panic!("unexpected: {other:?}"),
        }
    };
    assert_eq!(
        (code(&ack), ack.succeeded, &*ack.error_message),
        (AckCode::Ok, true, "")
    );
    assert!(
        progress
            .iter()
            .all(|(done, total)| done <= total && *total == addresses.len() as u64),
        "{progress:?}"
    );
    assert_eq!(
        progress.last().map(|(done, _)| *done),
        Some(addresses.len() as u64)
    );

    let seen = gateway.seen();
    assert_eq!(
        seen.reports[0].devices.len(),
        1,
        "the first device leaves at once"
    );
    assert!(
        seen.reports
            .iter()
            .all(|report| report.command_id == "c1" && report.devices.len() <= 64)
    );
    let models: BTreeMap<_, _> = seen
        .rows()
        .map(|row| (row.ip_address.clone(), row.model.clone()))
        .collect();
    assert_eq!(models.len(), seen.rows().count(), "one report an address");
    for (address, outcome) in addresses.iter().zip(&ack.outcomes) {
        let truth = site
            .site()
            .device(*address)
            .map(|device| device.truth(&ports));
        match truth {
            Some(Truth::Identified(identity)) => {
                assert_eq!(
                    (*outcome, models.get(&address.to_string())),
                    (4, Some(&identity.model)),
                    "{address}"
                );
            }
            Some(Truth::Unidentified) => assert_eq!(
                (*outcome, models.get(&address.to_string())),
                (3, None),
                "{address}"
            ),
            Some(Truth::Refused) => assert_eq!(*outcome, 2, "{address}"),
            None => panic!("{address} is no device"),
        }
    }
    assert_eq!(ack.outcomes.len(), addresses.len());
}

#[tokio::test]
async fn a_second_command_gets_busy_and_a_cancel_keeps_the_results() {
    let site = start(Site::demo(100, 6), 2).await;
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 40);
    let (mut stream, _) = gateway.accepted().await;
    let addresses = site.site().addresses();
    stream.discover("long", &addresses, &site.site().ports());
    gateway
        .wait_for("a first device", |seen| !seen.reports.is_empty())
        .await;
    stream.discover("second", &addresses[..1], &[80]);
    let busy = stream.ack().await;
    assert_eq!(
        (&*busy.command_id, code(&busy), busy.succeeded),
        ("second", AckCode::Busy, false)
    );
    // BUSY would invite the server to repeat a command that this node does not have.
    stream.send(control_stream_response::Kind::Command(ControlCommand {
        command_id: "telemetry".to_owned(),
        payload: vec![0x1a, 0].into(),
    }));
    let unknown = stream.ack().await;
    assert_eq!(
        (&*unknown.command_id, code(&unknown), unknown.succeeded),
        ("telemetry", AckCode::Unimplemented, false)
    );
    // A repeated command has no effect.
    stream.discover("long", &addresses, &site.site().ports());
    stream.cancel("another");
    stream.cancel("long");
    let ack = stream.ack().await;
    assert_eq!(
        (&*ack.command_id, code(&ack), ack.succeeded),
        ("long", AckCode::Partial, false)
    );
    assert!(
        ack.error_message.starts_with("canceled"),
        "{}",
        ack.error_message
    );
    let found = ack.outcomes.iter().filter(|outcome| **outcome == 4).count();
    assert!(ack.outcomes.contains(&0), "something was left");
    assert!(found > 0 && found <= gateway.seen().addresses().len());
    // The permit is free again.
    stream.discover("third", &addresses[..1], &site.site().ports());
    assert_eq!(stream.ack().await.command_id, "third");
}

#[tokio::test]
async fn scans_for_an_upstream_server_skip_network_and_broadcast_addresses() {
    let site = start(Site::demo(12, 7), 3).await;
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 5_000);
    let mut stream = gateway.stream().await;
    stream.hello().await;
    stream.accept(&[]);
    let ports = site
        .site()
        .ports()
        .iter()
        .map(ToString::to_string)
        .collect();
    stream.command(
        "t",
        Mode::Nmap(NmapModeRequest {
            target: "127.91.3.0/28".to_owned(),
            ports,
        }),
    );
    // No progress is sent, because an upstream server could not decode it.
    let control_stream_request::Kind::Ack(ack) = stream.next().await else {
        panic!("not an ack");
    };
    assert_eq!((code(&ack), ack.outcomes.len()), (AckCode::Ok, 14));
    let broadcast = "127.91.3.15".parse().expect("an address");
    assert!(!site.journal().touched_addresses().contains(&broadcast));
}
