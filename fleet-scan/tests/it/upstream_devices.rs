//! Devices as upstream's test programs answer: the built-in drivers find each of them.

use std::net::Ipv4Addr;

use fleet_core::Port;
use fleet_scan::{Fingerprints, FoundDevice, ScanJob};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    recorded::{
        self,
        replay::{self, Recording, Replaying, replay},
    },
    scan,
};

/// A rig without a root page: only its API answers.
const RIG: &str = r#"
> PORT /
HTTP/1.1 404 Not Found
Content-Type: text/plain

404 page not found
> PORT /api/v1/pairing/info
HTTP/1.1 200 OK
Content-Type: application/json

{"mac":"02:42:0A:5A:00:10","cb_sn":"RIG-1"}
> PORT /api/v1/system
HTTP/1.1 200 OK
Content-Type: application/json

{"system-info":{"product_name":"Rig","manufacturer":"Proto","os":{"version":"1.0.0"}}}
"#;

fn rig(port: u16) -> Recording {
    Recording::parse(&RIG.replace("PORT", &port.to_string())).expect("a recording")
}

async fn found(address: Ipv4Addr, port: Option<u16>) -> Vec<FoundDevice> {
    let job = ScanJob {
        ports: port.and_then(Port::new).into_iter().collect(),
        ..recorded::job(vec![address])
    };
    let scanner = recorded::scanner(Fingerprints::built_in());
    scan(&scanner, job).await.1
}

fn assert_rig(found: &[FoundDevice], port: u16, scheme: &str) {
    let [device] = found else {
        panic!("found {found:?}");
    };
    let facts = &device.facts;
    assert_eq!(device.endpoint.port.number(), port);
    assert_eq!((&*facts.driver, &*facts.scheme), ("proto", scheme));
    assert_eq!((&*facts.model, &*facts.firmware), ("Rig", "1.0.0"));
    let mac = facts.mac.map(|mac| mac.to_string());
    assert_eq!(mac.as_deref(), Some("02:42:0A:5A:00:10"));
}

#[tokio::test]
async fn an_antminer_that_writes_its_keys_in_lower_case_is_found() {
    let answer = "> 4028 version\n{\"status\":[{\"STATUS\":\"S\",\"Msg\":\"BMMiner versions\"}],\"version\":[{\"BMMiner\":\"2.0.0\",\"API\":\"3.1\",\"Miner\":\"Antminer S19\",\"Type\":\"Antminer S19\"}]}\n> 4028 *\n{\"error\":\"unknown command\"}\n";
    let address = Ipv4Addr::new(127, 93, 0, 1);
    let _device = replay(address, Recording::parse(answer).expect("a recording")).await;
    let found = found(address, None).await;
    let facts = &found.first().expect("it is found").facts;
    assert_eq!(
        (&*facts.driver, &*facts.model, &*facts.firmware),
        ("antminer", "Antminer S19", "2.0.0")
    );
}

#[tokio::test]
async fn a_rig_without_a_root_page_is_found_with_tls_and_at_a_requested_port() {
    let address = Ipv4Addr::new(127, 93, 0, 2);
    let _rig = replay(address, rig(443)).await;
    assert_rig(&found(address, None).await, replay::HTTPS, "https");
    let address = Ipv4Addr::new(127, 93, 0, 3);
    let _rig = replay(address, rig(8_080)).await;
    assert_rig(&found(address, Some(8_080)).await, 8_080, "http");
}

/// Upstream's programs are written in Go: without TLS they answer a handshake with 400, with TLS a plain request.
#[tokio::test]
async fn a_rig_is_found_whether_or_not_its_port_uses_tls() {
    let address = Ipv4Addr::new(127, 93, 0, 4);
    let _rig = replay(address, rig(18_443)).await;
    in_front(address, replay::HTTPS, 18_443, |first| first == b'G', "").await;
    assert_rig(&found(address, None).await, replay::HTTPS, "http");

    let address = Ipv4Addr::new(127, 93, 0, 5);
    let _rig: Replaying = replay(address, rig(443)).await;
    let why = "Client sent an HTTP request to an HTTPS server.";
    in_front(address, 8_443, replay::HTTPS, |first| first == 0x16, why).await;
    assert_rig(&found(address, Some(8_443)).await, 8_443, "https");
}

/// A server that passes connections on to another port if their first byte is expected, and otherwise answers 400.
async fn in_front(address: Ipv4Addr, at: u16, to: u16, expects: fn(u8) -> bool, why: &'static str) {
    let listener = TcpListener::bind((address, at)).await.expect("a free port");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut first = [0];
                client.peek(&mut first).await?;
                if expects(first[0]) {
                    let mut server = tokio::net::TcpStream::connect((address, to)).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
                } else {
                    let _ = client.read(&mut [0; 1_024]).await?;
                    let answer = format!("HTTP/1.0 400 Bad Request\r\n\r\n{why}\n");
                    client.write_all(answer.as_bytes()).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
}
