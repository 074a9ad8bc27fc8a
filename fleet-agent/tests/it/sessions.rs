//! Sessions: refreshes, and the failures that stop a node permanently.

use std::time::Duration;

use fleet_agent::StopReason;
use fleet_wire::{
    RpcError,
    gateway::{CommandProtocolVersion, ControlGoodbye, GoodbyeReason, control_stream_response},
};

use crate::{Running, gateway::Gateway};

#[tokio::test]
async fn a_refresh_does_not_drop_the_stream() {
    let gateway = Gateway::start().await;
    gateway.behavior().session_life = Duration::from_secs(2);
    let node = Running::start(&gateway, 1_000);
    let (mut stream, hello) = gateway.accepted().await;
    assert_eq!(
        hello.capabilities,
        [
            "progress",
            "cancel",
            "goodbye",
            "pins",
            "outcomes",
            "mdns",
            "big-commands",
            "hosts",
            "default-passwords"
        ]
    );
    assert_eq!(
        hello.max_command_protocol_version(),
        CommandProtocolVersion::V1
    );
    assert_eq!(
        (hello.instance_id.len(), hello.max_targets, hello.max_ports),
        (16, 16_384, 64)
    );
    assert!(hello.running.is_empty() && !hello.default_ports.is_empty());
    // The server's clock is one hour ahead. A node that used its own clock would not refresh yet.
    gateway
        .wait_for("a second handshake", |seen| seen.completed >= 2)
        .await;
    stream.discover("after", &[], &[]);
    assert_eq!(stream.ack().await.command_id, "after");
    drop(node);
}

#[tokio::test]
async fn final_errors_of_the_server_stop_the_node() {
    let gateway = Gateway::start().await;
    gateway.behavior().begin = Some(RpcError::unauthenticated("who?"));
    assert_eq!(
        Running::start(&gateway, 1_000).ended().await,
        Err(StopReason::KeyRefused)
    );

    gateway.behavior().begin = None;
    gateway.behavior().heartbeat = Some(RpcError::not_found("no such node"));
    assert_eq!(
        Running::start(&gateway, 1_000).ended().await,
        Err(StopReason::NodeUnknown)
    );

    let gateway = Gateway::start().await;
    let node = Running::start(&gateway, 1_000);
    let (stream, _) = gateway.accepted().await;
    stream.send(control_stream_response::Kind::Goodbye(ControlGoodbye {
        reason: GoodbyeReason::Revoked.into(),
        retry_after_ms: 0,
    }));
    assert_eq!(node.ended().await, Err(StopReason::Revoked));
}

#[tokio::test]
async fn a_node_reconnects_in_its_slot_after_a_goodbye() {
    let gateway = Gateway::start().await;
    let node = Running::start(&gateway, 1_000);
    let (mut stream, first) = gateway.accepted().await;
    stream.send(control_stream_response::Kind::Goodbye(ControlGoodbye {
        reason: GoodbyeReason::Drain.into(),
        retry_after_ms: 30,
    }));
    assert!(stream.ended().await.is_empty());
    let (_stream, second) = gateway.accepted().await;
    assert_eq!(first.instance_id, second.instance_id);
    drop(node);
}
