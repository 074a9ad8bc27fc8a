//! Tries a login at a device.
//!
//! [`Pairer::pair`] first identifies the device again, without a login. It sends password-derived data only if the
//! answer agrees with the facts from the server. The guard checks every connection.

mod identity;
mod method;

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{DeviceFacts, Endpoint, Mac, PairOutcome};
use identity::{
    has_the_same_make, is_named_alike, is_proven_behind_login, is_the_same,
    is_the_same_behind_login, is_the_same_device, leave_names_out, withholds_nothing,
};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    dial::Dialer,
    driver::{Answer, Driver, DriverError, DriverSet},
    engine,
    fingerprint::{Protocol, ShownIdentity},
    guard::Guard,
    job::ScanOptions,
    login::{Authenticated, DefaultPassword, Login, LoginBudget},
    probe::Probe,
    text,
};

/// The limit of ports that are tried to find a device for an external driver.
const EXTERNAL_PORTS: usize = 8;
/// The time limit for identification and login together, including retries.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for a device of an external driver, as long as an upstream node waits.
const EXTERNAL_PATIENCE: Duration = Duration::from_secs(60);

/// A device according to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairableDevice {
    /// The endpoint where it was found.
    pub endpoint: Endpoint,
    /// The known facts. The driver must be equal. Maker, MAC and serial must not differ if both sides know them. A known
    /// MAC or serial must not be withheld by a device whose make shows it.
    pub facts: DeviceFacts,
}

/// The result of one attempt. Texts are printable and fit a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairReport {
    /// The outcome.
    pub outcome: PairOutcome,
    /// Whether the factory-default password is active. None if unknown.
    pub default_password: Option<DefaultPassword>,
    /// The identity that the device reports after the login.
    pub facts: DeviceFacts,
    /// Whether the device requires no login. In that case no login was sent, so no password is verified.
    pub open: bool,
    /// The error text, or empty on success.
    pub error: String,
}

impl PairReport {
    fn of(outcome: PairOutcome, error: impl Into<String>) -> Self {
        Self {
            outcome,
            default_password: None,
            facts: DeviceFacts::default(),
            open: false,
            error: error.into(),
        }
    }

    fn failed(error: impl Into<String>) -> Self {
        Self::of(PairOutcome::Error, error)
    }
}

/// The result if the login opens another device. Its password is not stored.
const ANOTHER_BEHIND: &str =
    "another device answers behind the login: its MAC or serial differs; scan again";

/// The limit of default credentials that one request tries at a device. Makes have at most two.
const MOST_DEFAULTS: usize = 3;

/// Decides whether a text is another name of a device's make or driver.
type IsName = dyn Fn(&DeviceFacts, &str) -> bool + Send + Sync;

/// Looks up the hardware address of a host on a link of this machine.
type Neighbors = dyn Fn(IpAddr) -> Option<Mac> + Send + Sync;

/// The result of an external driver.
enum External {
    Ended(PairReport),
    /// It recognizes the device at no port, and got no login. The report states why.
    Unrecognized(PairReport),
}

/// Tries logins at devices. Clones share rate limit and guard.
#[derive(Clone)]
pub struct Pairer {
    options: ScanOptions,
    drivers: Arc<DriverSet>,
    dialer: Arc<Dialer>,
    budget: LoginBudget,
    is_make: Arc<IsName>,
    is_driver: Arc<IsName>,
    neighbors: Arc<Neighbors>,
}

impl fmt::Debug for Pairer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pairer").finish_non_exhaustive()
    }
}

impl Pairer {
    /// Creates a pairer that dials only endpoints that `guard` allows, at the rate of `options`.
    pub fn new(options: ScanOptions, drivers: Arc<DriverSet>, guard: Guard) -> Self {
        let dialer = Arc::new(Dialer::new(&options, guard));
        Self {
            options,
            drivers,
            dialer,
            budget: LoginBudget::default(),
            is_make: Arc::new(|_, _| false),
            is_driver: Arc::new(|_, _| false),
            neighbors: Arc::new(neighbor),
        }
    }

    /// Looks up hardware addresses with this function instead of the kernel's neighbor table. It may block.
    #[must_use]
    pub fn with_neighbors(
        self,
        neighbors: impl Fn(IpAddr) -> Option<Mac> + Send + Sync + 'static,
    ) -> Self {
        Self {
            neighbors: Arc::new(neighbors),
            ..self
        }
    }

    /// Accepts other names of a device's make than those of the rules: `is_make` decides whether a target's make is one.
    #[must_use]
    pub fn with_makes(
        self,
        is_make: impl Fn(&DeviceFacts, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            is_make: Arc::new(is_make),
            ..self
        }
    }

    /// Accepts other names of a device's driver: `is_driver` decides whether a target's driver is one.
    #[must_use]
    pub fn with_drivers(
        self,
        is_driver: impl Fn(&DeviceFacts, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            is_driver: Arc::new(is_driver),
            ..self
        }
    }

    /// Shares the budget of wrong passwords with other pairers. Without this, the pairer has its own.
    #[must_use]
    pub fn with_budget(self, budget: LoginBudget) -> Self {
        Self { budget, ..self }
    }

    /// Tries a login at one device, and if it is refused or absent and `try_defaults` is set, the default credentials of
    /// the device's make, each once. Returns the credentials that the device accepted, if there are any. Cancel-safe
    /// like [`pair`](Self::pair).
    pub async fn pair_or_default(
        &self,
        target: &PairableDevice,
        login: Option<&Login>,
        try_defaults: bool,
    ) -> (PairReport, Option<Login>) {
        let mut defaults = Vec::new();
        let first = self.pair_once(target, login, &mut defaults).await;
        let worked = |report: &PairReport, login: &Login| {
            (report.outcome == PairOutcome::Paired && !report.open).then(|| login.clone())
        };
        let wants = matches!(
            first.outcome,
            PairOutcome::AuthFailed | PairOutcome::AuthNeeded
        );
        if !try_defaults || !wants {
            let login = login.and_then(|login| worked(&first, login));
            return (first, login);
        }
        defaults.retain(|default| login.is_none_or(|given| !given.is_same(default)));
        defaults.truncate(MOST_DEFAULTS);
        if defaults.is_empty() {
            let why = format!("{}; no further default password is known", first.error);
            return (PairReport::of(first.outcome, why), None);
        }
        let mut refused = 0;
        for default in &defaults {
            let report = self.pair_once(target, Some(default), &mut Vec::new()).await;
            match report.outcome {
                PairOutcome::AuthFailed => refused += 1,
                PairOutcome::Paired => {
                    let login = worked(&report, default);
                    return (report, login);
                }
                // Any further attempt would end like this one.
                PairOutcome::AuthNeeded | PairOutcome::Error => {
                    let why = format!(
                        "{}; default passwords: {refused} refused, then: {}",
                        first.error, report.error
                    );
                    return (PairReport::of(first.outcome, why), None);
                }
            }
        }
        let why = format!("the device refused {refused} default passwords");
        let why = match login {
            Some(_) => format!("{}; {why}", first.error),
            None => why,
        };
        (PairReport::of(PairOutcome::AuthFailed, why), None)
    }

    /// Tries a login at one device. Without a login, checks whether the device requires one. Cancel-safe: dropping the
    /// future closes connections and sends nothing more.
    pub async fn pair(&self, target: &PairableDevice, login: Option<&Login>) -> PairReport {
        self.pair_once(target, login, &mut Vec::new()).await
    }

    /// Tries a login at one device, and returns the default credentials of its make in `defaults`.
    async fn pair_once(
        &self,
        target: &PairableDevice,
        login: Option<&Login>,
        defaults: &mut Vec<Login>,
    ) -> PairReport {
        let device = target.endpoint.ip;
        if login.is_some()
            && let Err(why) = self.budget.take(device, Instant::now())
        {
            return PairReport::failed(why);
        }
        let patience = match self.owner(target) {
            Some(_) => EXTERNAL_PATIENCE,
            None => PATIENCE,
        };
        let report = match timeout(patience, self.attempt(target, login, defaults)).await {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => PairReport::failed(error.to_string()),
            // The device may have received the password and refuse it later.
            Err(_) => return PairReport::failed("the device was too slow"),
        };
        if login.is_some() && report.outcome != PairOutcome::AuthFailed {
            self.budget.give_back(device);
        }
        report
    }

    /// The external driver that pairs a device.
    fn owner(&self, target: &PairableDevice) -> Option<&Arc<dyn Driver>> {
        let driver = &target.facts.driver;
        self.drivers.all().find(|one| one.owns(driver))
    }

    async fn attempt(
        &self,
        target: &PairableDevice,
        login: Option<&Login>,
        defaults: &mut Vec<Login>,
    ) -> Result<PairReport, DriverError> {
        if let Some(owner) = self.owner(target) {
            return match self.pair_externally(owner, target, login).await? {
                External::Ended(report) => Ok(report),
                External::Unrecognized(why) => {
                    self.pair_instead(why, target, login, defaults).await
                }
            };
        }
        let found = self.identify(target.endpoint, false).await?;
        self.pair_found(found, target, login, defaults).await
    }

    /// Pairs a device that its external driver does not recognize, if a built-in driver recognizes it: that one may have
    /// found it, at a port that the external driver does not take.
    async fn pair_instead(
        &self,
        why: PairReport,
        target: &PairableDevice,
        login: Option<&Login>,
        defaults: &mut Vec<Login>,
    ) -> Result<PairReport, DriverError> {
        match self.identify(target.endpoint, true).await {
            Ok(Some(found)) => self.pair_found(Some(found), target, login, defaults).await,
            Ok(None) | Err(_) => Ok(why),
        }
    }

    /// Pairs a device through the built-in driver that identified it.
    async fn pair_found(
        &self,
        found: Option<(DeviceFacts, Option<(String, Protocol)>)>,
        target: &PairableDevice,
        login: Option<&Login>,
        defaults: &mut Vec<Login>,
    ) -> Result<PairReport, DriverError> {
        let Some((device, rule)) = found else {
            return Ok(PairReport::failed("no known device answers there any more"));
        };
        let same = if (self.is_driver)(&device, &target.facts.driver) {
            is_the_same_device(&target.facts, &device)
        } else {
            is_the_same(&target.facts, &device)
        };
        let same = same.and_then(|()| {
            let known = target.facts.manufacturer.trim();
            has_the_same_make(&target.facts, &device)
                .or_else(|why| (self.is_make)(&device, known).then_some(()).ok_or(why))
        });
        if let Err(why) = same {
            return Ok(PairReport::failed(why));
        }
        let rules = self.drivers.all().find_map(|driver| driver.fingerprints());
        let rule = rule
            .as_ref()
            .map(|(name, protocol)| (name.as_str(), *protocol));
        if let Some(known) = rules.and_then(|rules| rules.login(rule?.0)) {
            *defaults = known.default_logins();
        }
        let shows = |protocol| {
            rules
                .zip(rule)
                .map(|(rules, (name, _))| rules.shows(name, protocol))
        };
        let shown = rule
            .and_then(|(_, protocol)| shows(protocol))
            .unwrap_or_default();
        let neighbor = self.neighbor_of(target, &device).await;
        if login.is_some()
            && let Err(why) = withholds_nothing(&target.facts, &device, neighbor, shown)
        {
            return Ok(PairReport::failed(format!("{why}: no password was sent")));
        }
        // The login can be at another port, where another device may answer behind the same address.
        let is_expected = |there: &DeviceFacts, protocol: Protocol| {
            is_the_same_device(&target.facts, there)?;
            is_the_same_device(&device, there)?;
            if login.is_none() {
                return Ok(());
            }
            let shown = shows(protocol).unwrap_or_default();
            withholds_nothing(&target.facts, there, neighbor, shown)
        };
        let name = rule.map(|(name, _)| name);
        let result = self
            .authenticate(target.endpoint, &device, name, login, &is_expected)
            .await?;
        if let Authenticated::Accepted { device: behind, .. } = &result {
            // The identity after the login must match the requested device.
            if !is_the_same_behind_login(&target.facts, &device, behind) {
                return Ok(PairReport::failed(ANOTHER_BEHIND));
            }
            let proven = is_proven_behind_login(&target.facts, &device, neighbor, behind, shown);
            if let Err(why) = proven {
                return Ok(PairReport::failed(why));
            }
        }
        if result == Authenticated::Open {
            return Ok(PairReport {
                open: true,
                facts: text::fit(device),
                ..PairReport::of(PairOutcome::Paired, "")
            });
        }
        Ok(report(result))
    }

    /// The hardware address of a target whose known MAC the device does not show itself. None where it is not on a link
    /// of this machine.
    async fn neighbor_of(&self, target: &PairableDevice, device: &DeviceFacts) -> Option<Mac> {
        if target.facts.mac.is_none() || device.mac.is_some() {
            return None;
        }
        let (neighbors, ip) = (Arc::clone(&self.neighbors), target.endpoint.ip);
        // The kernel may take half a second to answer.
        spawn_blocking(move || neighbors(ip)).await.ok().flatten()
    }

    /// Pairs a device through its external driver. The driver identifies the device again, at the known endpoint or at
    /// the driver's own ports, because a built-in driver may have found the device at another port. It gets no
    /// login before that.
    async fn pair_externally(
        &self,
        owner: &Arc<dyn Driver>,
        target: &PairableDevice,
        login: Option<&Login>,
    ) -> Result<External, DriverError> {
        let mut ports = vec![target.endpoint.port];
        ports.extend(owner.default_ports());
        let mut tried = Vec::new();
        let mut failure = None;
        for port in ports.into_iter().take(EXTERNAL_PORTS) {
            if tried.contains(&port) {
                continue;
            }
            tried.push(port);
            let endpoint = Endpoint {
                ip: target.endpoint.ip,
                port,
            };
            let mut probe = match self.open(endpoint).await {
                Ok(probe) => probe,
                Err(error @ DriverError::Forbidden(_)) => {
                    failure.get_or_insert(error);
                    continue;
                }
                // Such a driver knows devices that no connection reaches.
                Err(_) if owner.asks_silent() => {
                    Probe::unconnected(&self.dialer, endpoint, &self.options)
                }
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            match owner.identify(&mut probe).await {
                Ok(Answer::Named(device)) => {
                    let same = is_the_same(&target.facts, &device);
                    // A driver without rules may show nothing before a login. Its link still does.
                    let neighbor = self.neighbor_of(target, &device).await;
                    let shown = ShownIdentity::default();
                    let checked = same
                        .and_then(|()| withholds_nothing(&target.facts, &device, neighbor, shown));
                    if let Err(why) = checked {
                        return Ok(External::Ended(PairReport::failed(why)));
                    }
                    let result = owner.authenticate(&mut probe, &device, login).await?;
                    if let Authenticated::Accepted { device: behind, .. } = &result
                        && !is_the_same_behind_login(&target.facts, &device, behind)
                    {
                        return Ok(External::Ended(PairReport::failed(ANOTHER_BEHIND)));
                    }
                    let mut report = report(result);
                    if !is_named_alike(&target.facts, &device) {
                        leave_names_out(&mut report.facts);
                    }
                    return Ok(External::Ended(report));
                }
                Ok(Answer::Unidentified { .. } | Answer::Foreign) => {}
                Err(error) => failure = Some(error),
            }
        }
        let why = failure.map_or_else(
            || "the plugin does not recognize the device".to_owned(),
            |error| error.to_string(),
        );
        Ok(External::Unrecognized(PairReport::failed(why)))
    }

    /// Identifies the device at an endpoint without a login, by the built-in drivers and then, unless `built_in_only`, by
    /// the external ones. Returns the facts and the name of the rule.
    async fn identify(
        &self,
        endpoint: Endpoint,
        built_in_only: bool,
    ) -> Result<Option<(DeviceFacts, Option<(String, Protocol)>)>, DriverError> {
        let mut probe = self.open(endpoint).await?;
        let mut failed = None;
        for driver in self.drivers.at(endpoint.port) {
            match driver.identify(&mut probe).await {
                Ok(Answer::Named(device)) => {
                    return Ok(Some((*device, probe.identification())));
                }
                Ok(Answer::Unidentified { .. }) => {
                    // The device speaks this protocol, so the failure of an earlier driver explains
                    // nothing.
                    failed = None;
                    probe.close();
                    break;
                }
                Ok(Answer::Foreign) => {}
                Err(error) => failed = Some(error),
            }
            probe.start_over();
        }
        // The server explicitly requested this endpoint, so every external driver may run.
        let external = self.drivers.external_at(endpoint.port, true);
        for driver in external.into_iter().filter(|_| !built_in_only) {
            self.dialer
                .acquire(endpoint)
                .await
                .map_err(DriverError::Forbidden)?;
            match driver.identify(&mut probe).await {
                Ok(Answer::Named(device)) => {
                    return Ok(Some((*device, probe.identification())));
                }
                Ok(Answer::Unidentified { .. } | Answer::Foreign) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    async fn open(&self, endpoint: Endpoint) -> Result<Probe<'_>, DriverError> {
        let stream = self.dialer.open(endpoint).await?;
        Ok(Probe::new(&self.dialer, endpoint, stream, &self.options))
    }
}

/// The kernel's neighbor table. A connection to the device was opened just before, so it has an entry for it.
fn neighbor(ip: IpAddr) -> Option<Mac> {
    engine::neighbor(ip).unwrap_or_else(|error| {
        tracing::debug!(%error, "the neighbor table cannot be read");
        None
    })
}

/// Converts the result of a login into a report.
fn report(result: Authenticated) -> PairReport {
    match result {
        Authenticated::Accepted {
            device,
            default_password,
        } => PairReport {
            default_password,
            facts: text::fit(*device),
            ..PairReport::of(PairOutcome::Paired, "")
        },
        Authenticated::Wanted => {
            PairReport::of(PairOutcome::AuthNeeded, "the device wants a password")
        }
        Authenticated::Refused => {
            PairReport::of(PairOutcome::AuthFailed, "the device refused the password")
        }
        Authenticated::Open => PairReport {
            open: true,
            ..PairReport::of(PairOutcome::Paired, "")
        },
        Authenticated::Unprovable => PairReport::failed(
            "no read-only request proves a password at this device; no password is stored",
        ),
        Authenticated::Unsupported => {
            PairReport::failed("this node has no way to log in to such devices")
        }
    }
}
