//! Tries a login at a device.
//!
//! [`Pairer::pair`] identifies the device again, without a login. It sends nothing that a password can be guessed from
//! unless the answer agrees with the facts that the server sent. Every connection passes the guard.

use std::{sync::Arc, time::Duration};

use fleet_core::{DeviceFacts, Endpoint, PairOutcome, Port};
use tokio::time::timeout;

use crate::{
    dial::Dialler,
    driver::{Answer, DriverError, DriverSet},
    fingerprint::KnownLogin,
    guard::Guard,
    job::ScanOptions,
    login::{self, Authenticated, Login},
    probe::Probe,
    text,
};

/// The most time for one device: its identification and its login.
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

/// The result of one attempt. Texts are printable and fit a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairReport {
    /// The outcome.
    pub outcome: PairOutcome,
    /// Whether the default password is active; none when that is unknown.
    pub default_password: Option<bool>,
    /// The facts that the device shows behind its login.
    pub facts: DeviceFacts,
    /// Whether the device needs no login to be read: nothing was sent to it, and no password is proved.
    pub open: bool,
    /// Why the attempt failed; empty when it succeeded.
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
    dialler: Arc<Dialler>,
}

impl Pairer {
    /// A pairer that dials what `guard` allows, at the pace of `options`.
    pub fn new(options: ScanOptions, drivers: Arc<DriverSet>, guard: Guard) -> Self {
        let dialler = Arc::new(Dialler::new(&options, guard));
        Self {
            options,
            drivers,
            dialler,
        }
    }

    /// Tries a login at one device. Without a login, asks whether the device wants one. Cancel-safe: when dropped, the
    /// connections are closed and nothing more is sent.
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
        let Some((device, rule)) = self.identify(target.endpoint).await? else {
            return Ok(PairReport::failed("no known device answers there any more"));
        };
        if let Err(why) = is_the_same(&target.facts, &device) {
            return Ok(PairReport::failed(why));
        }
        let answered = self
            .authenticate(target.endpoint, &device, rule.as_deref(), login)
            .await?;
        Ok(match answered {
            Authenticated::Accepted {
                device: shown,
                default_password,
            } => {
                // What it shows behind the login must belong to the device that was asked.
                if let Err(why) = is_the_same_device(&target.facts, &shown)
                    .and(is_the_same_device(&device, &shown))
                {
                    return Ok(PairReport::failed(why));
                }
                PairReport {
                    default_password,
                    facts: text::fit(*shown),
                    ..PairReport::of(PairOutcome::Paired, "")
                }
            }
            Authenticated::Open => PairReport {
                open: true,
                facts: text::fit(device),
                ..PairReport::of(PairOutcome::Paired, "")
            },
            Authenticated::Wanted => {
                PairReport::of(PairOutcome::AuthNeeded, "the device wants a password")
            }
            Authenticated::Refused => {
                PairReport::of(PairOutcome::AuthFailed, "the device refused the password")
            }
            Authenticated::Unprovable => PairReport::failed(
                "no read-only request proves a password at such devices: the password was not sent",
            ),
            Authenticated::Unsupported => {
                let kind = text::field(&device.driver);
                PairReport::failed(format!(
                    "this node has no way to log in to devices of the driver {kind}"
                ))
            }
        })
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
                let mut probe = Probe::unconnected(&self.dialler, endpoint, &self.options);
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
        // The server sends the endpoint of a device that was found, so every external driver may be asked.
        for driver in self.drivers.external_at(endpoint.port, true) {
            self.dialler
                .lend_turn(endpoint)
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
        let stream = self.dialler.open(endpoint).await?;
        Ok(Probe::new(&self.dialler, endpoint, stream, &self.options))
    }
}

/// Whether the device that answers now is the one that the server sent. A MAC or serial that it shows must be the
/// known one.
fn is_the_same(target: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    let other = |what: &str, now: &str, known: &str| {
        Err(format!(
            "another device answers there now ({what} {}, not {}); nothing was sent to it; scan again",
            text::field(now),
            text::field(known)
        ))
    };
    if device.driver != target.driver {
        return other("driver", &device.driver, &target.driver);
    }
    let (now, known) = (device.manufacturer.trim(), target.manufacturer.trim());
    if !known.is_empty() && !now.eq_ignore_ascii_case(known) {
        return other("make", now, known);
    }
    is_the_same_device(target, device)
}

/// Whether MAC and serial agree where both sides know them.
fn is_the_same_device(known: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    let other = |what: &str, now: &str, known: &str| {
        let (now, known) = (text::field(now), text::field(known));
        Err(format!(
            "another device answers there now ({what} {now}, not {known}); scan again"
        ))
    };
    if let (Some(now), Some(known)) = (device.mac, known.mac)
        && now != known
    {
        return other("MAC", &now.to_string(), &known.to_string());
    }
    if let (Some(now), Some(known)) = (&device.serial, &known.serial)
        && now != known
    {
        return other("serial", now.as_str(), known.as_str());
    }
    Ok(())
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
    fn a_device_that_differs_from_the_known_one_is_refused() {
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
                    manufacturer: "MicroBT".to_owned(),
                    ..device()
                },
                "MicroBT",
            ),
            (
                DeviceFacts {
                    manufacturer: String::new(),
                    ..device()
                },
                "make",
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
}
