//! [`DialPermit`]: which addresses the server may dial itself, and until when.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fleet_core::{AddressPolicy, Endpoint, Timestamp, limits};
use ipnetwork::IpNetwork;

use crate::environment::Environment;

/// A permit to dial some addresses for a short time. Cheap to clone; clones end together.
///
/// The store released the addresses just before. The permit ends after [`limits::DIRECT_TERM`], by either clock, or
/// when it is closed: from then on nodes may report the addresses as theirs.
#[derive(Clone)]
pub struct DialPermit(Arc<Terms>);

struct Terms {
    environment: Arc<dyn Environment>,
    addresses: BTreeSet<IpAddr>,
    policy: AddressPolicy,
    networks: Vec<IpNetwork>,
    from: (Instant, Timestamp),
    closed: AtomicBool,
}

impl DialPermit {
    /// `from` holds the times of both clocks before the release.
    pub(crate) fn new(
        environment: Arc<dyn Environment>,
        addresses: BTreeSet<IpAddr>,
        policy: AddressPolicy,
        networks: Vec<IpNetwork>,
        from: (Instant, Timestamp),
    ) -> Self {
        Self(Arc::new(Terms {
            environment,
            addresses,
            policy,
            networks,
            from,
            closed: AtomicBool::new(false),
        }))
    }

    /// Checks that an endpoint may be dialed now. The caller must open the connection at once.
    ///
    /// # Errors
    ///
    /// The reason why it may not.
    pub fn check(&self, endpoint: Endpoint) -> Result<(), String> {
        let terms = &self.0;
        let ip = terms
            .policy
            .admit(endpoint.ip)
            .map_err(|refused| refused.to_string())?;
        if !terms.networks.iter().any(|network| network.contains(ip)) {
            return Err(outside(ip));
        }
        if !terms.addresses.contains(&ip) {
            return Err(format!("{ip} was not released for dialing"));
        }
        if self.left().is_zero() || terms.closed.load(Ordering::SeqCst) {
            return Err(format!("the time for dialing {ip} is over"));
        }
        Ok(())
    }

    /// The remaining time, by the clock that is ahead: suspending the machine stops one clock, and an administrator
    /// can set the other.
    pub(crate) fn left(&self) -> Duration {
        let (instant, now) = self.0.from;
        let monotonic = self.0.environment.instant().duration_since(instant);
        let wall = self.0.environment.now().since(now);
        limits::DIRECT_TERM.saturating_sub(monotonic.max(wall))
    }

    /// Ends it for all clones.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }
}

/// The refusal of an address that the server may not dial.
pub(crate) fn outside(ip: IpAddr) -> String {
    format!(
        "{ip} is outside of the networks that this server may dial itself: add its network to `networks` under [direct] in fleetd.toml, or scan it through a node"
    )
}

impl fmt::Debug for DialPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialPermit")
            .field("addresses", &self.0.addresses.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Clocks that a test sets.
    #[derive(Debug)]
    struct Clocks(Instant, Mutex<(Duration, i64)>);

    impl Environment for Clocks {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(self.1.lock().expect("not poisoned").1)
        }

        fn instant(&self) -> Instant {
            self.0 + self.1.lock().expect("not poisoned").0
        }

        fn fill(&self, _: &mut [u8]) {}
    }

    fn at(text: &str) -> Endpoint {
        let (ip, port) = text.rsplit_once(':').expect("an endpoint");
        Endpoint {
            ip: ip.trim_matches(['[', ']']).parse().expect("an address"),
            port: port.parse().expect("a port"),
        }
    }

    fn permit(clocks: &Arc<Clocks>) -> DialPermit {
        let environment: Arc<dyn Environment> = clocks.clone();
        let from = (environment.instant(), environment.now());
        let addresses =
            ["10.0.0.7", "10.9.0.7", "127.0.0.1"].map(|ip| ip.parse().expect("an address"));
        let networks = vec![
            "10.0.0.0/24".parse().expect("a network"),
            "127.0.0.0/8".parse().expect("a network"),
        ];
        DialPermit::new(
            environment,
            addresses.into(),
            AddressPolicy::default(),
            networks,
            from,
        )
    }

    #[test]
    fn only_released_private_addresses_of_the_listed_networks_are_dialed() {
        let clocks = Arc::new(Clocks(Instant::now(), Mutex::new((Duration::ZERO, 0))));
        let permit = permit(&clocks);
        assert_eq!(permit.check(at("10.0.0.7:80")), Ok(()));
        assert_eq!(permit.check(at("[::ffff:10.0.0.7]:4028")), Ok(()));
        for (endpoint, why) in [
            ("10.0.0.8:80", "not released"),
            ("10.9.0.7:80", "outside"),
            ("127.0.0.1:80", "loopback"),
            ("8.8.8.8:80", "public"),
        ] {
            let refused = permit.check(at(endpoint)).expect_err(endpoint);
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn the_time_for_dialing_ends_by_either_clock_and_by_closing() {
        let term = limits::DIRECT_TERM;
        let micros = i64::try_from(term.as_micros()).expect("some seconds");
        for (monotonic, wall, open) in [
            (Duration::ZERO, 0, true),
            (term - Duration::from_millis(1), 0, true),
            (term, 0, false),
            (Duration::ZERO, micros, false),
            // Setting the wall clock back does not extend the permit.
            (term, -micros, false),
        ] {
            let clocks = Arc::new(Clocks(Instant::now(), Mutex::new((Duration::ZERO, 0))));
            let permit = permit(&clocks);
            *clocks.1.lock().expect("not poisoned") = (monotonic, wall);
            assert_eq!(
                permit.check(at("10.0.0.7:80")).is_ok(),
                open,
                "{monotonic:?} {wall}"
            );
        }
        let clocks = Arc::new(Clocks(Instant::now(), Mutex::new((Duration::ZERO, 0))));
        let permit = permit(&clocks);
        permit.clone().close();
        assert!(permit.check(at("10.0.0.7:80")).is_err());
    }
}
