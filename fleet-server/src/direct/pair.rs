//! Pairing devices that the server itself reaches: each proves who it is, is tried with the login, and what
//! lets in is bound to the server. What has or had a node is never dialed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use fleet_core::{DeviceId, DeviceIdentifier, PairOutcome, PairingStatus, limits};
use fleet_store::{Actor, AuditEntry, DevicePairing, DeviceRow, OperatorIdentity, ReleaseError};
use fleet_wire::{
    RpcError,
    minercommand::{DeviceFilter, DeviceSelector, device_selector::SelectionType},
    pairing::PairRequest,
};
use futures::future::join_all;

use super::{
    DirectPath,
    dialing::Dialing,
    prober::{Leave, PairAnswer, PairOrder},
};
use crate::{app::App, audit::Attempt, convert, failure::Refusal, pair::PairCredentials};

/// Devices that are tried at a time.
const AT_ONCE: usize = 32;
/// Devices of one call: as many as one names.
const MOST: usize = 1_024;
/// Devices of the inventory that are read at once, and that a filter looks at.
const PAGE: u32 = 1_000;
/// Between two attempts while another server dials for the same organization, and how many there are.
const BUSY: (Duration, u32) = (Duration::from_millis(500), 60);

/// Pairs what the request selects; answers the identifiers of those that were not paired. What was begun is
/// carried through though the caller hangs up.
pub(super) async fn pair(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    request: PairRequest,
) -> Result<Vec<String>, RpcError> {
    let attempt = Attempt {
        org: Some(operator.org),
        actor: actor.clone(),
        action: "direct.pair",
        subject: "devices of the server's own network".to_owned(),
    };
    let (carried, operator) = (app.clone(), operator.clone());
    let paired = app
        .carry_through(async move { carry_out(&carried, &operator, actor, request).await })
        .await;
    match paired {
        Ok(failed) => Ok(failed),
        Err(error) => Err(attempt.refused(app, error).await),
    }
}

async fn carry_out(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    request: PairRequest,
) -> Result<Vec<String>, RpcError> {
    let path = app.direct_path()?.clone();
    let credentials = Arc::new(PairCredentials::take(request.credentials));
    let selected = select(app, operator, request.device_selector.unwrap_or_default()).await?;
    let _lane = app.direct.enter(operator.org)?;
    let run = app.environment.scan_id();
    let entry = AuditEntry::done(
        operator.org,
        actor.clone(),
        "direct.pair",
        format!(
            "{} devices of the server's own network, run {run}",
            selected.devices.len()
        ),
        app.environment.now(),
    );
    app.store
        .record_audit(entry)
        .await
        .map_err(Refusal::refusal)?;
    let pairing = Pairing {
        dialing: Dialing {
            app: app.clone(),
            networks: path.networks.clone(),
            org: operator.org,
            run,
        },
        path,
        actor,
        credentials,
    };
    let mut failed = selected.failed;
    for batch in selected.devices.chunks(AT_ONCE) {
        failed.extend(pairing.batch(batch).await?);
    }
    Ok(failed)
}

/// What a request selects.
#[derive(Debug, Default)]
struct Selected {
    /// To be tried.
    devices: Vec<DeviceRow>,
    /// Identifiers of those that are not the server's to pair, or unknown.
    failed: Vec<String>,
}

async fn select(
    app: &App,
    operator: &OperatorIdentity,
    selector: DeviceSelector,
) -> Result<Selected, RpcError> {
    let selected = match selector.selection_type {
        Some(SelectionType::IncludeDevices(list)) => {
            named(app, operator, list.device_identifiers).await?
        }
        Some(SelectionType::AllDevices(filter)) => all(app, operator, &filter).await?,
        None => {
            return Err(RpcError::invalid_argument(
                "device_selector selects nothing: give all_devices or include_devices",
            ));
        }
    };
    if selected.devices.len() > MOST {
        return Err(RpcError::invalid_argument(format!(
            "device_selector selects {} devices that the server can pair: {MOST} at most, so name some, or give models or manufacturers",
            selected.devices.len()
        )));
    }
    Ok(selected)
}

async fn named(
    app: &App,
    operator: &OperatorIdentity,
    identifiers: Vec<String>,
) -> Result<Selected, RpcError> {
    let wanted: BTreeSet<String> = identifiers.into_iter().collect();
    let known: BTreeSet<DeviceIdentifier> = wanted
        .iter()
        .filter_map(|identifier| identifier.parse().ok())
        .collect();
    let rows = app.store.devices_named(operator.org, known).await;
    let mut selected = Selected::default();
    let mut rows: BTreeMap<String, DeviceRow> = rows
        .map_err(Refusal::refusal)?
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

/// Every device that matches all that is given. Without a status those that are paired are left alone.
async fn all(
    app: &App,
    operator: &OperatorIdentity,
    filter: &DeviceFilter,
) -> Result<Selected, RpcError> {
    let mut selected = Selected::default();
    let mut after = DeviceId(0);
    loop {
        let page = app
            .store
            .list_devices(operator.org, None, after, PAGE)
            .await;
        let page = page.map_err(Refusal::refusal)?;
        let Some(last) = page.last().map(|row| row.id) else {
            return Ok(selected);
        };
        after = last;
        let ids: Vec<DeviceId> = page.iter().map(|row| row.id).collect();
        let stands = app.store.pairings_of(operator.org, &ids).await;
        let stands = stands.map_err(Refusal::refusal)?;
        for row in page {
            let status = stands
                .get(&row.id)
                .map_or(DevicePairing::NONE.status, |pairing| pairing.status);
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
            )));
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

/// Pairing that runs.
struct Pairing {
    dialing: Dialing,
    path: DirectPath,
    actor: Actor,
    credentials: Arc<PairCredentials>,
}

impl Pairing {
    /// Tries some devices; answers the identifiers of those that were not paired.
    async fn batch(&self, devices: &[DeviceRow]) -> Result<Vec<String>, RpcError> {
        let addresses: Vec<IpAddr> = devices
            .iter()
            .filter_map(|row| row.endpoint.map(|endpoint| endpoint.ip))
            .collect();
        let leave = self.release(&addresses).await?;
        let tried = join_all(devices.iter().map(|row| self.attempt(row, &leave))).await;
        let bound = self.bind(devices, tried).await;
        self.dialing.end(&leave).await;
        bound
    }

    async fn release(&self, addresses: &[IpAddr]) -> Result<Leave, RpcError> {
        let (pause, attempts) = BUSY;
        for _ in 0..attempts {
            match self.dialing.release(addresses).await {
                Ok((leave, _)) => return Ok(leave),
                Err(ReleaseError::Busy(_)) => tokio::time::sleep(pause).await,
                Err(ReleaseError::Storage(error)) => return Err(error.refusal()),
            }
        }
        Err(RpcError::resource_exhausted(
            "another server dials for your organization still: try again when it is over",
        ))
    }

    /// Tries one device; the leave refuses what was not released.
    async fn attempt(&self, row: &DeviceRow, leave: &Leave) -> Result<PairingStatus, String> {
        let endpoint = row
            .endpoint
            .ok_or("where it is now is not known: scan for it first")?;
        leave.check(endpoint)?;
        let order = PairOrder {
            endpoint,
            facts: row.facts.clone(),
            login: self.credentials.login(),
            leave: leave.clone(),
        };
        let trying = tokio::time::timeout(leave.left(), self.path.prober.pair(order));
        let PairAnswer {
            outcome,
            default_password,
            error,
        } = trying.await.map_err(|_| "it was too slow".to_owned())?;
        match outcome {
            // Unless it is known that the password was changed, it may be the one it was delivered with.
            PairOutcome::Paired if default_password == Some(true) => {
                Ok(PairingStatus::DefaultPassword)
            }
            PairOutcome::Paired => Ok(PairingStatus::Paired),
            PairOutcome::AuthNeeded | PairOutcome::AuthFailed | PairOutcome::Error => Err(error),
        }
    }

    async fn bind(
        &self,
        devices: &[DeviceRow],
        tried: Vec<Result<PairingStatus, String>>,
    ) -> Result<Vec<String>, RpcError> {
        let app = &self.dialing.app;
        let mut failed = Vec::new();
        for (row, tried) in devices.iter().zip(tried) {
            let why = match tried {
                Ok(status) => {
                    let now = app.environment.now();
                    let bound = app
                        .store
                        .bind_to_server(self.dialing.org, row.id, status, self.actor.clone(), now)
                        .await;
                    match bound {
                        Ok(_) => continue,
                        Err(fleet_store::BindError::Storage(error)) => return Err(error.refusal()),
                        Err(refused) => refused.to_string(),
                    }
                }
                Err(why) => why,
            };
            tracing::info!(run = %self.dialing.run, device = %row.id, why, "a device was not paired");
            failed.push(row.identifier.to_string());
        }
        Ok(failed)
    }
}
