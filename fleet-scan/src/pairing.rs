//! Tries a login at a device.
//!
//! [`Pairer::pair`] identifies the device again, without a login. It sends nothing that a password can be guessed from
//! unless the answer agrees with the facts that the server sent. Every connection passes the guard.

use std::{sync::Arc, time::Duration};

use fleet_core::{DeviceFacts, Endpoint, PairOutcome, Port};
use tokio::time::timeout;

use crate::{
    dial::Dialer,
    driver::{Answer, Driver, DriverError, DriverSet},
    fingerprint::KnownLogin,
    guard::Guard,
    job::ScanOptions,
    login::{self, Authenticated, Login},
    probe::Probe,
    text,
};

/// Ports at which an external driver looks for a device that it pairs.
const EXTERNAL_PORTS: usize = 8;
/// What a device may take for its proof and its login, retries included.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairableDevice {
    /// Where it was found.
    pub endpoint: Endpoint,
    /// What is known of it. The driver must be the same; maker, MAC and serial must not differ where
    /// both sides know them.
    pub facts: DeviceFacts,
}

/// What came of one attempt. Texts are printable and fit a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairReport {
    /// What came of it.
    pub outcome: PairOutcome,
    /// Whether the password it was delivered with is active; none when that is not known.
    pub default_password: Option<bool>,
    /// What it says of itself behind its login.
    pub facts: DeviceFacts,
    /// Whether the device needs no login to be read: nothing was sent to it, and no password is proved.
    pub open: bool,
    /// Why it came to nothing; empty when it did not.
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

/// Tries logins at devices. Clones share pace and guard.
#[derive(Debug, Clone)]
pub struct Pairer {
    options: ScanOptions,
    drivers: Arc<DriverSet>,
    dialer: Arc<Dialer>,
}

impl Pairer {
    /// A pairer that dials what `guard` allows, at the pace of `options`.
    pub fn new(options: ScanOptions, drivers: Arc<DriverSet>, guard: Guard) -> Self {
        let dialer = Arc::new(Dialer::new(&options, guard));
        Self {
            options,
            drivers,
            dialer,
        }
    }

    /// Tries a login at one device; without one, asks whether it wants any. Cancel-safe: when dropped, connections
    /// are closed and nothing more is sent.
    pub async fn pair(&self, target: &PairableDevice, login: Option<&Login>) -> PairReport {
        match timeout(PATIENCE, self.attempt(target, login)).await {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => PairReport::failed(error.to_string()),
            Err(_) => PairReport::failed("the device was too slow"),
        }
    }

    async fn attempt(
        &self,
        target: &PairableDevice,
        login: Option<&Login>,
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
        let same = is_the_same(&target.facts, &device)
            .and_then(|()| has_the_same_make(&target.facts, &device));
        if let Err(why) = same {
            return Ok(PairReport::failed(why));
        }
        let result = self
            .authenticate(target.endpoint, &device, rule.as_deref(), login)
            .await?;
        if let Authenticated::Accepted { device: shown, .. } = &result {
            // What it shows behind the login must belong to the device that was asked.
            let same = is_the_same_device(&target.facts, shown);
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

    /// Tries the login that the rule names; without one, that of a driver.
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
            // These two send nothing.
            if matches!(known.kind, KnownLogin::Open | KnownLogin::Unprovable) {
                let mut probe = Probe::unconnected(&self.dialer, endpoint, &self.options);
                return login::by_rule(&mut probe, rules, rule, known, login).await;
            }
            let port = self.web_port(endpoint.port);
            let mut probe = self.open(Endpoint { port, ..endpoint }).await?;
            return login::by_rule(&mut probe, rules, rule, known, login).await;
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

    /// Where a device that was identified at a port has its web server: there, unless an API's driver claims the port.
    fn web_port(&self, at: Port) -> Port {
        let claims = |name: &'static str| {
            let drivers = self
                .drivers
                .all()
                .filter(move |driver| driver.name() == name);
            drivers.flat_map(|driver| driver.default_ports())
        };
        let is_api = ["cgminer", "epic", "whatsminer", "https"]
            .into_iter()
            .flat_map(claims)
            .any(|port| port == at);
        let web = claims("http").next().filter(|_| is_api);
        web.unwrap_or(at)
    }

    /// Pairs a device through the external driver that owns it. The driver identifies the device anew, at the endpoint
    /// where it was found or at the driver's own ports: a built-in driver may have found it at another port.
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
                Ok(Answer::Stranger { .. } | Answer::Foreign) => {}
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

    /// What answers at an endpoint now, without a login, and by which rule.
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
                Ok(Answer::Stranger { .. }) => {
                    failed = None;
                    probe.close();
                    break;
                }
                Ok(Answer::Foreign) => {}
                Err(error) => failed = Some(error),
            }
            probe.start_over();
        }
        // The server names the endpoint of a device that was found, so that every external driver may be asked.
        for driver in self.drivers.external_at(endpoint.port, true) {
            self.dialer
                .acquire(endpoint)
                .await
                .map_err(DriverError::Forbidden)?;
            match driver.identify(&mut probe).await {
                Ok(Answer::Named(device)) => {
                    return Ok(Some((*device, probe.rule().map(str::to_owned))));
                }
                Ok(Answer::Stranger { .. } | Answer::Foreign) => {}
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

/// The report of a login attempt.
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
            "no read-only request proves a password at such devices; the password was not sent",
        ),
        Authenticated::Unsupported => {
            PairReport::failed("this node has no way to log in to such devices")
        }
    }
}

/// Checks that the device that answers now is the one that the server named: its driver, and a MAC or serial if both are
/// known.
fn is_the_same(target: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    if device.driver != target.driver {
        return Err(another("driver", &device.driver, &target.driver));
    }
    is_the_same_device(target, device)
}

/// Checks that MAC and serial agree if both sides know them.
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

/// Checks the make where neither MAC nor serial proves the identity. Not for external drivers: two drivers may spell one
/// make differently.
fn has_the_same_make(target: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    // `is_the_same` has compared them.
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
    fn only_what_the_server_named_is_given_anything() {
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
