//! The examples run as they are documented.

#[expect(dead_code, reason = "its main is not called")]
#[path = "../../examples/axum.rs"]
mod axum_app;

use fleet_wire::{Code, client::CallOptions, fleet::NodeClient};
use tokio::{net::TcpListener, sync::oneshot};

use crate::harness::{channel, request, soon};

#[tokio::test(flavor = "multi_thread")]
async fn the_axum_example_serves_its_own_route_and_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel();
    let client = async {
        for (path, body) in [("/hello", "hello\n"), ("/healthz", "ok\n")] {
            let answer = request(address, "GET", path, &[], "").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, body));
        }
        let nodes = NodeClient::new(channel(address));
        let refused = soon(nodes.list_nodes(&Default::default(), CallOptions::default())).await;
        assert_eq!(refused.expect_err("no key").code, Code::Unauthenticated);
        stop.send(()).expect("it runs");
    };
    let serve = axum_app::serve(listener, async { drop(stopped.await) });
    let (served, ()) = soon(async { tokio::join!(serve, client) }).await;
    served.expect("it ends well");
}
