//! Drivers identify the device behind an open port with read-only requests.
//!
//! Start with [`Driver`]. A driver reaches the network through a [`Probe`], which bounds its requests.

use std::{fmt, pin::Pin, sync::Arc};

use fleet_core::{DeviceFacts, Port, limits::PRINTER_PORTS};

use crate::{
    fingerprint::Fingerprints,
    login::{Authenticated, Login},
    probe::Probe,
};

/// A boxed future, so that the trait can be an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Identifies the device behind an open port. It never logs in and never changes the device.
pub trait Driver: Send + Sync {
    /// The driver's name in logs and notes. Reports use [`DeviceFacts::driver`], which must not be empty. The scanner
    /// cleans and truncates texts before it reports them.
    fn name(&self) -> &str;

    /// The default ports of this driver's devices. The scanner runs the driver at these ports, and at ports that no
    /// driver claims.
    fn default_ports(&self) -> Vec<Port>;

    /// The priority of this driver's facts. If several ports of one address are identified, the highest priority wins.
    /// Among external drivers, the order of the set decides.
    fn precedence(&self) -> u8;

    /// Whether the driver opens its own connections, which no [`Probe`] bounds. External drivers run last, and only on
    /// hosts that no other driver identified. They make one query per host at a time, at their own ports and at
    /// explicitly requested ports. They must bound time and size themselves.
    fn is_external(&self) -> bool {
        false
    }

    /// Whether an external driver is also asked about listed addresses at which no port answered, see
    /// [`ScanJob::listed`](crate::ScanJob::listed). Some drivers know devices without a port to probe.
    fn asks_silent(&self) -> bool {
        false
    }

    /// Why the driver is unavailable, or none if it works. The text must be short and constant for each reason. A scan
    /// that starts in this state reports the reason and is incomplete.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Identifies the device. The scanner drops the future when the scan ends or the port's time limit expires. The
    /// future must be cancel-safe: a dropped call leaves no work behind.
    ///
    /// # Errors
    /// [`DriverError`] if the reply violates the protocol or is missing. The scanner then tries other drivers.
    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>>;

    /// The rules by which the driver identifies devices. They define the login for each make. None if it has no rules.
    fn fingerprints(&self) -> Option<&Fingerprints> {
        None
    }

    /// Whether this driver pairs devices of the given driver name before any other driver does. External drivers return
    /// true for their own devices, because they know more than a built-in driver of the same name.
    fn owns(&self, driver: &str) -> bool {
        let _ = driver;
        false
    }

    /// The port at which this driver logs in to a device that was identified at port `at`. None if it cannot log in.
    fn login_port(&self, device: &DeviceFacts, at: Port) -> Option<Port> {
        let _ = (device, at);
        None
    }

    /// Tries a login at a device that was just identified. Without a login, checks whether the device requires one. It
    /// must verify the device again before it sends anything from which a password can be guessed. It never sends the
    /// password itself if the protocol has an alternative. Cancel-safe like [`Driver::identify`].
    ///
    /// # Errors
    /// [`DriverError`] if the reply violates the protocol or is missing.
    fn authenticate<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
        device: &'a DeviceFacts,
        login: Option<&'a Login>,
    ) -> BoxFuture<'a, Result<Authenticated, DriverError>> {
        let _ = (probe, device, login);
        Box::pin(async { Ok(Authenticated::Unsupported) })
    }
}

/// The result of a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The driver identified the device.
    Named(Box<DeviceFacts>),
    /// The device speaks the driver's protocol, but the driver does not know the device. No other driver runs.
    Unidentified {
        /// The first reply, escaped, for the operator.
        evidence: String,
    },
    /// The device speaks another protocol.
    Foreign,
}

/// Why a driver could not finish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// No reply arrived in time.
    #[error("no reply in time")]
    Silence,
    /// The device closed the connection without a reply.
    #[error("the connection was closed without a reply")]
    Closed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Broken(std::io::ErrorKind),
    /// The guard forbids the endpoint.
    #[error("not dialed: {0}")]
    Forbidden(String),
    /// The reply violates the driver's protocol. The text gives the violation.
    #[error("unexpected reply: {0}")]
    Protocol(String),
    /// The driver itself failed. The text is short and constant for each reason. The scan is incomplete.
    #[error("the driver {0}")]
    Unusable(String),
}

/// The drivers of a scanner.
#[derive(Clone)]
pub struct DriverSet {
    drivers: Vec<Arc<dyn Driver>>,
}

/// Why drivers do not form a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverSetError {
    /// Two drivers have the same name.
    #[error("two drivers are named `{0}`; names must differ")]
    Duplicate(String),
    /// A driver has an empty name.
    #[error("a driver has no name")]
    Nameless,
}

impl DriverSet {
    /// Creates a set. At ports that no driver claims, the drivers run in this order.
    ///
    /// # Errors
    /// [`DriverSetError`] if a name is empty or used twice.
    pub fn new(drivers: Vec<Arc<dyn Driver>>) -> Result<Self, DriverSetError> {
        for (at, driver) in drivers.iter().enumerate() {
            if driver.name().is_empty() {
                return Err(DriverSetError::Nameless);
            }
            if drivers
                .iter()
                .take(at)
                .any(|other| other.name() == driver.name())
            {
                return Err(DriverSetError::Duplicate(driver.name().to_owned()));
            }
        }
        Ok(Self { drivers })
    }

    /// The ports of a scan that requests none: the drivers' default ports, by descending precedence. Raw printer ports
    /// are excluded.
    pub fn default_ports(&self) -> Vec<Port> {
        let mut by_precedence: Vec<&Arc<dyn Driver>> = self.drivers.iter().collect();
        by_precedence.sort_by_key(|driver| std::cmp::Reverse(driver.precedence()));
        let mut ports = Vec::new();
        for port in by_precedence
            .into_iter()
            .flat_map(|driver| driver.default_ports())
        {
            if !ports.contains(&port) && !PRINTER_PORTS.contains(&port.number()) {
                ports.push(port);
            }
        }
        ports
    }

    /// Creates a set of drivers whose names are known to be distinct.
    pub(crate) fn unchecked(drivers: Vec<Arc<dyn Driver>>) -> Self {
        Self { drivers }
    }

    /// Returns this set with more drivers appended.
    ///
    /// # Errors
    /// [`DriverSetError`] as in [`DriverSet::new`].
    pub fn with(
        mut self,
        more: impl IntoIterator<Item = Arc<dyn Driver>>,
    ) -> Result<Self, DriverSetError> {
        self.drivers.extend(more);
        Self::new(self.drivers)
    }

    /// Every driver, in the order of the set.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<dyn Driver>> {
        self.drivers.iter()
    }

    /// The built-in drivers to run at a port, in order: drivers that claim it, otherwise all.
    pub(crate) fn at(&self, port: Port) -> Vec<Arc<dyn Driver>> {
        let internal = || self.drivers.iter().filter(|driver| !driver.is_external());
        let claimants: Vec<_> = internal()
            .filter(|driver| driver.default_ports().contains(&port))
            .cloned()
            .collect();
        if claimants.is_empty() {
            internal().cloned().collect()
        } else {
            claimants
        }
    }

    /// The external drivers to run at a port, in order: drivers that claim it, or all if the port was requested
    /// explicitly.
    pub(crate) fn external_at(&self, port: Port, asked_for: bool) -> Vec<Arc<dyn Driver>> {
        // A printer prints every byte that reaches its raw port.
        if PRINTER_PORTS.contains(&port.number()) {
            return Vec::new();
        }
        self.external()
            .filter(|driver| asked_for || driver.default_ports().contains(&port))
            .cloned()
            .collect()
    }

    /// The external drivers to ask about a port of an address at which no port answered.
    pub(crate) fn silent_at(&self, port: Port) -> Vec<Arc<dyn Driver>> {
        let mut drivers = self.external_at(port, false);
        drivers.retain(|driver| driver.asks_silent());
        drivers
    }

    /// All external drivers, in the order of the set.
    pub(crate) fn external(&self) -> impl Iterator<Item = &Arc<dyn Driver>> {
        self.drivers.iter().filter(|driver| driver.is_external())
    }

    /// The highest precedence that a result at a port can have.
    pub(crate) fn precedence_at(&self, port: Port) -> u8 {
        self.at(port)
            .iter()
            .map(|driver| driver.precedence())
            .max()
            .unwrap_or(0)
    }
}

impl fmt::Debug for DriverSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.drivers.iter().map(|driver| driver.name().to_owned()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str, u16);

    /// A minimal external driver.
    struct Outside(&'static str, u16);

    impl Driver for Outside {
        fn name(&self) -> &str {
            self.0
        }
        fn default_ports(&self) -> Vec<Port> {
            Port::new(self.1).into_iter().collect()
        }
        fn precedence(&self) -> u8 {
            0
        }
        fn is_external(&self) -> bool {
            true
        }
        fn identify<'a>(
            &'a self,
            _: &'a mut Probe<'_>,
        ) -> BoxFuture<'a, Result<Answer, DriverError>> {
            Box::pin(async { Ok(Answer::Foreign) })
        }
    }

    impl Driver for Named {
        fn name(&self) -> &str {
            self.0
        }
        fn default_ports(&self) -> Vec<Port> {
            Port::new(self.1).into_iter().collect()
        }
        fn precedence(&self) -> u8 {
            1
        }
        fn identify<'a>(
            &'a self,
            _: &'a mut Probe<'_>,
        ) -> BoxFuture<'a, Result<Answer, DriverError>> {
            Box::pin(async { Ok(Answer::Foreign) })
        }
    }

    #[test]
    fn names_must_differ() {
        let twice: Vec<Arc<dyn Driver>> = vec![Arc::new(Named("a", 1)), Arc::new(Named("a", 2))];
        assert_eq!(
            DriverSet::new(twice).map(|_| ()),
            Err(DriverSetError::Duplicate("a".into()))
        );
        assert_eq!(
            DriverSet::new(vec![Arc::new(Named("", 1))]).map(|_| ()),
            Err(DriverSetError::Nameless)
        );
    }

    #[test]
    fn external_drivers_are_asked_apart_at_their_own_ports_and_at_those_asked_for() {
        let port = |number| Port::new(number).expect("a port");
        let outside: Vec<Arc<dyn Driver>> =
            vec![Arc::new(Outside("a", 443)), Arc::new(Outside("b", 80))];
        let set = DriverSet::built_in().with(outside).expect("a set");
        let names = |drivers: Vec<Arc<dyn Driver>>| {
            let names = drivers.iter().map(|driver| driver.name().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(set.at(port(80))), ["http"]);
        assert_eq!(names(set.at(port(443))), ["https"]);
        for (number, asked_for, expected) in [
            (443, false, vec!["a"]),
            (80, false, vec!["b"]),
            (4028, false, vec![]),
            (4028, true, vec!["a", "b"]),
            (9100, true, vec![]),
        ] {
            let asked = names(set.external_at(port(number), asked_for));
            assert_eq!(asked, expected, "{number} {asked_for}");
        }
        assert_eq!(set.default_ports(), [4028, 4433, 443, 80].map(port));
        let again: Vec<Arc<dyn Driver>> = vec![Arc::new(Outside("http", 1))];
        assert_eq!(
            DriverSet::built_in().with(again).map(|_| ()),
            Err(DriverSetError::Duplicate("http".into()))
        );
    }

    #[test]
    fn no_drivers_default_ports_include_a_printers_raw_port() {
        assert_eq!(
            PRINTER_PORTS,
            [515, 631, 9100, 9101, 9102, 9103, 9104, 9105, 9106, 9107]
        );
        for number in PRINTER_PORTS {
            let set = DriverSet::new(vec![Arc::new(Named("printer", number))]).expect("a set");
            assert!(set.default_ports().is_empty(), "{number}");
        }
        let built_in = DriverSet::built_in().default_ports();
        assert!(
            built_in
                .iter()
                .all(|port| !PRINTER_PORTS.contains(&port.number()))
        );
    }
}
