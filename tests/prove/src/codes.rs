//! A thousand nodes use one enrollment code simultaneously, each on its own connection. The connections are opened one
//! by one in advance. A thousand simultaneous connections would overflow the kernel's queue, which then resets some of
//! them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use fleet_core::{Secret, SecretKind};
use fleet_store::Enrollment as _;
use fleet_wire::{Code, client::CallOptions, gateway::FleetNodeGatewayClient};
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    database::Scratch,
    live::{self, Live},
};

/// Number of nodes that race for the code.
const NODES: usize = 1_000;

/// How long a node waits after a refusal for too many calls.
const AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn run() -> Result<Vec<String>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut figures = Vec::new();
        for scratch in Scratch::both().await? {
            figures.push(race(&scratch).await.context(scratch.engine)?);
            scratch.remove().await?;
        }
        Ok(figures)
    })
}

async fn race(scratch: &Scratch) -> Result<String> {
    let live = Live::start(&scratch.store).await?;
    let (code, _) = live.code().await?;
    let start = Arc::new(Barrier::new(NODES));
    let nobodys = Secret::new(SecretKind::EnrollmentCode, &[0; 32]);
    let mut nodes = JoinSet::new();
    for number in 0..NODES {
        let gateway = FleetNodeGatewayClient::new(live.channel()?);
        let opening = live::registration(nobodys.expose(), "nobody", &live::identity());
        let refused = gateway.register(&opening, CallOptions::new()).await;
        ensure!(refused.is_err(), "a code that nobody made was taken");
        let request = live::registration(&code, &format!("node-{number}"), &live::identity());
        let start = start.clone();
        nodes.spawn(async move {
            start.wait().await;
            loop {
                let answer = gateway.register(&request, CallOptions::new()).await;
                // The server takes 512 calls of one address at a time. A node asks again.
                let Err(Code::ResourceExhausted) = answer.as_ref().map_err(|error| error.code)
                else {
                    break answer;
                };
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
    let (mut won, mut lost, mut other) = (0, 0, Vec::new());
    while let Some(answer) = nodes.join_next().await {
        match answer? {
            Ok(_) => won += 1,
            Err(error) if error.code == Code::Unauthenticated => lost += 1,
            Err(error) => other.push(error),
        }
    }
    let enrolled = scratch
        .store
        .list_nodes(live.org, fleet_store::ListPage::FIRST)
        .await?
        .len();
    let counts = live.counts.clone();
    live.stop().await?;
    ensure!(
        won == 1 && lost == NODES - 1 && enrolled == 1,
        "{won} won and {lost} were refused, {enrolled} are enrolled, {} other answers, such as {:?}, of a port that counts {counts:?}",
        other.len(),
        other.first()
    );
    Ok(format!(
        "{}: {NODES} nodes raced for one code, {won} won, {lost} were refused alike, {enrolled} is enrolled",
        scratch.engine
    ))
}
