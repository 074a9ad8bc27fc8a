//! What a driver is: it identifies the device behind an open port with read-only requests.
//!
//! [`Driver`] first. Its view of the network is [`Probe`], which bounds everything it does.

use std::{fmt, pin::Pin, sync::Arc};

use fleet_core::{DeviceFacts, Port, limits::PRINTER_PORTS};

use crate::{
    fingerprint::Fingerprints,
    login::{Authenticated, Login},
    probe::Probe,
};

/// A boxed future, so that the trait can be an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Identifies the device behind an open port, without a login and without changing anything there.
pub trait Driver: Send + Sync {
    /// Its name in logs and notes. What is reported is [`DeviceFacts::driver`], which must not be empty; texts are cleaned and cut before they are
    /// reported.
    fn name(&self) -> &str;

    /// The ports at which its devices listen. It is asked at these, and at ports that no driver claims.
    fn default_ports(&self) -> Vec<Port>;

    /// Which driver's facts count when several ports of one address are identified: the highest. Among external drivers
    /// the order of the set decides.
    fn precedence(&self) -> u8;

    /// Whether it dials by itself, over connections that no [`Probe`] bounds. Such a driver is asked last: about hosts
    /// that no other driver named on any port, one question at a time a host, at its own ports and at those that
    /// were asked for by number. It bounds its answers in time and size itself.
    fn is_external(&self) -> bool {
        false
    }

    /// Why the driver cannot be asked at present, in a few words that are the same for the same reason; none when it
    /// works. A scan that begins meanwhile reports it and is not complete.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Asks the device. Dropped when the scan ends or the time for the port is over, so it must be cancel-safe in
    /// the sense that a dropped call leaves nothing behind.
    ///
    /// # Errors
    /// [`DriverError`] when the device did not answer as the protocol demands; other drivers are asked then.
    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>>;

    /// The rules by which it identifies devices, which say how to log in to each make. None when it has no rules.
    fn fingerprints(&self) -> Option<&Fingerprints> {
        None
    }

    /// Whether devices of this driver name are paired by this driver, before any other. True for an external driver whose
    /// devices have that name: it knows more about them than a built-in driver of the same name.
    fn owns(&self, driver: &str) -> bool {
        let _ = driver;
        false
    }

    /// Where this driver logs in to a device that was identified at port `at`; none when it cannot.
    fn login_port(&self, device: &DeviceFacts, at: Port) -> Option<Port> {
        let _ = (device, at);
        None
    }

    /// Tries a login at a device that was identified just now; without one, asks whether it wants any. Must make sure
    /// again that the port is such a device's before it sends anything that a password can be guessed from, and
    /// never sends the password itself where there is another way. Cancel-safe as [`Driver::identify`].
    ///
    /// # Errors
    /// [`DriverError`] when the device did not answer as its protocol demands.
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
    /// A device that it knows.
    Named(Box<DeviceFacts>),
    /// The device speaks the driver's protocol, and the driver does not know the device. No other driver is asked.
    Stranger {
        /// The first answer, escaped, for the operator.
        evidence: String,
    },
    /// The protocol is not the driver's.
    Foreign,
}

/// Why a driver could not finish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// No reply came in time.
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
    /// The reply breaks the driver's protocol; the text says how.
    #[error("unexpected reply: {0}")]
    Protocol(String),
    /// The driver itself could not work, in a few words that are the same for the same reason. The scan is not complete.
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
    /// Two drivers of one name.
    #[error("two drivers are named `{0}`; names must differ")]
    Duplicate(String),
    /// A driver without a name.
    #[error("a driver has no name")]
    Nameless,
}

impl DriverSet {
    /// A set of its own. At ports that none of them claims they are asked in this order.
    ///
    /// # Errors
    /// [`DriverSetError`] when a name is empty or used twice.
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

    /// The ports that are scanned when none is asked for: the drivers', of the highest precedence first, without
    /// printers' raw ports.
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

    /// A set whose names are known to differ.
    pub(crate) fn unchecked(drivers: Vec<Arc<dyn Driver>>) -> Self {
        Self { drivers }
    }

    /// This set with more drivers behind those that it has.
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

    /// The drivers to ask at a port, in order: those that claim it, otherwise all; no external ones.
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

    /// Which external drivers to ask at a port, in order: those that claim it; all when it was asked for by number.
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

    /// The external drivers, in the order of the set.
    pub(crate) fn external(&self) -> impl Iterator<Item = &Arc<dyn Driver>> {
        self.drivers.iter().filter(|driver| driver.is_external())
    }

    /// The highest precedence that an answer at a port can have.
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

    /// The same, from outside.
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
    fn none_of_printers_raw_ports_is_a_default_port_whichever_driver_wants_it() {
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
