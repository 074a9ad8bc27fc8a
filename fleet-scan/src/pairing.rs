//! Trying a login at a device, once it has proved to be what the caller knows it as.
//!
//! [`Pairer::pair`] asks the device anew who it is, without a login; only when its answer agrees with what the
//! server named is anything sent that a password can be guessed from. Everything is dialed through the guard.

use std::{sync::Arc, time::Duration};

use fleet_core::{DeviceFacts, Endpoint, PairOutcome};
use tokio::time::timeout;

use crate::{
    dial::Dialler,
    driver::{Answer, Driver, DriverError, DriverSet},
    guard::Guard,
    job::ScanOptions,
    login::{Authenticated, Login},
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
    /// Why it came to nothing; empty when it did not.
    pub error: String,
}

impl PairReport {
    fn of(outcome: PairOutcome, error: impl Into<String>) -> Self {
        Self {
            outcome,
            default_password: None,
            facts: DeviceFacts::default(),
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
        let device = match self.identify(target.endpoint).await? {
            Some(device) => device,
            None => return Ok(PairReport::failed("nothing there names itself any more")),
        };
        if let Err(why) = is_the_same(&target.facts, &device) {
            return Ok(PairReport::failed(why));
        }
        let at = target.endpoint.port;
        let door = self
            .drivers
            .all()
            .find_map(|driver| Some((driver, driver.login_port(&device, at)?)));
        let Some((driver, port)) = door else {
            let kind = text::field(&device.driver);
            return Ok(PairReport::failed(format!(
                "this node has no way to log in to devices of the driver {kind}"
            )));
        };
        let endpoint = Endpoint {
            ip: target.endpoint.ip,
            port,
        };
        let mut probe = self.open(endpoint).await?;
        let result = driver.authenticate(&mut probe, &device, login).await?;
        Ok(report(result))
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

    /// What is at an endpoint now, by its own word and without a login.
    async fn identify(&self, endpoint: Endpoint) -> Result<Option<DeviceFacts>, DriverError> {
        let mut probe = self.open(endpoint).await?;
        let mut failed = None;
        for driver in self.drivers.at(endpoint.port) {
            match driver.identify(&mut probe).await {
                Ok(Answer::Named(device)) => return Ok(Some(*device)),
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
            self.dialler
                .lend_turn(endpoint)
                .await
                .map_err(DriverError::Forbidden)?;
            match driver.identify(&mut probe).await {
                Ok(Answer::Named(device)) => return Ok(Some(*device)),
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
        Authenticated::Unsupported => {
            PairReport::failed("this node has no way to log in to such devices")
        }
    }
}

/// Whether what answers now is what the server named. A MAC or serial that it shows must be the known one.
fn is_the_same(target: &DeviceFacts, device: &DeviceFacts) -> Result<(), String> {
    let other = |what: &str, now: &str, known: &str| {
        Err(format!(
            "another device answers there now ({what} {}, not {}): nothing was sent to it; scan again",
            text::field(now),
            text::field(known)
        ))
    };
    if device.driver != target.driver {
        return other("driver", &device.driver, &target.driver);
    }
    // Makes are not compared: two drivers may spell one make differently.
    if let (Some(now), Some(known)) = (device.mac, target.mac)
        && now != known
    {
        return other("MAC", &now.to_string(), &known.to_string());
    }
    if let (Some(now), Some(known)) = (&device.serial, &target.serial)
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
    fn only_what_the_server_named_is_given_anything() {
        assert_eq!(is_the_same(&target(), &device()), Ok(()));
        let same = DeviceFacts {
            mac: target().mac,
            serial: target().serial,
            ..device()
        };
        assert_eq!(is_the_same(&target(), &same), Ok(()));
        let spelled_differently = DeviceFacts {
            manufacturer: "Bitmain Technologies".to_owned(),
            ..device()
        };
        assert_eq!(is_the_same(&target(), &spelled_differently), Ok(()));
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
            assert!(
                why.contains(named) && why.contains("nothing was sent"),
                "{why}"
            );
        }
    }
}
