//! Local scans without a server, and halts.

use std::net::IpAddr;

use fleet_agent::{LocalScan, LocalSummary};
use fleet_core::{Port, TargetOutcome, outcome::AckCode};
use fleet_scan::ScanEvent;
use fleet_sim::Site;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Running,
    gateway::{Gateway, Seen},
    options, start, within,
};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Runs a scan and returns the addresses of found devices, in that order, and the summary.
pub(crate) async fn run(scan: LocalScan) -> (Vec<IpAddr>, LocalSummary) {
    let starting = scan.start(CancellationToken::new());
    let mut running = starting.await.expect("it starts");
    let mut found = Vec::new();
    loop {
        match within("an event", running.scan.next()).await {
            Some(ScanEvent::Found(device)) => found.push(device.endpoint.ip),
            Some(ScanEvent::Ended(summary)) => return (found, running.summarize(summary)),
            Some(ScanEvent::Unidentified(_) | ScanEvent::Progress(_) | ScanEvent::Note(_)) => {}
            None => panic!("the scan crashed"),
        }
    }
}

#[tokio::test]
async fn a_local_scan_finds_all_devices_and_counts_every_target() {
    let running = start(Site::demo(6, 21), 21).await;
    let addresses = running.site().addresses();
    let mut targets: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    // Duplicates, and a network that contains one of the addresses.
    targets.extend(targets.clone());
    targets.push(format!("{}/32", addresses[0]));
    let ports: Vec<String> = running
        .site()
        .ports()
        .iter()
        .map(ToString::to_string)
        .collect();
    let scan = LocalScan::plan(&targets, &ports, &options(5_000)).expect("a plan");
    assert_eq!(scan.targets(), addresses.len());
    let (mut found, summary) = run(scan).await;
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 6, "every device that can be named");
    assert!(found.iter().all(|ip| addresses.contains(ip)));
    assert_eq!(summary.scan.count(TargetOutcome::Identified), 6);
    assert!(summary.scan.is_complete(), "{summary:?}");
    assert_eq!(summary.targets.len(), summary.scan.outcomes.len());
}

#[test]
fn targets_and_ports_outside_the_policy_are_rejected_by_name() {
    let mut options = options(5_000);
    options.site.allowed_networks = vec!["10.0.0.0/24".parse().expect("a network")];
    options.site.denied_ports = Port::new(22).into_iter().collect();
    options.local_subnets = Some(Vec::new());
    let plan = |targets: &[&str], ports: &[&str]| {
        LocalScan::plan(&texts(targets), &texts(ports), &options)
            .map(|scan| (scan.targets(), scan.ports().len(), scan.skipped().len()))
            .map_err(|error| error.to_string())
    };
    assert_eq!(plan(&["10.0.0.0/29", "10.0.0.1-3"], &["80"]), Ok((6, 1, 2)));
    // Only a part of the network is allowed: the rest is skipped with the reason, beside the two edges.
    assert_eq!(plan(&["10.0.0.0/23"], &["80"]), Ok((255, 1, 3)));
    for (targets, ports, named) in [
        (&["10.9.0.0/24"][..], &["80"][..], "10.9.0.1"),
        (&["8.8.8.8"], &["80"], "8.8.8.8"),
        (&["10.0.0.7"], &["22"], "port 22"),
        (&["10.0.0.7"], &["80/tcp"], "80/tcp"),
        (&["010.0.0.7"], &["80"], "010.0.0.7"),
        (&["fleetnode-local-subnet"], &["80"], "--local-subnet"),
    ] {
        let refused = plan(targets, ports).expect_err(named);
        assert!(refused.contains(named), "{refused}");
    }
    options.site.allowed_networks = Vec::new();
    let large = texts(&["10.0.0.0/16", "10.1.0.0/16"]);
    let refused = LocalScan::plan(&large, &texts(&["80"]), &options).map(|_| ());
    let refused = refused.expect_err("two /16").to_string();
    assert!(refused.contains("131068"), "{refused}");
}

#[tokio::test]
async fn a_halt_stops_the_scan_and_refuses_commands_until_resume() {
    let running = start(Site::demo(40, 22), 22).await;
    let (addresses, ports) = (running.site().addresses(), running.site().ports());
    let (halt_tx, halt) = watch::channel(None);
    let gateway = Gateway::start().await;
    let mut options = options(20);
    options.halt = halt;
    let _node = Running::with(&gateway, options);
    let (mut stream, _) = gateway.accepted().await;

    stream.discover("slow", &addresses, &ports);
    let rows = |seen: &Seen| seen.rows().count();
    gateway.wait_for("a device", |seen| rows(seen) > 0).await;
    let not_halted = |seen: &Seen| seen.halt == Some(None);
    gateway.wait_for("a heartbeat", not_halted).await;
    halt_tx.send_replace(Some("new switch".to_owned()));
    let halted = |seen: &Seen| seen.halt == Some(Some("new switch".to_owned()));
    gateway.wait_for("the halt in a heartbeat", halted).await;
    let ack = within("the ack", stream.ack()).await;
    assert_eq!(AckCode::from_number(ack.code), AckCode::Partial);
    assert!(ack.error_message.contains("halted"), "{ack:?}");
    assert!(ack.error_message.contains("not reached"), "{ack:?}");

    stream.discover("next", &addresses, &ports);
    let ack = within("the refusal", stream.ack()).await;
    assert_eq!(AckCode::from_number(ack.code), AckCode::AgentIncapable);
    assert!(ack.error_message.contains("new switch"), "{ack:?}");
    assert!(ack.error_message.contains("fleetnode resume"), "{ack:?}");

    halt_tx.send_replace(None);
    gateway.wait_for("its end in a heartbeat", not_halted).await;
    stream.discover("again", &addresses[..1], &ports);
    let ack = within("the ack", stream.ack()).await;
    assert_eq!(AckCode::from_number(ack.code), AckCode::Ok, "{ack:?}");
}
