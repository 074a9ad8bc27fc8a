//! Helpers for the fault proofs: each makes one call about codes, readiness, nodes or scans.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use fleet_wire::{
    RpcError,
    admin::CreateEnrollmentCodeRequest,
    fleet::{ListEnrollmentCodesRequest, ListNodesRequest, Node},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::live::Live;

/// Creates an enrollment code and returns the id of its invitation.
pub(super) async fn create_code(live: &Live) -> Result<i64, RpcError> {
    let internal = |error: anyhow::Error| RpcError::internal(error.to_string());
    let answer = live
        .admin()
        .map_err(internal)?
        .create_enrollment_code(
            &CreateEnrollmentCodeRequest::default(),
            live.operator().map_err(internal)?,
        )
        .await?;
    Ok(answer.pending_enrollment_id)
}

/// The ids of all open codes.
pub(super) async fn open_codes(live: &Live) -> Result<BTreeSet<i64>> {
    let request = ListEnrollmentCodesRequest::default();
    let answer = live
        .nodes()?
        .list_enrollment_codes(&request, live.operator()?)
        .await?;
    Ok(answer
        .codes
        .into_iter()
        .map(|code| code.pending_enrollment_id)
        .collect())
}

/// A server's list entry of a node. None if it is not listed.
pub(super) async fn listed(live: &Live, node: i64) -> Result<Option<Node>> {
    let answer = live
        .nodes()?
        .list_nodes(&ListNodesRequest::default(), live.operator()?)
        .await?;
    Ok(answer
        .nodes
        .into_iter()
        .find(|listed| listed.fleet_node_id == node))
}

/// Requests `/readyz` like a load balancer.
pub(super) async fn is_ready(live: &Live) -> Result<bool> {
    let ask = async {
        let mut socket = TcpStream::connect(live.address()).await?;
        socket
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: proof\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), ask)
        .await
        .context("readiness did not answer within 5 s")??;
    let text = String::from_utf8_lossy(&answer);
    Ok(text
        .lines()
        .next()
        .is_some_and(|line| line.contains(" 200 ")))
}
