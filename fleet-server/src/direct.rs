//! The server's own path: scanning and pairing devices that the server itself reaches, when its
//! administrator has switched that on. Whatever has or had a node is left out.
//!
//! [`start`] admits a scan, `run` carries it out batch by batch; [`Prober`] is what dials.

mod dialing;
mod pair;
mod prober;
mod run;
mod selection;
mod service;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use fleet_core::{OrgId, limits};
use fleet_discovery::{Mode, ScanRequest};
use fleet_store::{Actor, AuditEntry, OperatorIdentity};
use fleet_wire::RpcError;
use futures::Stream;
use ipnetwork::IpNetwork;
pub use prober::{
    Leave, PairAnswer, PairLogin, PairOrder, ProbeEvent, ProbeOrder, ProbeSummary, Prober,
};
use run::{Admitted, Run};
pub(crate) use service::OwnNetwork;
use tokio::sync::mpsc;

use crate::{app::App, audit::Attempt, convert::printable, failure::Refusal, watch::Item};

/// Items that may wait for a watcher; one that takes none for a while is gone.
const WAITING: usize = 256;

/// How the server reaches devices itself.
#[derive(Clone, Debug)]
pub struct DirectPath {
    /// The only networks that it dials; of these, private addresses only.
    pub networks: Vec<IpNetwork>,
    /// What dials.
    pub prober: Arc<dyn Prober>,
}

/// Whose own scans and pairings run: one an organization, few in all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes(Arc<Mutex<BTreeSet<OrgId>>>);

/// A place in the lanes, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lane {
    lanes: Lanes,
    org: OrgId,
}

impl Lanes {
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED when the organization has one, or the server as many as it carries.
    pub(crate) fn enter(&self, org: OrgId) -> Result<Lane, RpcError> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains(&org) {
            return Err(RpcError::resource_exhausted(
                "the server already dials for a scan or pairing of your organization: try again when it is over",
            ));
        }
        if running.len() >= limits::DIRECT_SCANS {
            return Err(RpcError::resource_exhausted(format!(
                "the server already dials for {} organizations: try again shortly",
                running.len()
            )));
        }
        running.insert(org);
        Ok(Lane {
            lanes: self.clone(),
            org,
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut running = self.lanes.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.org);
    }
}

impl App {
    /// The server's own path.
    ///
    /// # Errors
    ///
    /// FAILED_PRECONDITION when it is switched off.
    pub(crate) fn direct_path(&self) -> Result<&DirectPath, RpcError> {
        self.config.direct.as_ref().ok_or_else(|| {
            RpcError::failed_precondition(
                "the server does not dial devices itself: enroll a node in their network and scan through it (fleet.v1 StartScan, DiscoverOnFleetNode), or have the administrator set `enabled` and `networks` under [direct] in fleetd.toml",
            )
        })
    }
}

/// Starts a scan of the server's own network and answers what it brings. It is not stored: when the stream
/// is dropped the scan ends, and what it stored stays.
pub(crate) async fn start(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    request: ScanRequest,
) -> Result<impl Stream<Item = Result<Item, RpcError>> + Send + use<>, RpcError> {
    let attempt = Attempt {
        org: Some(operator.org),
        actor: actor.clone(),
        action: "direct.scan",
        subject: asked(&request),
    };
    match admit(app, operator, actor, &request).await {
        Ok(run) => Ok(run.stream()),
        Err(error) => Err(attempt.refused(app, error).await),
    }
}

async fn admit(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    request: &ScanRequest,
) -> Result<Started, RpcError> {
    let path = app.direct_path()?.clone();
    let selection = selection::select(request, &path, app.config.addresses)?;
    let lane = app.direct.enter(operator.org)?;
    let scan = app.environment.scan_id();
    let entry = AuditEntry::done(
        operator.org,
        actor.clone(),
        "direct.scan",
        format!("{}, run {scan}", asked(request))
            .chars()
            .take(255)
            .collect(),
        app.environment.now(),
    );
    app.store
        .record_audit(entry)
        .await
        .map_err(Refusal::refusal)?;
    tracing::info!(%scan, targets = selection.addresses.len(), "a scan of the server's own network begins");
    let (out, items) = mpsc::channel(WAITING);
    let cancel = app.drain.child_token();
    let admitted = Admitted {
        path,
        org: operator.org,
        actor,
        scan,
        selection,
    };
    let run = Run::new(app.clone(), admitted, out, cancel.clone());
    app.tasks.spawn(async move {
        run.run().await;
        drop(lane);
    });
    Ok(Started { items, cancel })
}

/// A scan that runs.
struct Started {
    items: mpsc::Receiver<Result<Item, RpcError>>,
    cancel: tokio_util::sync::CancellationToken,
}

impl Started {
    fn stream(self) -> impl Stream<Item = Result<Item, RpcError>> + Send + use<> {
        // Dropped with the stream: whoever started the scan has left.
        let guard = self.cancel.drop_guard();
        futures::stream::unfold((self.items, guard), |(mut items, guard)| async move {
            let item = items.recv().await?;
            Some((item, (items, guard)))
        })
    }
}

/// What was asked for, in a few words.
fn asked(request: &ScanRequest) -> String {
    let words = match &request.mode {
        Mode::List(entries) => match entries.as_slice() {
            [] => "an empty list".to_owned(),
            [first] => first.clone(),
            [first, ..] => format!("{first} and {} more", entries.len() - 1),
        },
        Mode::Range { start, end } => format!("{start} to {end}"),
        Mode::Target(target) => target.clone(),
        Mode::Mdns { service_type, .. } => format!("mDNS {service_type}"),
    };
    format!("the server's own network, {}", printable(&words, 120))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_has_one_lane_and_the_server_few() {
        let lanes = Lanes::default();
        let first = lanes.enter(OrgId(1)).expect("free");
        let busy = lanes.enter(OrgId(1)).expect_err("taken");
        assert!(busy.message.contains("your organization"), "{busy:?}");
        let others: Vec<Lane> = (2..=limits::DIRECT_SCANS as i64)
            .map(|org| lanes.enter(OrgId(org)).expect("free"))
            .collect();
        let full = lanes.enter(OrgId(99)).expect_err("full");
        assert!(full.message.contains("organizations"), "{full:?}");
        drop(first);
        assert!(lanes.enter(OrgId(1)).is_ok());
        drop(others);
    }
}
