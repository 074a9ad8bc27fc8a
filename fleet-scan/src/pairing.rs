//! Tries a login at a device.
//!
//! [`Pairer::pair`] first identifies the device again, without a login. It sends password-derived data only if the
//! answer agrees with the facts from the server. The guard checks every connection.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{DeviceFacts, Endpoint, PairOutcome, Port};
use tokio::time::timeout;

use crate::{
    dial::Dialer,
    driver::{Answer, Driver, DriverError, DriverSet},
    fingerprint::{Fingerprints, KnownLogin, LoginRule},
    guard::Guard,
    job::ScanOptions,
    login::{self, Authenticated, DefaultPassword, Login, LoginBudget},
    probe::Probe,
    text,
};

/// The limit of ports that are tried to find a device for an external driver.
const EXTERNAL_PORTS: usize = 8;
/// The time limit for identification and login together, including retries.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device according to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairableDevice {
    /// The endpoint where it was found.
    pub endpoint: Endpoint,
    /// The known facts. The driver must be equal. Maker, MAC and serial must not differ if both sides know them.
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

/// The limit of default credentials that one request tries at a device. Makes have at most two.
const MOST_DEFAULTS: usize = 3;

/// Decides whether a text is another name of a device's make.
type IsMake = dyn Fn(&DeviceFacts, &str) -> bool + Send + Sync;

/// Tries logins at devices. Clones share rate limit and guard.
#[derive(Clone)]
pub struct Pairer {
    options: ScanOptions,
    drivers: Arc<DriverSet>,
    dialer: Arc<Dialer>,
    budget: LoginBudget,
    is_make: Arc<IsMake>,
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
        let report = match timeout(PATIENCE, self.attempt(target, login, defaults)).await {
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

    async fn attempt(
        &self,
        target: &PairableDevice,
        login: Option<&Login>,
        defaults: &mut Vec<Login>,
    ) -> Result<PairReport, DriverError> {
        let owner = self
            .drivers
            .all()
            .find(|driver| driver.owns(&target.facts.driver));
        if let Some(owner) = owner {
            return self.pair_externally(owner, target, login).await;
        }
        let Some((device, rule)) = self.identify(target.endpoint).await? else {
            return Ok(PairReport::failed("no known device answers there any more"));
        };
        let same = is_the_same(&target.facts, &device).and_then(|()| {
            let known = target.facts.manufacturer.trim();
            has_the_same_make(&target.facts, &device)
                .or_else(|why| (self.is_make)(&device, known).then_some(()).ok_or(why))
        });
        if let Err(why) = same {
            return Ok(PairReport::failed(why));
        }
        let rules = self.drivers.all().find_map(|driver| driver.fingerprints());
        if let Some(known) = rules.and_then(|rules| rules.login(rule.as_deref()?)) {
            *defaults = known.default_logins();
        }
        let result = self
            .authenticate(target.endpoint, &device, rule.as_deref(), login)
            .await?;
        if let Authenticated::Accepted { device: shown, .. } = &result {
            // The identity after the login must match the requested device.
            let same = is_the_same_device(&target.facts, shown);
            // Compared with both, because either may lack a MAC or a serial.
            if same.and(is_the_same_device(&device, shown)).is_err() {
                return Ok(PairReport::failed(
                    "another device answers behind the login: its MAC or serial differs; scan again",
                ));
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

    /// Tries the login that the rule defines. Without one, uses the driver's login.
    async fn authenticate(
        &self,
        endpoint: Endpoint,
        device: &DeviceFacts,
        rule: Option<&str>,
        login: Option<&Login>,
    ) -> Result<Authenticated, DriverError> {
        let rules = self.drivers.all().find_map(|driver| driver.fingerprints());
        if let (Some(rules), Some(rule)) = (rules, rule)
            && let Some(known) = rules.login(rule)
        {
            return self.by_rule(endpoint, rules, rule, known, login).await;
        }
        let door = self
            .drivers
            .all()
            .find_map(|driver| Some((driver, driver.login_port(device, endpoint.port)?)));
        let Some((driver, port)) = door else {
            return Ok(Authenticated::Unsupported);
        };
        let mut probe = self.open(Endpoint { port, ..endpoint }).await?;
        driver.authenticate(&mut probe, device, login).await
    }

    async fn by_rule(
        &self,
        endpoint: Endpoint,
        rules: &Fingerprints,
        rule: &str,
        known: &LoginRule,
        login: Option<&Login>,
    ) -> Result<Authenticated, DriverError> {
        let port = match &known.kind {
            // These two methods send nothing.
            KnownLogin::Open | KnownLogin::Unprovable => {
                let mut probe = Probe::unconnected(&self.dialer, endpoint, &self.options);
                return login::by_rule(&mut probe, rules, rule, known, login).await;
            }
            KnownLogin::Digest(_) | KnownLogin::Token(_) => {
                self.web_port(endpoint.port, known.port)
            }
            KnownLogin::Encrypted(_) => self.api_port(endpoint.port),
        };
        let opened = self.open(Endpoint { port, ..endpoint }).await;
        let mut probe = match (opened, &known.kind) {
            // A device with only API 3 has no port of API 2.
            (Err(DriverError::Broken(_) | DriverError::Silence), KnownLogin::Encrypted(_))
                if port != endpoint.port =>
            {
                return Ok(Authenticated::Unprovable);
            }
            (opened, _) => opened?,
        };
        login::by_rule(&mut probe, rules, rule, known, login).await
    }

    /// Whether one of these drivers has a port as its own.
    fn claims(&self, drivers: &[&str], port: Port) -> bool {
        let mut named = self
            .drivers
            .all()
            .filter(|driver| drivers.contains(&driver.name()));
        named.any(|driver| driver.default_ports().contains(&port))
    }

    /// The first own port of a driver.
    fn own_port(&self, name: &str) -> Option<Port> {
        let driver = self.drivers.all().find(|driver| driver.name() == name)?;
        driver.default_ports().first().copied()
    }

    /// The port of the device's web server: the port where the device was identified, unless it is that of an API. The
    /// rule can name another port, which counts unless the device was identified at a port that no driver claims.
    fn web_port(&self, at: Port, of_rule: Option<Port>) -> Port {
        let is_api = self.claims(&["cgminer", "epic", "whatsminer", "https"], at);
        let is_usual = is_api || self.claims(&["http"], at);
        let web = self.own_port("http").filter(|_| is_api);
        of_rule.filter(|_| is_usual).or(web).unwrap_or(at)
    }

    /// The port of the CGMiner API: the port where the device was identified, unless it is that of another driver.
    fn api_port(&self, at: Port) -> Port {
        let is_other = self.claims(&["whatsminer", "http", "https"], at);
        let api = self.own_port("cgminer").filter(|_| is_other);
        api.unwrap_or(at)
    }

    /// Pairs a device through its external driver. The driver identifies the device again, at the known endpoint or at
    /// the driver's own ports, because a built-in driver may have found the device at another port.
    async fn pair_externally(
        &self,
        owner: &Arc<dyn Driver>,
        target: &PairableDevice,
        login: Option<&Login>,
    ) -> Result<PairReport, DriverError> {
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
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            match owner.identify(&mut probe).await {
                Ok(Answer::Named(device)) => {
                    if let Err(why) = is_the_same(&target.facts, &device) {
                        return Ok(PairReport::failed(why));
                    }
                    let result = owner.authenticate(&mut probe, &device, login).await?;
                    return Ok(report(result));
                }
                Ok(Answer::Unidentified { .. } | Answer::Foreign) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or_else(
            || {
                Ok(PairReport::failed(
                    "the plugin does not recognize the device",
                ))
            },
            Err,
        )
    }

    /// Identifies the device at an endpoint without a login. Returns the facts and the name of the rule.
    async fn identify(
        &self,
        endpoint: Endpoint,
    ) -> Result<Option<(DeviceFacts, Option<String>)>, DriverError> {
        let mut probe = self.open(endpoint).await?;
        let mut failed = None;
        for driver in self.drivers.at(endpoint.port) {
            match driver.identify(&mut probe).await {
                Ok(Answer::Named(device)) => {
                    return Ok(Some((*device, probe.rule().map(str::to_owned))));
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
        for driver in self.drivers.external_at(endpoint.port, true) {
            self.dialer
                .acquire(endpoint)
                .await
                .map_err(DriverError::Forbidden)?;
            match driver.identify(&mut probe).await {
                Ok(Answer::Named(device)) => {
                    return Ok(Some((*device, probe.rule().map(str::to_owned))));
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

/// Checks that the device is the one that the server requested: same driver, and same MAC or serial if both sides know
/// it.
fn is_the_same(target: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    if device.driver != target.driver {
        return Err(another("driver", &device.driver, &target.driver));
    }
    is_the_same_device(target, device)
}

/// Checks that MAC and serial are equal if both sides know them.
fn is_the_same_device(known: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    if let (Some(now), Some(known)) = (device.mac, known.mac)
        && now != known
    {
        return Err(another("MAC", &now.to_string(), &known.to_string()));
    }
    if let (Some(now), Some(known)) = (&device.serial, &known.serial)
        && now != known
    {
        return Err(another("serial", now.as_str(), known.as_str()));
    }
    Ok(())
}

/// Checks the make if neither MAC nor serial proves the identity. Not for external drivers, because two drivers may
/// spell one make differently.
fn has_the_same_make(target: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    // `is_the_same` has compared these values.
    let is_proven = device.mac.and(target.mac).is_some()
        || (device.serial.is_some() && target.serial.is_some());
    let (now, known) = (device.manufacturer.trim(), target.manufacturer.trim());
    if is_proven || known.is_empty() || now.eq_ignore_ascii_case(known) {
        return Ok(());
    }
    Err(another("make", now, known))
}

fn another(what: &str, now: &str, known: &str) -> String {
    format!(
        "another device answers there now ({what} {}, not {}): nothing was sent to it; scan again",
        text::field(now),
        text::field(known)
    )
}

#[cfg(test)]
mod tests {
    use fleet_core::Serial;

    use super::*;

    fn target() -> DeviceFacts {
        DeviceFacts {
            driver: "antminer".to_owned(),
            manufacturer: "Bitmain".to_owned(),
            mac: "02:00:5E:00:00:01".parse().ok(),
            serial: Serial::new("A1"),
            ..DeviceFacts::default()
        }
    }

    fn device() -> DeviceFacts {
        DeviceFacts {
            driver: "antminer".to_owned(),
            manufacturer: "bitmain".to_owned(),
            ..DeviceFacts::default()
        }
    }

    #[test]
    fn only_named_devices_are_given_credentials() {
        assert_eq!(is_the_same(&target(), &device()), Ok(()));
        let same = DeviceFacts {
            mac: target().mac,
            serial: target().serial,
            ..device()
        };
        assert_eq!(is_the_same(&target(), &same), Ok(()));
        for (other, named) in [
            (
                DeviceFacts {
                    driver: "asicrs".to_owned(),
                    ..device()
                },
                "asicrs",
            ),
            (
                DeviceFacts {
                    mac: "02:00:5E:00:00:02".parse().ok(),
                    ..device()
                },
                "02:00:5E:00:00:02",
            ),
            (
                DeviceFacts {
                    serial: Serial::new("B2"),
                    ..device()
                },
                "B2",
            ),
        ] {
            let why = is_the_same(&target(), &other).expect_err(named);
            assert!(why.contains(named) && why.contains("scan again"), "{why}");
        }
    }

    #[test]
    fn the_make_counts_only_where_no_mac_or_serial_proves_the_identity() {
        let other = DeviceFacts {
            manufacturer: "MicroBT".to_owned(),
            ..device()
        };
        let why = has_the_same_make(&target(), &other).expect_err("another make");
        assert!(
            why.contains("MicroBT") && why.contains("nothing was sent"),
            "{why}"
        );
        assert_eq!(has_the_same_make(&target(), &device()), Ok(()));
        let proven = DeviceFacts {
            serial: target().serial,
            ..other
        };
        assert_eq!(has_the_same_make(&target(), &proven), Ok(()));
    }
}
