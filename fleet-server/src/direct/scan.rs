//! Admission of a scan of the server's own network.

use std::sync::Arc;

use fleet_core::Permission;
use fleet_discovery::{Mode, ScanRequest};
use fleet_store::{AuditEntry, DirectRun};
use fleet_wire::RpcError;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    rules::SiteRules,
    run::{Admitted, Run},
    selection::{self, Selection},
};
use crate::{
    app::App, auth::until_revoked, call::OperatorCall, config::DirectPath, convert::printable,
    failure::Answered, watch::Item,
};

/// Items that may wait for a watcher. A watcher that reads none for a while ends its scan.
const WAITING: usize = 256;

/// Starts a scan of the server's own network and streams its items. The scan is not stored: dropping the stream ends
/// it, and the devices that it stored stay.
pub(crate) async fn scan(
    app: &Arc<App>,
    call: &OperatorCall,
    request: ScanRequest,
) -> Result<impl Stream<Item = Result<Item, RpcError>> + Send + use<>, RpcError> {
    let attempt = call.attempt("direct.scan", describe(&request));
    let (carried, call) = (app.clone(), call.clone());
    // A caller that hangs up must not leave the record of a scan that nobody runs.
    let admitted = app.carry_through(async move { admit(&carried, &call, &request).await });
    let (items, cancel) = attempt.or_refused(&app.auditor, admitted.await).await?;
    // The guard is dropped with the stream, which cancels the scan.
    let guard = cancel.drop_guard();
    Ok(futures::stream::unfold(
        (items, guard),
        |(mut items, guard)| async move {
            let item = items.recv().await?;
            Some((item, (items, guard)))
        },
    ))
}

type Items = mpsc::Receiver<Result<Item, RpcError>>;

async fn admit(
    app: &Arc<App>,
    call: &OperatorCall,
    request: &ScanRequest,
) -> Result<(Items, CancellationToken), RpcError> {
    let path = app.direct_path(call).await?.clone();
    let selection = at_sites(app, call, request, &path).await?;
    let slot = app.direct_slots.acquire(call.org)?;
    let scan = app.environment.scan_id();
    let subject = format!("{}, run {scan}", describe(request));
    let entry = AuditEntry::done(
        call.org,
        call.actor(),
        "direct.scan",
        subject.chars().take(255).collect(),
        app.environment.now(),
    );
    app.store.record_audit(entry).await.answered()?;
    let begun = DirectRun {
        org: call.org,
        scan,
        replica: app.replica,
        started: app.environment.now(),
    };
    app.store.begin_direct(begun).await.answered()?;
    tracing::info!(%scan, targets = selection.addresses.len(), "a scan of the server's own network begins");
    let (out, items) = mpsc::channel(WAITING);
    let cancel = app.drain.child_token();
    let admitted = Admitted {
        path,
        org: call.org,
        actor: call.actor(),
        scan,
        began: begun.started,
        selection,
    };
    let run = Run::new(app.clone(), admitted, out.clone(), cancel.clone());
    let revoked = until_revoked(app.clone(), call, Permission::NodeManage);
    let stop = cancel.clone();
    app.tasks.spawn(async move {
        // Apart from the watcher's stream, which is polled only while the watcher reads.
        let guard = async {
            let _ = out.try_send(Err(revoked.await));
            stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = run.run() => {}
            () = guard => {}
        }
        // Held until the run has returned its addresses, and not only until its watcher leaves.
        drop(slot);
    });
    Ok((items, cancel))
}

/// Plans a request under the rules of all sites. A target that some site excludes is skipped, and an address in the subnets
/// of a site waits for the end of its blackout.
async fn at_sites(
    app: &App,
    call: &OperatorCall,
    request: &ScanRequest,
    path: &DirectPath,
) -> Result<Selection, RpcError> {
    let rules = SiteRules::at(app, call.org, call.now).await?;
    let selection = selection::select(request, path, app.config.addresses, &rules.exclusions)?;
    let mut addresses = selection.addresses.iter();
    if let Some(blackout) = addresses.find_map(|ip| rules.blackout(*ip)) {
        return Err(blackout.refused("start the scan then, or leave out the subnets of its nodes"));
    }
    Ok(selection)
}

/// The request in a few words, for the audit trail.
fn describe(request: &ScanRequest) -> String {
    let targets = match &request.mode {
        Mode::List(entries) => match entries.as_slice() {
            [] => "an empty list".to_owned(),
            [first] => first.clone(),
            [first, ..] => format!("{first} and {} more", entries.len() - 1),
        },
        Mode::Range { start, end } => format!("{start} to {end}"),
        Mode::Target(target) => target.clone(),
        Mode::Mdns { service_type, .. } => format!("mDNS {service_type}"),
    };
    format!("the server's own network, {}", printable(&targets, 120))
}
