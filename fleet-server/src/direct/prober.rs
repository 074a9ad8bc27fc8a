//! What dials for the server: a trait, since the server knows no drivers. Its one duty beyond finding
//! devices is [`Leave`].

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

use fleet_core::{
    AddressPolicy, DeviceFacts, DeviceReport, Endpoint, PairOutcome, Port, TargetOutcome,
    Timestamp, limits,
};
use futures::future::BoxFuture;
use ipnetwork::IpNetwork;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::Environment;

/// Reaches devices on the server's own network.
pub trait Prober: Send + Sync + fmt::Debug {
    /// The ports that are tried when nobody names any.
    fn default_ports(&self) -> Vec<Port>;

    /// Tries every address on every port and tells through `events` what it finds, waiting for room. It asks
    /// [`ProbeOrder::leave`] right before every connection that it opens, and when it returns none of them
    /// is open. When `cancel` fires or the time is over it ends soon, with what it has.
    fn probe<'a>(
        &'a self,
        order: ProbeOrder,
        events: mpsc::Sender<ProbeEvent>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<ProbeSummary, String>>;

    /// Tries a login at one device, once it has proved to be what the order says; without a login it asks
    /// whether the device wants any. Leave as above. Dropping the future closes its connections.
    fn pair<'a>(&'a self, order: PairOrder) -> BoxFuture<'a, PairAnswer>;
}

/// A device to pair, as the server knows it.
#[derive(Clone, Debug)]
pub struct PairOrder {
    /// Where it was found.
    pub endpoint: Endpoint,
    /// What is known of it.
    pub facts: DeviceFacts,
    /// What to try; none asks whether the device wants a login.
    pub login: Option<PairLogin>,
    /// Has the last word before every connection.
    pub leave: Leave,
}

/// A user name and a password: wiped when dropped, never printed.
#[derive(Clone)]
pub struct PairLogin {
    /// The user name.
    pub username: Zeroizing<String>,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for PairLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairLogin(..)")
    }
}

/// What a device said to a login.
#[derive(Clone, Debug)]
pub struct PairAnswer {
    /// What came of it.
    pub outcome: PairOutcome,
    /// Whether the password it was delivered with is active; none when that is not known.
    pub default_password: Option<bool>,
    /// Why it came to nothing; empty when it did not.
    pub error: String,
}

/// What to probe.
#[derive(Clone, Debug)]
pub struct ProbeOrder {
    /// Canonical, each once.
    pub addresses: Vec<IpAddr>,
    /// In the order wanted, at least one.
    pub ports: Vec<Port>,
    /// How long it may take.
    pub budget: Duration,
    /// Has the last word before every connection.
    pub leave: Leave,
}

/// What a prober tells while it works.
#[derive(Clone, Debug)]
pub enum ProbeEvent {
    /// A device, at the endpoint that was dialed.
    Found(DeviceReport),
    /// Something the operator should know.
    Note(String),
    /// So many addresses of the order are done.
    Progress(u64),
}

/// How an order ended.
#[derive(Clone, Debug)]
pub struct ProbeSummary {
    /// What was learned of each address, in the order of the order.
    pub outcomes: Vec<TargetOutcome>,
}

/// Leave to dial some addresses for a short time. Cheap to clone; clones end together.
///
/// The addresses were released by the store just before. Past [`limits::DIRECT_TERM`], by either clock, or
/// once it is closed, nothing is let through: nodes may report the addresses as theirs from then on.
#[derive(Clone)]
pub struct Leave(Arc<Terms>);

struct Terms {
    environment: Arc<dyn Environment>,
    addresses: BTreeSet<IpAddr>,
    policy: AddressPolicy,
    networks: Vec<IpNetwork>,
    from: (Instant, Timestamp),
    closed: AtomicBool,
}

impl Leave {
    /// `from` are both clocks' times before the release.
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

    /// Whether an endpoint may be dialed at this moment; the connection must be begun at once.
    ///
    /// # Errors
    ///
    /// The reason why not.
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

    /// How long it lasts still: by the clock that is ahead, since a machine that was suspended stops one of
    /// them, and somebody can set the other.
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

/// Why an address is none of the server's to dial.
pub(crate) fn outside(ip: IpAddr) -> String {
    format!(
        "{ip} is outside of the networks that this server may dial itself: add its network to `networks` under [direct] in fleetd.toml, or scan it through a node"
    )
}

impl fmt::Debug for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leave")
            .field("addresses", &self.0.addresses.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Clocks that tests set.
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

    fn leave(clocks: &Arc<Clocks>) -> Leave {
        let environment: Arc<dyn Environment> = clocks.clone();
        let from = (environment.instant(), environment.now());
        let addresses =
            ["10.0.0.7", "10.9.0.7", "127.0.0.1"].map(|ip| ip.parse().expect("an address"));
        let networks = vec![
            "10.0.0.0/24".parse().expect("a network"),
            "127.0.0.0/8".parse().expect("a network"),
        ];
        Leave::new(
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
        let leave = leave(&clocks);
        assert_eq!(leave.check(at("10.0.0.7:80")), Ok(()));
        assert_eq!(leave.check(at("[::ffff:10.0.0.7]:4028")), Ok(()));
        for (endpoint, why) in [
            ("10.0.0.8:80", "not released"),
            ("10.9.0.7:80", "outside"),
            ("127.0.0.1:80", "loopback"),
            ("8.8.8.8:80", "public"),
        ] {
            let refused = leave.check(at(endpoint)).expect_err(endpoint);
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
            // A wall clock that was set back does not prolong it.
            (term, -micros, false),
        ] {
            let clocks = Arc::new(Clocks(Instant::now(), Mutex::new((Duration::ZERO, 0))));
            let leave = leave(&clocks);
            *clocks.1.lock().expect("not poisoned") = (monotonic, wall);
            assert_eq!(
                leave.check(at("10.0.0.7:80")).is_ok(),
                open,
                "{monotonic:?} {wall}"
            );
        }
        let clocks = Arc::new(Clocks(Instant::now(), Mutex::new((Duration::ZERO, 0))));
        let leave = leave(&clocks);
        leave.clone().close();
        assert!(leave.check(at("10.0.0.7:80")).is_err());
    }
}
