//! What is found is what is there.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use fleet_core::TargetOutcome;
use fleet_scan::{Fingerprints, FoundDevice, ScanEvent, ScanOptions};
use fleet_sim::{Identity, Manner, Site, Truth};

use crate::{job, quick, recorded, scan, scanner, start};

/// The parts of a found device that the truth names.
fn identity(device: &FoundDevice) -> Identity {
    let facts = &device.facts;
    Identity {
        port: device.endpoint.port.number(),
        url_scheme: facts.scheme.clone(),
        driver_name: facts.driver.clone(),
        model: facts.model.clone(),
        manufacturer: facts.manufacturer.clone(),
        firmware_version: facts.firmware.clone(),
        mac: facts.mac.map(|mac| mac.to_string()),
        serial: facts
            .serial
            .as_ref()
            .map(|serial| serial.as_str().to_owned()),
    }
}

/// Compares what was found, and the outcome of every target, with the truth of every device.
fn assert_true(site: &Site, found: &[FoundDevice], outcomes: &[TargetOutcome]) {
    let mut by_address: BTreeMap<IpAddr, Identity> = BTreeMap::new();
    for device in found {
        let twice = by_address.insert(device.endpoint.ip, identity(device));
        assert!(twice.is_none(), "{} was reported twice", device.endpoint);
    }
    let ports = site.ports();
    for (address, outcome) in site.addresses().into_iter().zip(outcomes) {
        let device = site.device(address).expect("a device");
        let (expected, expected_outcome) = match device.truth(&ports) {
            Truth::Identified(identity) => (Some(*identity), TargetOutcome::Identified),
            Truth::Unidentified => (None, TargetOutcome::Unidentified),
            Truth::Refused => (None, TargetOutcome::Refused),
        };
        assert_eq!(by_address.remove(&address), expected, "{device:#?}");
        assert_eq!(*outcome, expected_outcome, "{device:#?}");
    }
    assert!(
        by_address.is_empty(),
        "found where nothing is: {by_address:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_make_manner_and_defect_is_identified_as_the_truth_says() {
    let running = start(Site::one_of_everything(3), 0).await;
    let site = running.site();
    let (summary, found, _) = scan(&scanner(ScanOptions::default()), job(site)).await;
    assert_true(site, &found, &summary.outcomes);
    assert!(summary.is_complete(), "{summary:?}");
    assert_eq!(summary.found, found.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_site_with_slow_and_unidentified_hosts_is_found_completely() {
    let running = start(Site::demo(300, 7), 2).await;
    let site = running.site();
    let (summary, found, events) = scan(&scanner(ScanOptions::default()), job(site)).await;
    assert_true(site, &found, &summary.outcomes);
    assert_eq!(found.len(), 300);
    assert_eq!(summary.count(TargetOutcome::Identified), 300);
    assert_eq!(summary.outcomes.len(), site.addresses().len());
    assert!(running.journal().max_concurrent_per_host() <= 2);
    let first = events
        .iter()
        .position(|event| matches!(event, ScanEvent::Found(_)))
        .expect("a device");
    let last_progress = events
        .iter()
        .rposition(|event| matches!(event, ScanEvent::Progress(_)));
    assert!(
        Some(first) < last_progress,
        "devices arrive while the scan goes on"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_thinks_for_seconds_is_found() {
    let running = start(Site::slow(3, Duration::from_millis(2_500)), 4).await;
    let (summary, found, _) = scan(&scanner(Default::default()), job(running.site())).await;
    assert_true(running.site(), &found, &summary.outcomes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_where_nothing_listens_are_refused_and_the_order_is_the_jobs() {
    let running = start(Site::slow(2, Duration::ZERO), 5).await;
    let mut job = job(running.site());
    let nobody = IpAddr::from([127, 90, 5, 200]);
    let (one, two) = (job.targets[0], job.targets[1]);
    job.targets = vec![nobody, two, one, nobody, two];
    let (summary, found, _) = scan(&scanner(quick()), job).await;
    use TargetOutcome::{Identified, Refused};
    assert_eq!(
        summary.outcomes,
        [Refused, Identified, Identified, Refused, Identified]
    );
    assert_eq!(
        found.len(),
        2,
        "a target that is named twice is scanned once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_garbage_talker_costs_bounded_bytes_and_is_unidentified() {
    let mut site = Site::slow(4, Duration::ZERO);
    for service in site
        .devices
        .iter_mut()
        .flat_map(|device| &mut device.services)
    {
        service.manner = Manner::Garbage;
    }
    let running = start(site, 6).await;
    let (summary, found, _) = scan(&scanner(quick()), job(running.site())).await;
    assert!(found.is_empty());
    assert_eq!(summary.count(TargetOutcome::Unidentified), 4);
    assert!(
        summary
            .notes
            .iter()
            .any(|note| note.contains("unidentified host")),
        "{:?}",
        summary.notes
    );
    assert!(summary.notes.iter().all(|note| note.chars().count() <= 512));
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mac_on_two_hosts_gives_two_devices_and_a_note() {
    let fixture = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name);
        recorded::recording(&path)
    };
    for (network, mac, notes) in [(0, None, 0), (1, Some("02:A9:90:07:F4:D8"), 1)] {
        let addresses = [1, 2].map(|host| Ipv4Addr::new(127, 92, network, host));
        let mut replaying = Vec::new();
        for address in addresses {
            let mut recording = fixture("bitaxe-hex-303.txt");
            if mac.is_none() {
                recording.replace("02:A9:90:07:F4:D8", "00:0A:35:00:00:00");
            }
            replaying.push(recorded::replay::replay(address, recording).await);
        }
        let scanner = recorded::scanner(Fingerprints::built_in());
        let (summary, found, _) = scan(&scanner, recorded::job(addresses.to_vec())).await;
        assert_eq!(found.len(), 2);
        let known = found
            .iter()
            .filter_map(|device| device.facts.mac)
            .map(|mac| mac.to_string());
        assert_eq!(
            known.collect::<Vec<_>>(),
            Vec::from_iter(mac),
            "a factory MAC identifies nobody"
        );
        let noted = summary
            .notes
            .iter()
            .filter(|note| note.contains("several hosts show the MAC"));
        assert_eq!(noted.count(), notes, "{:?}", summary.notes);
    }
}
