//! Pairing as a command: each target tried once, each result told as it comes. Start with [`run`].

use std::sync::Arc;

use fleet_core::{DeviceIdentifier, Endpoint, Mac, PairOutcome, canonical, limits, parse_literal};
use fleet_scan::{DriverSet, Guard, Login, PairReport, PairableDevice, Pairer, ScanOptions};
use fleet_wire::{
    gateway::{self, EncryptedCredentials, FleetNodePairResult},
    pairing::{FleetNodePairRequest, FleetNodePairTarget},
};
use futures::{StreamExt, stream};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    seal::{Half, seal},
    site::SitePolicy,
};

/// Devices that are tried at a time: as many as an upstream node does.
const AT_ONCE: usize = 32;
/// Characters of a result's error on the wire that are used.
const ERROR: usize = 512;

/// A pairing that the node may begin.
#[derive(Debug)]
pub(super) struct PairJob {
    targets: Vec<(String, Result<PairableDevice, String>)>,
    login: Option<Login>,
    guard: Guard,
}

/// How far a pairing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PairSummary {
    pub(super) targets: u64,
    /// Those with a result.
    pub(super) tried: u64,
    /// It was told to stop.
    pub(super) canceled: bool,
}

impl PairJob {
    /// Takes a request apart. A target that cannot be dialed here costs its own result only.
    pub(super) fn new(request: FleetNodePairRequest, policy: &Arc<SitePolicy>) -> Self {
        let login = request
            .credentials
            .map(|said| Login::new(said.username, said.password.unwrap_or_default()))
            .filter(|login| !login.password().is_empty());
        let judge = |target: FleetNodePairTarget| {
            let read = read(&target).and_then(|read| {
                policy.check(read.endpoint).map_err(|why| why.to_string())?;
                Ok(read)
            });
            (target.device_identifier, read)
        };
        let site = Arc::clone(policy);
        Self {
            targets: request.targets.into_iter().map(judge).collect(),
            login,
            guard: Guard::new(move |endpoint: Endpoint| {
                site.check(endpoint).map_err(|why| why.to_string())
            }),
        }
    }

    pub(super) fn targets(&self) -> usize {
        self.targets.len()
    }
}

fn read(target: &FleetNodePairTarget) -> Result<PairableDevice, String> {
    let shown = |text: &str| {
        text.chars()
            .take(64)
            .flat_map(char::escape_debug)
            .collect::<String>()
    };
    let ip = parse_literal(&target.ip_address)
        .ok_or_else(|| format!("`{}` is not an address", shown(&target.ip_address)))?;
    let port = target
        .port
        .parse()
        .map_err(|_| format!("`{}` is not a port", shown(&target.port)))?;
    let (mut mac, mut serial) = (None::<Mac>, None);
    match target.device_identifier.parse() {
        Ok(DeviceIdentifier::Mac(known)) => mac = Some(known),
        Ok(DeviceIdentifier::Serial(known)) => serial = Some(known),
        Ok(DeviceIdentifier::Auto(_)) | Err(_) => {}
    }
    Ok(PairableDevice {
        endpoint: Endpoint {
            ip: canonical(ip),
            port,
        },
        driver: target.driver_name.clone(),
        manufacturer: target.manufacturer.clone(),
        mac,
        serial,
    })
}

/// Tries every target, until all have a result, the node's budget is spent, or it is told to stop. Credentials that
/// worked are sealed to `key`.
pub(super) async fn run(
    job: PairJob,
    options: ScanOptions,
    drivers: Arc<DriverSet>,
    key: [u8; 32],
    results: mpsc::Sender<FleetNodePairResult>,
    cancel: CancellationToken,
) -> PairSummary {
    let targets = job.targets.len() as u64;
    let mut tried = 0;
    let pairer = Pairer::new(options, drivers, job.guard);
    let login = job.login.as_ref();
    let attempts = job.targets.into_iter().map(|(identifier, target)| {
        let pairer = &pairer;
        async move {
            match target {
                Ok(target) => result(identifier, pairer.pair(&target, login).await, login, &key),
                Err(why) => refused(identifier, why),
            }
        }
    });
    let mut attempts = stream::iter(attempts).buffer_unordered(AT_ONCE);
    let all = async {
        while let Some(result) = attempts.next().await {
            if results.send(result).await.is_err() {
                break;
            }
            tried += 1;
        }
    };
    let canceled = tokio::select! {
        biased;
        () = cancel.cancelled() => true,
        // Over, or the budget is spent: what was tried was told.
        _ = timeout(limits::COMMAND_BUDGET, all) => false,
    };
    PairSummary {
        targets,
        tried,
        canceled,
    }
}

fn refused(identifier: String, why: String) -> FleetNodePairResult {
    FleetNodePairResult {
        device_identifier: identifier,
        outcome: gateway::PairOutcome::Error.into(),
        error_message: why.chars().take(ERROR).collect(),
        ..FleetNodePairResult::default()
    }
}

fn result(
    identifier: String,
    report: PairReport,
    login: Option<&Login>,
    key: &[u8; 32],
) -> FleetNodePairResult {
    let outcome = match report.outcome {
        PairOutcome::Paired => gateway::PairOutcome::Paired,
        PairOutcome::AuthNeeded => gateway::PairOutcome::AuthNeeded,
        PairOutcome::AuthFailed => gateway::PairOutcome::AuthFailed,
        PairOutcome::Error => gateway::PairOutcome::Error,
    };
    let worked = login.filter(|_| report.outcome == PairOutcome::Paired);
    let sealed = worked.and_then(|login| {
        let username = seal(key, Half::Username, login.username());
        let password = seal(key, Half::Password, login.password());
        match (username, password) {
            (Ok(username), Ok(password)) => Some(EncryptedCredentials {
                username: username.into(),
                password: password.into(),
            }),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "credentials that worked are not kept");
                None
            }
        }
    });
    let device = report.device;
    FleetNodePairResult {
        device_identifier: identifier,
        outcome: outcome.into(),
        serial_number: device
            .serial
            .map(|serial| serial.as_str().to_owned())
            .unwrap_or_default(),
        mac_address: device.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        model: device.model,
        manufacturer: device.manufacturer,
        firmware_version: device.firmware,
        error_message: report.error.chars().take(ERROR).collect(),
        default_password_active: report.default_password,
        encrypted_credentials: sealed,
    }
}
