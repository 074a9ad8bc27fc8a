//! Connections of trusted proxies, which carry many peers: the worst of them ends no other call.

use std::net::IpAddr;

use fleet_sim::attack::ATTACKS;
use fleet_wire::{gateway::FleetNodeGatewayClient, listener::ListenerConfig};
use h2::client::SendRequest;

use crate::{
    harness::TOKEN,
    pipes::{Piped, http2, post},
};

const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));
/// Far more resets than any buffer of a proxy holds.
const RESETS: u64 = 5_000;

fn behind_a_proxy() -> Piped {
    Piped::start(ListenerConfig {
        trusted_proxies: vec![PROXY.into()],
        ..ListenerConfig::plaintext()
    })
}

/// Sends a request with one header of this length. Returns its status, or `None` if the connection ended.
async fn with_header(client: &SendRequest<bytes::Bytes>, length: usize) -> Option<u16> {
    let request = http::Request::post("http://x/a.B/C")
        .header("x-long", "x".repeat(length))
        .body(())
        .expect("a good request");
    let mut client = client.clone().ready().await.ok()?;
    let (response, _) = client.send_request(request, true).ok()?;
    Some(response.await.ok()?.status().as_u16())
}

#[tokio::test]
async fn a_long_header_from_a_proxy_is_refused_on_its_stream() {
    let server = behind_a_proxy();
    let heartbeat = FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path();
    let (mut client, _open) = http2(server.connect_from(PROXY)).await;
    for length in [9_000, 45_000, 120_000] {
        assert_eq!(with_header(&client, length).await, Some(431), "{length}");
        assert_eq!(post(&mut client, heartbeat, Some(TOKEN)).await, 200);
    }
    let (client, _open) = http2(server.connect()).await;
    assert_eq!(
        with_header(&client, 45_000).await,
        None,
        "a direct peer is cut"
    );
}

#[tokio::test]
async fn resets_from_a_proxy_end_only_their_streams() {
    let server = behind_a_proxy();
    let attack = ATTACKS.iter().find(|attack| attack.name == "rapid reset");
    let attack = attack.expect("a known attack");
    let outcome = attack.run(server.connect_from(PROXY), RESETS).await;
    assert!(!outcome.cut && outcome.goaway.is_none(), "{outcome:?}");
    let outcome = attack.run(server.connect(), RESETS).await;
    assert!(outcome.cut, "a direct peer: {outcome:?}");
}
