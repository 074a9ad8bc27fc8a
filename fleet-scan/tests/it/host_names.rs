//! Names of hosts that a scan found: they come after the identification, from the site's name servers.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{NameSource, NamedBy};
use fleet_discovery::HostName;
use fleet_scan::{BoxFuture, LookupError, Resolver, ScanJob};
use fleet_sim::Site;

use crate::{job, quick, scan, scanner, start};

/// Names the hosts with an even last octet.
#[derive(Debug)]
struct Even;

/// Never answers.
#[derive(Debug)]
struct Dead;

fn no_lookup<'a>() -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
    Box::pin(async { Err(LookupError::NoAddress) })
}

impl Resolver for Even {
    fn lookup<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        no_lookup()
    }

    fn reverse<'a>(&'a self, ip: IpAddr) -> BoxFuture<'a, Option<NamedBy>> {
        let text = ip.to_string();
        let last: u8 = text
            .rsplit('.')
            .next()
            .and_then(|octet| octet.parse().ok())
            .unwrap_or(1);
        let name = (last % 2 == 0).then(|| format!("Miner-{last}.lan."));
        Box::pin(async move { NamedBy::new(&name?, NameSource::ReverseDns) })
    }
}

impl Resolver for Dead {
    fn lookup<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        no_lookup()
    }

    fn reverse<'a>(&'a self, _: IpAddr) -> BoxFuture<'a, Option<NamedBy>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_have_the_names_of_the_name_server() {
    let running = start(Site::slow(6, Duration::ZERO), 87).await;
    let job = ScanJob {
        names: Some(Arc::new(Even)),
        ..job(running.site())
    };
    let (summary, devices, _) = scan(&scanner(quick()), job).await;
    assert_eq!((devices.len(), summary.found), (6, 6));
    for device in devices {
        let ip = device.endpoint.ip.to_string();
        let last: u8 = ip
            .rsplit('.')
            .next()
            .and_then(|octet| octet.parse().ok())
            .expect("an octet");
        let name = device.facts.host_name.map(|known| known.to_string());
        let expected = (last % 2 == 0).then(|| format!("dns:miner-{last}.lan"));
        assert_eq!(name, expected, "{ip}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_name_server_delays_devices_by_a_second_at_most_and_is_named() {
    let running = start(Site::slow(30, Duration::ZERO), 88).await;
    let job = ScanJob {
        names: Some(Arc::new(Dead)),
        ..job(running.site())
    };
    let began = Instant::now();
    let (summary, devices, _) = scan(&scanner(quick()), job).await;
    assert_eq!(devices.len(), 30);
    assert!(
        devices
            .iter()
            .all(|device| device.facts.host_name.is_none())
    );
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    let note = "host names are missing, because no name server answered";
    assert!(
        summary.notes.iter().any(|text| text.contains(note)),
        "{summary:?}"
    );
}
