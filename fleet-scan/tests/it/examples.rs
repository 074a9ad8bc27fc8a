//! The examples run as they are documented, against simulated devices.

#[expect(dead_code, reason = "its main is not called")]
#[path = "../../examples/custom_driver.rs"]
mod custom_driver;
#[expect(dead_code, reason = "its main is not called")]
#[path = "../../examples/discover.rs"]
mod discover;

use std::{net::Ipv4Addr, time::Duration};

use fleet_core::{AddressPolicy, Port};
use fleet_scan::{Guard, ScanJob};
use fleet_sim::Site;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::{job, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_discovery_example_finds_every_device() {
    let running = start(Site::slow(7, Duration::ZERO), 95).await;
    let found = discover::discover(job(running.site())).await;
    assert_eq!(found.expect("it runs"), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_custom_driver_example_identifies_its_devices() {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 90, 96, 1), 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"BOILER 7 rev 1.2\n").await;
        }
    });
    let job = ScanJob {
        ports: Port::new(address.port()).into_iter().collect(),
        guard: Guard::policy(AddressPolicy::DEMO),
        ..ScanJob::new(vec![address.ip()])
    };
    let found = custom_driver::find(job).await.expect("it runs");
    let texts: Vec<_> = found
        .iter()
        .map(|device| (device.facts.model.as_str(), device.facts.firmware.as_str()))
        .collect();
    assert_eq!(texts, [("7", "1.2")]);
}
