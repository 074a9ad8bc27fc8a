//! Replies of unidentified hosts reach the operator: bounded, escaped, once, with their endpoint.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use fleet_core::{AddressPolicy, Port, TargetOutcome};
use fleet_scan::{
    Driver, DriverSet, Fingerprints, Guard, ProtocolDriver, ScanEvent, ScanJob, ScanSummary,
    Scanner,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use crate::{quick, scan};

/// No driver has this default port, so all drivers try it.
const UNCLAIMED: u16 = 14_022;
const HTTPS: u16 = 14_445;

/// Hosts that send a fixed text to every client at once.
async fn senders(test: u8, port: u16, replies: &[Vec<u8>]) -> JoinSet<()> {
    let mut sending = JoinSet::new();
    for (host, reply) in (1..).zip(replies.iter().cloned()) {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 92, test, host), port))
            .await
            .expect("a free port");
        sending.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let reply = reply.clone();
                tokio::spawn(async move {
                    // The client may close first.
                    let _ = stream.write_all(&reply).await;
                    let _ = stream.shutdown().await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                });
            }
        });
    }
    sending
}

async fn scan_all(test: u8, port: u16, hosts: u8) -> (ScanSummary, Vec<ScanEvent>) {
    let drivers: Vec<Arc<dyn Driver>> = vec![
        Arc::new(ProtocolDriver::http(Fingerprints::built_in())),
        Arc::new(ProtocolDriver::cgminer(Fingerprints::built_in())),
        Arc::new(ProtocolDriver::epic(Fingerprints::built_in())),
        Arc::new(
            ProtocolDriver::https(Fingerprints::built_in())
                .at(Port::new(HTTPS).into_iter().collect()),
        ),
    ];
    let scanner = Scanner::new(quick(), Arc::new(DriverSet::new(drivers).expect("a set")));
    let job = ScanJob {
        ports: Port::new(port).into_iter().collect(),
        guard: Guard::policy(AddressPolicy::DEMO),
        budget: Duration::from_secs(60),
        ..ScanJob::new(
            (1..=hosts)
                .map(|host| [127, 92, test, host].into())
                .collect(),
        )
    };
    let (summary, found, events) = scan(&scanner, job).await;
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(
        summary.count(TargetOutcome::Unidentified),
        u64::from(hosts),
        "{summary:?}"
    );
    (summary, events)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_reply_of_an_unidentified_host_is_in_a_note_and_in_the_summary() {
    let replies: Vec<(Vec<u8>, &str)> = vec![
        (
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n".to_vec(),
            r"reply `SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n`: 127.92.1.1:14022",
        ),
        (
            b"220 printer FTP server \x1b[31mready\x00\xff\n".to_vec(),
            r"reply `220 printer FTP server \x1b[31mready\x00\xff\n`: 127.92.1.2:14022",
        ),
        (
            b"HTTP/1.1 200 OK\r\nServer: Boa\r\nContent-Length: 30\r\n\r\n<title>Boiler \xe2\x99\xa8 7</title><p>".to_vec(),
            r"reply `HTTP 200, server Boa, title Boiler \xe2\x99\xa8 7`: 127.92.1.3:14022",
        ),
        (
            b"{\"STATUS\":[{\"STATUS\":\"S\",\"Description\":\"sgminer 5.6.1\"}],\"id\":1}\0".to_vec(),
            "reply `CGMiner API, sgminer 5.6.1`: 127.92.1.4:14022",
        ),
        (vec![], "unidentified host, no reply: 127.92.1.5:14022"),
        // Longer than the scanner reads.
        (
            vec![b'A'; 200_000],
            "reply `AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA`: 127.92.1.6:14022",
        ),
    ];
    let bytes: Vec<Vec<u8>> = replies.iter().map(|(bytes, _)| bytes.clone()).collect();
    let _senders = senders(1, UNCLAIMED, &bytes).await;
    let (summary, events) = scan_all(1, UNCLAIMED, replies.len() as u8).await;
    let notes: Vec<&String> = events
        .iter()
        .filter_map(|event| match event {
            ScanEvent::Note(text) => Some(text),
            ScanEvent::Found(_)
            | ScanEvent::Unidentified(_)
            | ScanEvent::Progress(_)
            | ScanEvent::Ended(_) => None,
        })
        .collect();
    for (_, expected) in replies {
        for texts in [summary.notes.iter().collect(), notes.clone()] {
            assert!(
                texts.iter().any(|text: &&String| text.contains(expected)),
                "{expected}: {texts:#?}"
            );
        }
    }
    assert!(
        summary
            .notes
            .iter()
            .all(|note| note.is_ascii() && note.len() <= 512)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_tls_is_quoted_with_its_plain_reply() {
    let replies = [
        b"SSH-2.0-dropbear\r\n".to_vec(),
        // An alert: handshake failure.
        vec![0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28],
    ];
    let _senders = senders(2, HTTPS, &replies).await;
    let (summary, _) = scan_all(2, HTTPS, 2).await;
    for expected in [
        r"reply `SSH-2.0-dropbear\r\n`: 127.92.2.1:14445",
        r"reply `\x15\x03\x01\x00\x02\x02(`: 127.92.2.2:14445",
    ] {
        assert!(
            summary.notes.iter().any(|note| note.contains(expected)),
            "{expected}: {:#?}",
            summary.notes
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_replies_of_many_hosts_are_one_note() {
    let replies = vec![b"SSH-2.0-dropbear\r\n".to_vec(); 60];
    let _senders = senders(3, UNCLAIMED, &replies).await;
    let (summary, events) = scan_all(3, UNCLAIMED, 60).await;
    assert_eq!(summary.notes.len(), 1, "{:#?}", summary.notes);
    assert!(
        summary.notes[0].contains("(60 hosts): 127.92.3."),
        "{:?}",
        summary.notes
    );
    let notes = events
        .iter()
        .filter(|event| matches!(event, ScanEvent::Note(_)));
    assert_eq!(notes.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_unidentified_host_is_one_event_with_its_ports_reply_and_requests() {
    let replies = [b"SSH-2.0-dropbear\r\n".to_vec(), vec![]];
    let _senders = senders(4, UNCLAIMED, &replies).await;
    let (_, events) = scan_all(4, UNCLAIMED, 2).await;
    let mut hosts: Vec<_> = events
        .into_iter()
        .filter_map(|event| match event {
            ScanEvent::Unidentified(host) => Some(host),
            ScanEvent::Found(_)
            | ScanEvent::Note(_)
            | ScanEvent::Progress(_)
            | ScanEvent::Ended(_) => None,
        })
        .collect();
    hosts.sort_by_key(|host| host.ip);
    let [ssh, silent] = hosts.as_slice() else {
        panic!("{hosts:?}");
    };
    let port = Port::new(UNCLAIMED);
    assert_eq!((&*ssh.open_ports, ssh.reply_port), (port.as_slice(), port));
    assert_eq!(ssh.reply, r"SSH-2.0-dropbear\r\n");
    assert!(ssh.requests.iter().any(|line| line == "GET /"), "{ssh:?}");
    assert!(
        ssh.requests.iter().any(|line| line.contains("version")),
        "{ssh:?}"
    );
    assert_eq!((&*silent.reply, silent.reply_port), ("", None));
    assert_eq!(silent.ip.to_string(), "127.92.4.2");
}
