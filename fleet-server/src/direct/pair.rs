//! Pairing devices that the server itself reaches: each proves its identity, is tried with the login, and is bound to
//! the server if it accepts. Devices that have or had a node are never dialed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use fleet_core::{DeviceId, DeviceIdentifier, PairOutcome, PairingStatus, Permission, limits};
use fleet_store::{Actor, AuditEntry, AuditResult, BindError, DevicePairing, DeviceRow};
use fleet_wire::{
    RpcError,
    minercommand::{DeviceFilter, DeviceSelector, device_selector::SelectionType},
    pairing::PairRequest,
};
use futures::future::join_all;

use super::{dialing::Dialing, rules::SiteRules};
use crate::{
    app::App,
    auth::until_revoked,
    call::OperatorCall,
    config::DirectPath,
    convert,
    credentials::PairCredentials,
    dial_permit::DialPermit,
    failure::{Answered, Refusal},
    prober::{PairAnswer, PairOrder},
};

/// Maximum number of devices that are tried at a time.
const AT_ONCE: usize = 32;
/// Maximum number of devices of one call.
const MOST: usize = 1_024;
/// Devices of the inventory that are read at once.
const PAGE: u32 = 1_000;
/// Interval of attempts while another server dials for the same organization.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// Pairs the selected devices; returns the identifiers of those that were not paired. It continues if the caller hangs
/// up, and ends when the caller's credential is revoked.
pub(crate) async fn pair(
    app: &Arc<App>,
    call: &OperatorCall,
    request: PairRequest,
) -> Result<Vec<String>, RpcError> {
    let attempt = call.attempt("direct.pair", "devices of the server's own network");
    let (carried, call) = (app.clone(), call.clone());
    let paired = app.carry_through(async move { pair_selected(&carried, &call, request).await });
    attempt.or_refused(&app.auditor, paired.await).await
}

async fn pair_selected(
    app: &Arc<App>,
    call: &OperatorCall,
    request: PairRequest,
) -> Result<Vec<String>, RpcError> {
    let path = app.direct_path(call).await?.clone();
    let credentials = Arc::new(PairCredentials::take(request.credentials));
    let selected = select(app, call, request.device_selector.unwrap_or_default()).await?;
    let rules = SiteRules::at(app, call.org, app.environment.now()).await?;
    let mut addresses = selected.devices.iter().filter_map(address);
    if let Some(blackout) = addresses.find_map(|ip| rules.blackout(ip)) {
        return Err(
            blackout.refused("pair then, or leave out the devices in the subnets of its nodes")
        );
    }
    let _slot = app.direct_slots.acquire(call.org)?;
    let run = app.environment.scan_id();
    let entry = AuditEntry::done(
        call.org,
        call.actor(),
        "direct.pair",
        format!(
            "{} devices of the server's own network, run {run}",
            selected.devices.len()
        ),
        app.environment.now(),
    );
    // Before the first dial, so no device is dialed without a record.
    app.store.record_audit(entry).await.answered()?;
    let pairing = Pairing {
        dialing: Dialing {
            app: app.clone(),
            networks: path.networks.clone(),
            org: call.org,
            run,
        },
        path,
        actor: call.actor(),
        credentials,
    };
    let mut failed = selected.failed;
    let mut refused = Vec::new();
    let mut paired = Ok(());
    let mut revoked = Box::pin(until_revoked(app.clone(), call, Permission::MinerPair));
    for batch in selected.devices.chunks(AT_ONCE) {
        match pairing.batch(batch, &mut refused, revoked.as_mut()).await {
            Ok(not_paired) => failed.extend(not_paired),
            Err(error) => {
                paired = Err(error);
                break;
            }
        }
    }
    // After a failure too, because the audit trail has to name the addresses that were left out.
    pairing.account(&refused).await;
    paired.map(|()| failed)
}

fn address(row: &DeviceRow) -> Option<IpAddr> {
    row.endpoint.map(|endpoint| endpoint.ip)
}

/// The devices that a request selects.
#[derive(Debug, Default)]
struct Selected {
    /// Devices to try.
    devices: Vec<DeviceRow>,
    /// Identifiers of devices that are unknown or that the server may not pair.
    failed: Vec<String>,
}

async fn select(
    app: &App,
    call: &OperatorCall,
    selector: DeviceSelector,
) -> Result<Selected, RpcError> {
    let selected = match selector.selection_type {
        Some(SelectionType::IncludeDevices(list)) => {
            named(app, call, list.device_identifiers).await?
        }
        Some(SelectionType::AllDevices(filter)) => all(app, call, &filter).await?,
        None => {
            return Err(RpcError::invalid_argument(
                "device_selector selects nothing: give all_devices or include_devices",
            )
            .with_reason("INVALID_FIELD")
            .with_fact("field", "device_selector"));
        }
    };
    if selected.devices.len() > MOST {
        return Err(RpcError::invalid_argument(format!(
            "device_selector selects {} devices that the server can pair: {MOST} at most, so name some, or give models or manufacturers",
            selected.devices.len()
        )).with_reason("TOO_MANY_DEVICES").with_fact("field", "device_selector").with_fact("limit", MOST));
    }
    Ok(selected)
}

async fn named(
    app: &App,
    call: &OperatorCall,
    identifiers: Vec<String>,
) -> Result<Selected, RpcError> {
    let wanted: BTreeSet<String> = identifiers.into_iter().collect();
    let known: BTreeSet<DeviceIdentifier> = wanted
        .iter()
        .filter_map(|identifier| identifier.parse().ok())
        .collect();
    let rows = app.store.devices_named(call.org, known).await;
    let mut selected = Selected::default();
    let mut rows: BTreeMap<String, DeviceRow> = rows
        .answered()?
        .into_iter()
        .map(|row| (row.identifier.to_string(), row))
        .collect();
    for identifier in wanted {
        match rows.remove(&identifier) {
            Some(row) if row.node.is_none() => selected.devices.push(row),
            Some(_) | None => selected.failed.push(identifier),
        }
    }
    Ok(selected)
}

/// The devices that match every given criterion. Without a status in the filter, paired devices do not match.
async fn all(app: &App, call: &OperatorCall, filter: &DeviceFilter) -> Result<Selected, RpcError> {
    let mut selected = Selected::default();
    let mut after = DeviceId(0);
    loop {
        let page = app.store.list_devices(call.org, None, after, PAGE).await;
        let page = page.answered()?;
        let Some(last) = page.last().map(|row| row.id) else {
            return Ok(selected);
        };
        after = last;
        let ids: Vec<DeviceId> = page.iter().map(|row| row.id).collect();
        let pairings = app.store.pairings_of(call.org, &ids).await.answered()?;
        for row in page {
            let pairing = pairings.get(&row.id);
            let status = pairing.map_or(DevicePairing::NONE.status, |pairing| pairing.status);
            if !matches(filter, &row, status) {
                continue;
            }
            if row.node.is_none() {
                selected.devices.push(row);
            } else {
                selected.failed.push(row.identifier.to_string());
            }
        }
        if selected.failed.len() + selected.devices.len() > limits::SCAN_TARGETS {
            return Err(RpcError::invalid_argument(format!(
                "all_devices selects more than {} devices: give models or manufacturers",
                limits::SCAN_TARGETS
            ))
            .with_reason("TOO_MANY_DEVICES")
            .with_fact("field", "device_selector")
            .with_fact("limit", limits::SCAN_TARGETS));
        }
    }
}

fn matches(filter: &DeviceFilter, row: &DeviceRow, status: PairingStatus) -> bool {
    let wanted = |list: &[String], text: &str| {
        list.is_empty() || list.iter().any(|wanted| wanted.eq_ignore_ascii_case(text))
    };
    let status_matches = if filter.pairing_status.is_empty() {
        !status.is_paired()
    } else {
        filter
            .pairing_status()
            .any(|wanted| wanted == convert::pairing_status(status))
    };
    status_matches
        && wanted(&filter.models, &row.facts.model)
        && wanted(&filter.manufacturers, &row.facts.manufacturer)
}

/// Why a device was not paired.
enum NotPaired {
    /// A rule of a site does not allow to dial it.
    Rule(String),
    /// It was not released, did not answer, or refused.
    Device(String),
}

impl From<String> for NotPaired {
    fn from(reason: String) -> Self {
        Self::Device(reason)
    }
}

/// A running pairing.
struct Pairing {
    dialing: Dialing,
    path: DirectPath,
    actor: Actor,
    credentials: Arc<PairCredentials>,
}

impl Pairing {
    /// Tries some devices; returns the identifiers of those that were not paired. Adds the reasons of those that a site
    /// does not allow to `refused`. It ends with the refusal that `revoked` returns, without the logins in
    /// progress.
    async fn batch(
        &self,
        devices: &[DeviceRow],
        refused: &mut Vec<String>,
        revoked: Pin<&mut (impl Future<Output = RpcError> + Send)>,
    ) -> Result<Vec<String>, RpcError> {
        let addresses: Vec<IpAddr> = devices.iter().filter_map(address).collect();
        let wait = |pause| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, RpcError>(())
        };
        let acquired = self.dialing.acquire(&addresses, BUSY_PAUSE, wait).await;
        let (permit, _) = acquired?;
        let Dialing { app, org, .. } = &self.dialing;
        // Read for each batch, because a pairing of many devices takes minutes.
        let rules = match SiteRules::at(app, *org, app.environment.now()).await {
            Ok(rules) => rules,
            Err(error) => {
                self.dialing.end(&permit).await;
                return Err(error);
            }
        };
        // All at once, because the addresses may be dialed for 15 s only (decision 0003).
        let attempts = devices.iter().map(|row| self.attempt(row, &permit, &rules));
        let tried = tokio::select! {
            biased;
            refusal = revoked => Err(refusal),
            tried = join_all(attempts) => Ok(tried),
        };
        let tried = match tried {
            Ok(tried) => tried,
            Err(refusal) => {
                self.dialing.end(&permit).await;
                return Err(refusal);
            }
        };
        let by_rule = tried.iter().filter_map(|tried| match tried {
            Err(NotPaired::Rule(reason)) => Some(reason.clone()),
            Err(NotPaired::Device(_)) | Ok(_) => None,
        });
        refused.extend(by_rule);
        // Before the addresses are returned: from then on a report of a node can attribute them.
        let bound = self.bind(devices, tried).await;
        self.dialing.end(&permit).await;
        bound
    }

    /// Tries one device. The permit refuses addresses that were not released.
    async fn attempt(
        &self,
        row: &DeviceRow,
        permit: &DialPermit,
        rules: &SiteRules,
    ) -> Result<PairingStatus, NotPaired> {
        let endpoint = row
            .endpoint
            .ok_or_else(|| "its address is unknown: scan for it first".to_owned())?;
        let ip = endpoint.ip;
        if let Some(exclude) = rules.exclude(ip) {
            return Err(NotPaired::Rule(format!("{ip} is {}", exclude.skipped())));
        }
        if let Some(blackout) = rules.blackout(ip) {
            let error = blackout.refused("pair then");
            return Err(NotPaired::Rule(format!("{ip}: {}", error.message)));
        }
        permit.check(endpoint)?;
        let order = PairOrder {
            endpoint,
            facts: row.facts.clone(),
            login: self.credentials.login(),
            try_defaults: self.credentials.tries_defaults(),
            permit: permit.clone(),
        };
        let trying = tokio::time::timeout(permit.left(), self.path.prober.pair(order));
        let PairAnswer {
            outcome,
            default_password,
            open,
            error,
        } = trying.await.map_err(|_| "it was too slow".to_owned())?;
        match outcome {
            PairOutcome::Paired if open => Ok(PairingStatus::Open),
            PairOutcome::Paired if default_password == Some(true) => {
                Ok(PairingStatus::DefaultPassword)
            }
            PairOutcome::Paired => Ok(PairingStatus::Paired),
            PairOutcome::AuthNeeded | PairOutcome::AuthFailed | PairOutcome::Error => {
                Err(error.into())
            }
        }
    }

    /// Adds the devices that the rules of sites leave out to the audit trail.
    async fn account(&self, refused: &[String]) {
        let Some(first) = refused.first() else {
            return;
        };
        let reason = match refused.len() {
            1 => first.clone(),
            count => format!("{first}, and {} more", count - 1),
        };
        let Dialing { app, org, run, .. } = &self.dialing;
        let entry = AuditEntry {
            org: Some(*org),
            actor: self.actor.clone(),
            action: "direct.exclude".into(),
            subject: format!("run {run}"),
            result: AuditResult::Refused(reason),
            at: app.environment.now(),
        };
        if let Err(error) = app.store.record_audit(entry).await {
            tracing::error!(%run, %error, "a refusal was not recorded");
        }
    }

    async fn bind(
        &self,
        devices: &[DeviceRow],
        tried: Vec<Result<PairingStatus, NotPaired>>,
    ) -> Result<Vec<String>, RpcError> {
        let app = &self.dialing.app;
        let mut failed = Vec::new();
        for (row, tried) in devices.iter().zip(tried) {
            let reason = match tried {
                Ok(status) => {
                    let now = app.environment.now();
                    let bound = app
                        .store
                        .bind_to_server(self.dialing.org, row.id, status, self.actor.clone(), now)
                        .await;
                    match bound {
                        Ok(_) => continue,
                        Err(BindError::Storage(error)) => return Err(error.refusal()),
                        Err(refused) => refused.to_string(),
                    }
                }
                Err(NotPaired::Rule(reason) | NotPaired::Device(reason)) => reason,
            };
            tracing::info!(run = %self.dialing.run, device = %row.id, reason, "a device was not paired");
            failed.push(row.identifier.to_string());
        }
        Ok(failed)
    }
}
