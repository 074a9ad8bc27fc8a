//! Peers that flood their connection: each is disconnected with a reason, and counted.

use std::sync::Arc;

use fleet_sim::attack::{ATTACKS, Attack, Outcome};
use fleet_wire::{
    gateway::FleetNodeGatewayClient,
    listener::{Flood, ListenerConfig},
};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, crypto,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::{
    harness::{Server, TOKEN},
    pipes::{Piped, http2, post},
};

/// HTTP/2's code for a peer that asks for too much (RFC 9113, section 7).
const ENHANCE_YOUR_CALM: u32 = 11;
/// More than any attack may come to: the largest allowance and what is on its way in a pipe.
const MOST: u64 = 50_000;

fn attack(name: &str) -> Attack {
    let mut all = ATTACKS.into_iter();
    all.find(|attack| attack.name == name).expect("known")
}

#[tokio::test(start_paused = true)]
async fn floods_of_uncounted_frames_are_cut_off_with_a_reason() {
    for (name, flood) in [
        ("ping", Flood::Ping),
        ("ping answer", Flood::Ping),
        ("settings", Flood::Settings),
        ("window update", Flood::WindowUpdate),
        ("priority", Flood::Priority),
        ("unknown type", Flood::Other),
        ("priority update", Flood::Other),
    ] {
        let server = Piped::start(ListenerConfig::plaintext());
        let Outcome { units, cut, goaway } = attack(name).run(server.connect(), MOST).await;
        assert!(cut && units < 20_000, "{name}: {units} frames");
        assert_eq!(goaway, Some(ENHANCE_YOUR_CALM), "{name}");
        assert_eq!(server.config.counts.floods(flood), 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_attack_on_an_open_connection_ends_and_leaves_the_server_well() {
    let server = Piped::start(ListenerConfig::plaintext());
    let (mut honest, _open) = http2(server.connect()).await;
    let path = FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path();
    for attack in ATTACKS {
        // A head that is too large is refused like any other request, and unpacked before that: 500 are 4 GB.
        let refused = attack.name == "header bomb";
        let most = if refused { 500 } else { MOST };
        let outcome = attack.run(server.connect(), most).await;
        assert!(outcome.cut || refused, "{}: {outcome:?}", attack.name);
        assert_eq!(
            post(&mut honest, path, Some(TOKEN)).await,
            200,
            "{}",
            attack.name
        );
    }
}

#[tokio::test]
async fn a_flood_inside_tls_is_cut_too() {
    let server = Server::start().await;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(server.certificate.cert_pem.as_bytes()) {
        roots
            .add(certificate.expect("a certificate"))
            .expect("a root");
    }
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .expect("a handshake");
    let outcome = attack("ping").run(tls, u64::from(u32::MAX)).await;
    assert!(outcome.cut);
    assert_eq!(server.config.counts.floods(Flood::Ping), 1);
}
