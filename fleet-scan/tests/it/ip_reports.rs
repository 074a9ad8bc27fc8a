//! Scans that listen for the announcements of IP report buttons.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use fleet_core::TargetOutcome;
use fleet_discovery::{IP_REPORTS, Listening};
use fleet_scan::{Listen, ScanEvent, ScanJob};
use fleet_sim::{Button, ButtonMake, Site};
use tokio::net::UdpSocket;

use crate::{finish, found, job, quick, scanner, start};

/// The ports of the test, which must not be those of another test.
fn listen(offset: u16, seconds: i32) -> Listen {
    let listening = Listening::read(IP_REPORTS, "", seconds).expect("IP reports");
    Listen {
        report_offset: offset,
        ..Listen::new(listening, vec!["127.0.0.0/8".parse().expect("a network")])
    }
}

/// Waits until the scan has opened its last port.
async fn until_open(offset: u16) {
    const LAST: u16 = 54_321;
    let entry = format!(":{:04X} ", LAST + offset);
    let is_open = || std::fs::read_to_string("/proc/net/udp").is_ok_and(|all| all.contains(&entry));
    while !is_open() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn button(make: ButtonMake, ip: IpAddr, offset: u16) -> Button {
    let IpAddr::V4(ip) = ip else {
        panic!("{ip}");
    };
    Button {
        make,
        ip,
        to: Ipv4Addr::LOCALHOST,
        offset,
        pause: Duration::from_millis(20),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_appear_once_each_in_the_order_of_the_buttons() {
    const OFFSET: u16 = 400;
    let running = start(Site::slow(12, Duration::from_millis(150)), 120).await;
    let addresses = running.site().addresses();
    let job = ScanJob {
        listen: Some(listen(OFFSET, 4)),
        ..job(running.site())
    };
    let targets = job.targets.clone();
    let scan = scanner(quick()).scan(job).expect("it starts");
    let presses = [9, 2, 7, 4, 11, 0, 6, 3, 8];
    let pressing = async {
        until_open(OFFSET).await;
        let mut answers = 0;
        for (make, host) in ButtonMake::ALL.into_iter().zip(presses) {
            let pressed = button(make, addresses[host], OFFSET).press().await;
            answers += pressed.expect("it is sent");
        }
        answers
    };
    let ((summary, devices, _), answers) = tokio::join!(finish(scan), pressing);
    let order: Vec<IpAddr> = devices.iter().map(|device| device.endpoint.ip).collect();
    assert_eq!(order, presses.map(|host| addresses[host]));
    assert_eq!(
        answers, 0,
        "an answer would change the lights of the device"
    );
    assert!(summary.is_complete(), "{summary:?}");
    for (target, outcome) in targets.iter().zip(&summary.outcomes) {
        let expected = if order.contains(target) {
            TargetOutcome::Identified
        } else {
            TargetOutcome::Silent
        };
        assert_eq!(*outcome, expected, "{target}");
    }
    let touched = running.journal().touched_addresses();
    assert_eq!(
        touched.len(),
        presses.len(),
        "only devices whose button was pressed are dialed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_is_only_a_hint_to_dial_a_target() {
    const OFFSET: u16 = 500;
    let running = start(Site::slow(3, Duration::ZERO), 121).await;
    let addresses = running.site().addresses();
    let mut job = ScanJob {
        listen: Some(listen(OFFSET, 2)),
        ..job(running.site())
    };
    let outside = job.targets.remove(0);
    let scan = scanner(quick()).scan(job).expect("it starts");
    let sending = async {
        until_open(OFFSET).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let public = "8.8.8.8,02:00:5E:00:00:07".to_owned();
        let not_a_target = format!("{outside},02:00:5E:00:00:07");
        let target = format!("{},02:00:5E:00:00:07", addresses[2]);
        for text in ["garbage", "OK\0\0send_a", &public, &not_a_target, &target] {
            let to = ("127.0.0.1", 14_235 + OFFSET);
            socket.send_to(text.as_bytes(), to).await.expect("sent");
        }
    };
    let ((summary, devices, events), ()) = tokio::join!(finish(scan), sending);
    let order: Vec<IpAddr> = devices.iter().map(|device| device.endpoint.ip).collect();
    assert_eq!(order, [addresses[2]]);
    assert!(running.journal().touched_addresses().iter().eq(&order));
    let note = "devices announced addresses that are not among the targets";
    assert!(
        summary.notes.iter().any(|text| text.contains(note)),
        "{summary:?}"
    );
    assert_eq!(found(&events).len(), 1);
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, ScanEvent::Note(text) if text.contains("garbage")))
    );
}
