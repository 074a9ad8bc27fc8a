//! Failures of reports and commands, and their acks.

use fleet_core::outcome::AckCode;
use fleet_sim::Site;
use fleet_wire::{
    RpcError,
    gateway::{ControlCommand, control_stream_response},
    pairing::{NmapModeRequest, discover_request::Mode},
};

use crate::{Running, gateway::Gateway, options, start};

#[tokio::test]
async fn a_permanently_rejected_report_is_stated_in_the_ack() {
    let site = start(Site::demo(30, 8), 4).await;
    let (addresses, ports) = (site.site().addresses(), site.site().ports());
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 5_000);
    let (mut stream, _) = gateway.accepted().await;
    for (refusal, id) in [
        (RpcError::invalid_argument("a bad row"), "bad"),
        (RpcError::resource_exhausted("over quota"), "quota"),
        (RpcError::failed_precondition("too late"), "dead"),
    ] {
        gateway.behavior().reports = vec![refusal.clone()];
        gateway.behavior().refuse_for_good = true;
        stream.discover(id, &addresses, &ports);
        let ack = stream.ack().await;
        assert_eq!(
            (&*ack.command_id, AckCode::from_number(ack.code)),
            (id, AckCode::ReportFailed)
        );
        assert!(
            ack.error_message.contains(&refusal.message),
            "{}",
            ack.error_message
        );
    }
    assert_eq!(gateway.seen().reports.len(), 0);
    // If only one report is rejected, the others count.
    gateway.behavior().reports = vec![RpcError::invalid_argument("one bad row")];
    gateway.behavior().refuse_for_good = false;
    stream.discover("some", &addresses, &ports);
    let ack = stream.ack().await;
    assert_eq!(AckCode::from_number(ack.code), AckCode::Partial);
    assert!(
        ack.error_message.contains("one bad row"),
        "{}",
        ack.error_message
    );
}

#[tokio::test]
async fn a_report_is_retried_until_it_is_stored() {
    let site = start(Site::demo(20, 9), 5).await;
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 5_000);
    let (mut stream, _) = gateway.accepted().await;
    gateway.behavior().reports = vec![
        RpcError::unavailable("later"),
        RpcError::internal("id 7"),
        RpcError::unauthenticated("rotated"),
    ];
    stream.discover("c", &site.site().addresses(), &site.site().ports());
    let ack = stream.ack().await;
    assert_eq!(
        AckCode::from_number(ack.code),
        AckCode::Ok,
        "{}",
        ack.error_message
    );
    assert_eq!(gateway.seen().rows().count(), 20);
}

#[tokio::test]
async fn an_address_outside_the_allow_list_is_skipped_with_the_reason() {
    let site = start(Site::demo(4, 16), 26).await;
    let mut addresses = site.site().addresses();
    let gateway = Gateway::start().await;
    let mut options = options(5_000);
    options.site.allowed_networks = vec!["127.91.26.0/24".parse().expect("a network")];
    let _node = Running::with(&gateway, options);
    let (mut stream, _) = gateway.accepted().await;
    addresses.insert(1, [127, 91, 27, 1].into());
    stream.discover("c", &addresses, &site.site().ports());
    let ack = stream.ack().await;
    assert_eq!(AckCode::from_number(ack.code), AckCode::Ok, "{ack:?}");
    assert_eq!(ack.outcomes.len(), addresses.len());
    assert_eq!(ack.outcomes[1], 5, "skipped");
    let noted = |note: &String| note.contains("127.91.27.1 is outside the networks");
    assert!(ack.notes.iter().any(noted), "{:?}", ack.notes);
    assert!(!site.journal().touched_addresses().contains(&addresses[1]));
}

#[tokio::test]
async fn an_invalid_command_is_refused_without_a_packet() {
    let site = start(Site::demo(4, 10), 6).await;
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 5_000);
    let (mut stream, _) = gateway.accepted().await;
    let mut inside = site.site().addresses();
    inside.push([8, 8, 8, 8].into());
    stream.discover("public", &inside, &site.site().ports());
    stream.command(
        "name",
        Mode::Nmap(NmapModeRequest {
            target: "miner.localhost".to_owned(),
            ports: Vec::new(),
        }),
    );
    stream.send(control_stream_response::Kind::Command(ControlCommand {
        command_id: "other".to_owned(),
        payload: vec![0x1a, 0].into(),
    }));
    for (id, code, named) in [
        ("public", AckCode::BadRequest, "8.8.8.8"),
        ("name", AckCode::BadRequest, "miner.localhost"),
        ("other", AckCode::Unimplemented, "does not support"),
    ] {
        let ack = stream.ack().await;
        assert_eq!(
            (&*ack.command_id, AckCode::from_number(ack.code)),
            (id, code)
        );
        assert!(ack.error_message.contains(named), "{}", ack.error_message);
    }
    assert!(site.journal().touched_addresses().is_empty());
}
