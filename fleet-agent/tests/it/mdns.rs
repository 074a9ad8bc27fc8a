//! mDNS scans by command and without a server, over real multicast on loopback.

use std::net::IpAddr;

use fleet_agent::LocalScan;
use fleet_core::{TargetOutcome, outcome::AckCode};
use fleet_sim::{Announcement, Announcer, RunningSite, Site};
use fleet_wire::pairing::{MdnsModeRequest, discover_request::Mode};
use ipnetwork::Ipv4Network;

use crate::{Running, gateway::Gateway, local::run, options, start, within};

/// A default port of the drivers.
const DEFAULT_PORT: u16 = 4028;

/// Devices at a default port.
async fn devices(count: usize, test: u8) -> RunningSite {
    let mut site = Site::slow(count, std::time::Duration::ZERO);
    for device in &mut site.devices {
        device.services[0].port = DEFAULT_PORT;
    }
    start(site, test).await
}

/// Announces a device under a service type of the test's own, because every node on this machine receives it.
fn announce(service: &str, ip: IpAddr) -> Announcer {
    let announcement = Announcement {
        service: service.to_owned(),
        instance: "A miner".to_owned(),
        host: "miner".to_owned(),
        addresses: vec![ip],
        port: DEFAULT_PORT,
        ..Announcement::default()
    };
    Announcer::start(5_353, vec![announcement]).expect("a responder")
}

fn subnet(test: u8) -> Ipv4Network {
    format!("127.91.{test}.0/29").parse().expect("a network")
}

#[tokio::test]
async fn an_mdns_command_reports_announcing_hosts_and_counts_others_as_silent() {
    let running = devices(4, 31).await;
    let addresses = running.site().addresses();
    let _announcer = announce("_fleet-31._tcp", addresses[2]);
    let gateway = Gateway::start().await;
    let mut options = options(5_000);
    options.local_subnets = Some(vec![subnet(31)]);
    let _node = Running::with(&gateway, options);
    let (mut stream, hello) = gateway.accepted().await;
    assert_eq!(hello.local_subnets, ["127.91.31.0/29"]);
    stream.command(
        "c1",
        Mode::Mdns(MdnsModeRequest {
            service_type: "_fleet-31._tcp".to_owned(),
            domain: "local".to_owned(),
            timeout_seconds: 1,
        }),
    );
    let ack = within("the ack", stream.ack()).await;
    assert_eq!(AckCode::from_number(ack.code), AckCode::Ok, "{ack:?}");
    // .1 to .6 in order. The third is identified.
    assert_eq!(&ack.outcomes[..], [1, 1, 4, 1, 1, 1]);
    assert!(gateway.seen().addresses().iter().eq(&addresses[2..3]));
    assert!(
        running
            .journal()
            .touched_addresses()
            .iter()
            .eq(&addresses[2..3])
    );
}

#[tokio::test]
async fn a_local_scan_can_use_mdns() {
    let running = devices(2, 32).await;
    let addresses = running.site().addresses();
    let _announcer = announce("_fleet-32._tcp", addresses[0]);
    let mut options = options(5_000);
    options.local_subnets = Some(vec![subnet(32)]);
    let scan = LocalScan::listen("_fleet-32._tcp.local", 1, &[], &options).expect("a plan");
    assert_eq!(scan.targets(), 6);
    let (found, summary) = run(scan).await;
    assert_eq!(found, addresses[..1]);
    assert_eq!(summary.scan.count(TargetOutcome::Silent), 5);
    assert!(summary.scan.is_complete(), "{summary:?}");
}

#[test]
fn invalid_mdns_services_are_rejected_by_name() {
    let mut options = options(5_000);
    options.local_subnets = Some(Vec::new());
    for (service, seconds, named) in [
        ("http", 5, "`http`"),
        ("_http._tcp", 61, "61 seconds"),
        ("_http._tcp", 5, "--local-subnet"),
    ] {
        let refused = LocalScan::listen(service, seconds, &[], &options).expect_err(named);
        assert!(refused.to_string().contains(named), "{refused}");
    }
}
