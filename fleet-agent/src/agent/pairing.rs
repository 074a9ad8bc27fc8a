//! Runs a pairing command: each target is tried once, and each result is reported at once. Start with [`run`].

use std::sync::Arc;

use fleet_core::{
    DeviceFacts, DeviceIdentifier, Endpoint, PairOutcome, canonical, limits, parse_literal,
};
use fleet_scan::{
    DriverSet, Guard, Login, LoginBudget, PairReport, PairableDevice, Pairer, ScanOptions,
};
use fleet_wire::{
    gateway::{self, EncryptedCredentials, FleetNodePairResult},
    pairing::{FleetNodePairRequest, FleetNodePairTarget},
};
use futures::{StreamExt, stream};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::upstream::Naming;
use crate::{
    seal::{CredentialPart, seal},
    site::SitePolicy,
};

/// Devices that are paired concurrently; as many as an upstream node pairs.
const AT_ONCE: usize = 32;
/// Longest error message of a result, in characters.
const ERROR: usize = 512;

/// A parsed pairing command.
#[derive(Debug)]
pub(super) struct PairJob {
    targets: Vec<(String, Result<PairableDevice, String>)>,
    login: Option<Login>,
    /// Whether the default credentials of each make are tried too.
    try_defaults: bool,
    guard: Guard,
    budget: LoginBudget,
    naming: Naming,
}

/// The result of a pairing command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PairSummary {
    pub(super) targets: u64,
    /// Targets with a result.
    pub(super) tried: u64,
    /// Whether it was canceled.
    pub(super) canceled: bool,
}

impl PairJob {
    /// Parses a request. A target that the node cannot dial gets an error result and does not affect the others.
    pub(super) fn new(request: FleetNodePairRequest, policy: &Arc<SitePolicy>) -> Self {
        let credentials = request.credentials;
        let try_defaults = credentials.as_ref().is_some_and(|given| given.try_defaults);
        let login = credentials
            .map(|login| Login::new(login.username, login.password.unwrap_or_default()))
            .filter(|login| !login.password().is_empty());
        let parse = |target: FleetNodePairTarget| {
            let read = read(&target).and_then(|read| {
                policy.check(read.endpoint).map_err(|why| why.to_string())?;
                Ok(read)
            });
            (target.device_identifier, read)
        };
        let site = Arc::clone(policy);
        Self {
            targets: request.targets.into_iter().map(parse).collect(),
            login,
            try_defaults,
            budget: LoginBudget::default(),
            naming: Naming::Own,
            // The login of a device can be at another port than
            // its target, so each dial is checked as well.
            guard: Guard::new(move |endpoint: Endpoint| {
                site.check(endpoint).map_err(|why| why.to_string())
            }),
        }
    }

    /// Counts wrong passwords together with those of earlier commands, and names devices as the server does. An upstream
    /// server has no field for default passwords: a request without a password asks for them.
    pub(super) fn with(self, budget: LoginBudget, naming: Naming) -> Self {
        let asks_for_defaults = naming == Naming::Upstream && self.login.is_none();
        Self {
            budget,
            naming,
            try_defaults: self.try_defaults || asks_for_defaults,
            ..self
        }
    }

    /// Tries no default passwords unless the administrator of the node allows it.
    pub(super) fn allowing_defaults(self, are_allowed: bool) -> Self {
        Self {
            try_defaults: self.try_defaults && are_allowed,
            ..self
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
    let mut facts = DeviceFacts {
        driver: target.driver_name.clone(),
        manufacturer: target.manufacturer.clone(),
        ..DeviceFacts::default()
    };
    match target.device_identifier.parse() {
        Ok(DeviceIdentifier::Mac(known)) => facts.mac = Some(known),
        Ok(DeviceIdentifier::Serial(known)) => facts.serial = Some(known),
        Ok(DeviceIdentifier::Auto(_)) | Err(_) => {}
    }
    Ok(PairableDevice {
        endpoint: Endpoint {
            ip: canonical(ip),
            port,
        },
        facts,
    })
}

/// Tries every target until all have a result, the time limit is reached, or `cancel` fires. Working credentials are
/// sealed to `key`.
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
    let naming = job.naming;
    let pairer = Pairer::new(options, drivers, job.guard)
        .with_budget(job.budget)
        .with_makes(move |device, theirs| naming.is_make(device, theirs))
        .with_drivers(move |device, theirs| naming.driver(device) == theirs);
    let login = job.login.as_ref();
    let try_defaults = job.try_defaults;
    let attempts = job.targets.into_iter().map(|(identifier, target)| {
        let pairer = &pairer;
        async move {
            match target {
                Ok(target) => {
                    let (report, worked) =
                        pairer.pair_or_default(&target, login, try_defaults).await;
                    let default =
                        naming.default_password(&target.facts.driver, report.default_password);
                    let mut facts = report.facts.clone();
                    // The answer behind a login does not repeat the driver.
                    facts.driver.clone_from(&target.facts.driver);
                    let report = PairReport {
                        facts: naming.facts(facts),
                        ..report
                    };
                    // Upstream has no name for a device without a login.
                    let open = report.open && naming == Naming::Own;
                    FleetNodePairResult {
                        default_password_active: default,
                        open,
                        ..result(identifier, report, worked.as_ref(), &key)
                    }
                }
                Err(why) => failed(identifier, why),
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
        // Finished, or out of time. Finished results were already sent.
        _ = timeout(limits::COMMAND_BUDGET, all) => false,
    };
    PairSummary {
        targets,
        tried,
        canceled,
    }
}

fn failed(identifier: String, why: String) -> FleetNodePairResult {
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
    worked: Option<&Login>,
    key: &[u8; 32],
) -> FleetNodePairResult {
    let outcome = match report.outcome {
        PairOutcome::Paired => gateway::PairOutcome::Paired,
        PairOutcome::AuthNeeded => gateway::PairOutcome::AuthNeeded,
        PairOutcome::AuthFailed => gateway::PairOutcome::AuthFailed,
        PairOutcome::Error => gateway::PairOutcome::Error,
    };
    let sealed = worked.and_then(|login| {
        let username = seal(key, CredentialPart::Username, login.username());
        let password = seal(key, CredentialPart::Password, login.password());
        match (username, password) {
            (Ok(username), Ok(password)) => Some(EncryptedCredentials {
                username: username.into(),
                password: password.into(),
            }),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "working credentials could not be sealed and are not stored");
                None
            }
        }
    });
    let device = report.facts;
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
        default_password_active: None,
        encrypted_credentials: sealed,
        open: false,
    }
}
