//! Two replicas on one PostgreSQL database. The node's stream is connected to the first, and every operator call goes
//! to the second. Cancel and revocation must reach the node within a second. The end of a stream must be visible on
//! both within two seconds, and so must a replica that hangs. Both replicas must report the same scan state.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fleet_core::NodeId;
use fleet_wire::{
    admin::RevokeFleetNodeRequest,
    fleet::{CancelScanRequest, GetScanRequest, Scan, ScanState},
    gateway::{
        AckCode, ControlAck, DiscoveredDeviceReport, ReportDiscoveredDevicesRequest,
        control_stream_response::Kind,
    },
    pairing::{DiscoverRequest, NmapModeRequest, discover_request::Mode},
};

use super::fleet;
use crate::{
    database::Scratch,
    live::{Live, Node},
};

/// Nodes whose scans are canceled through the other replica. The nodes are then revoked.
const NODES: usize = 25;
/// Maximum delay until an operator's call reaches the node.
const ACTS: Duration = Duration::from_secs(1);
/// Maximum delay until the end of a stream is visible in every list.
const SHOWS: Duration = Duration::from_secs(2);

pub(super) fn run() -> Result<Vec<String>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let scratch = Scratch::postgres().await?;
        let near = Live::start(&scratch.store).await?;
        // A separate connection pool, as in another process.
        let other = scratch.open_again().await?;
        let far = Live::serve(&other, near.key()).await?;
        let mut slowest = Slowest::default();
        for number in 0..NODES {
            let context = || format!("node {number}");
            one(&near, &far, number, &mut slowest)
                .await
                .with_context(context)?;
        }
        let node = near.node("replica-hung").await?;
        online(&far, node.id, true).await.context("a new stream")?;
        let hung_at = Instant::now();
        let hung = near.hang();
        online(&far, node.id, false)
            .await
            .context("a hung replica")?;
        let hung_shows = hung_at.elapsed();
        ensure!(
            hung_shows < SHOWS,
            "a hung replica showed after {hung_shows:?}"
        );
        hung.abort();
        far.stop().await?;
        other.close().await;
        scratch.remove().await?;
        Ok(vec![format!(
            "PostgreSQL, two replicas: {NODES} nodes; cancel reached the node after {} ms, revocation after {} ms, \
             a lost stream showed after {} ms, each at most; a hung replica showed after {} ms; both replicas reported \
             every scan alike",
            slowest.cancel.as_millis(),
            slowest.revoke.as_millis(),
            slowest.offline.as_millis(),
            hung_shows.as_millis()
        )])
    })
}

#[derive(Default)]
struct Slowest {
    cancel: Duration,
    revoke: Duration,
    offline: Duration,
}

async fn one(near: &Live, far: &Live, number: usize, slowest: &mut Slowest) -> Result<()> {
    let mut node = near.node(&format!("replica-{number}")).await?;
    online(far, node.id, true).await.context("a new stream")?;
    let scan = far.scan(&node, target()).await?;
    let command = node.command().await?;
    report(&node, &command).await?;
    alike(near, far, &scan, |scan| scan.last_sequence > 0).await?;

    let request = CancelScanRequest {
        scan_id: scan.clone(),
    };
    let canceled_at = Instant::now();
    // The call waits for the end of the scan, which needs the node's ack.
    let (scans, operator) = (far.scans()?, far.operator()?);
    let cancel = async { Ok(scans.cancel_scan(&request, operator).await?) };
    let obey = async {
        wait_for_cancel(&mut node, &command).await?;
        let reached = canceled_at.elapsed();
        let ack = ControlAck {
            command_id: command,
            succeeded: true,
            code: AckCode::Partial.into(),
            ..ControlAck::default()
        };
        node.ack(ack).await?;
        anyhow::Ok(reached)
    };
    let (_, reached) = tokio::try_join!(cancel, obey)?;
    slowest.cancel = slowest.cancel.max(reached);
    ensure!(reached < ACTS, "cancel took {reached:?}");
    alike(near, far, &scan, |scan| scan.state() == ScanState::Canceled).await?;

    if number.is_multiple_of(2) {
        let revoke = RevokeFleetNodeRequest {
            fleet_node_id: node.id.0,
            ..RevokeFleetNodeRequest::default()
        };
        let revoked_at = Instant::now();
        far.admin()?
            .revoke_fleet_node(&revoke, far.operator()?)
            .await?;
        node.ends().await?;
        slowest.revoke = slowest.revoke.max(revoked_at.elapsed());
        ensure!(
            revoked_at.elapsed() < ACTS,
            "revocation took {:?}",
            revoked_at.elapsed()
        );
    } else {
        let lost_at = Instant::now();
        let id = node.leave();
        for replica in [near, far] {
            online(replica, id, false)
                .await
                .with_context(|| format!("node {id} left"))?;
        }
        slowest.offline = slowest.offline.max(lost_at.elapsed());
        ensure!(
            lost_at.elapsed() < SHOWS,
            "the end of a stream showed after {:?}",
            lost_at.elapsed()
        );
    }
    Ok(())
}

fn target() -> DiscoverRequest {
    DiscoverRequest {
        mode: Some(Mode::Nmap(NmapModeRequest {
            target: "10.20.0.0/24".to_owned(),
            ports: vec!["4028".to_owned()],
        })),
        max_rate: 0,
    }
}

async fn report(node: &Node, command: &str) -> Result<()> {
    let device = DiscoveredDeviceReport {
        device_identifier: format!("mac:02:00:5E:00:00:{:02X}", node.id.0 & 0xff),
        ip_address: "10.20.0.7".to_owned(),
        port: "4028".to_owned(),
        driver_name: "antminer".to_owned(),
        ..DiscoveredDeviceReport::default()
    };
    let request = ReportDiscoveredDevicesRequest {
        hosts: Vec::new(),
        devices: vec![device],
        command_id: command.to_owned(),
    };
    let answer = node
        .gateway
        .report_discovered_devices(&request, node.options()?)
        .await?;
    ensure!(answer.accepted_count == 1, "a good device was rejected");
    Ok(())
}

async fn wait_for_cancel(node: &mut Node, command: &str) -> Result<()> {
    let wait = async {
        while let Some(message) = node.message().await? {
            if let Some(Kind::Cancel(cancel)) = message.kind {
                ensure!(cancel.command_id == command, "another command was canceled");
                return Ok(());
            }
        }
        bail!("the stream ended instead of a cancel")
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .context("no cancel within 20 s")?
}

/// Waits until a replica lists the node as connected and online, or as neither.
async fn online(replica: &Live, node: NodeId, wanted: bool) -> Result<()> {
    let started = Instant::now();
    loop {
        let listed = fleet::listed(replica, node.0).await?;
        let listed = listed.context("the node is listed")?;
        if (listed.online, listed.connected) == (wanted, wanted) {
            return Ok(());
        }
        ensure!(
            started.elapsed() < Duration::from_secs(20),
            "after 20 s a replica still lists it as online {}, connected {}",
            listed.online,
            listed.connected
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until both replicas report the wanted scan state, and the same state.
async fn alike(near: &Live, far: &Live, scan: &str, wanted: fn(&Scan) -> bool) -> Result<()> {
    let request = GetScanRequest {
        scan_id: scan.to_owned(),
    };
    let started = Instant::now();
    loop {
        let [mut a, mut b] = [
            near.scans()?.get_scan(&request, near.operator()?).await?,
            far.scans()?.get_scan(&request, far.operator()?).await?,
        ]
        .map(|answer| answer.scan.unwrap_or_default());
        // The two calls are sequential, so their elapsed times differ.
        for scan in [&mut a, &mut b] {
            if let Some(progress) = &mut scan.progress {
                progress.elapsed_ms = 0;
            }
        }
        if wanted(&a) && a == b {
            return Ok(());
        }
        ensure!(
            started.elapsed() < Duration::from_secs(20),
            "after 20 s the replicas report {a:?} and {b:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
