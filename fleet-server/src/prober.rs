//! The interface of the server to the code that dials devices: a trait, since the server contains no drivers. Besides
//! finding devices, an implementation has one duty: it asks the [`DialPermit`] before every connection.

use std::{fmt, net::IpAddr, time::Duration};

use fleet_core::{
    DeviceFacts, DeviceReport, Endpoint, HostReport, PairOutcome, Port, TargetOutcome,
};
use fleet_discovery::Gaps;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::dial_permit::DialPermit;

/// Reaches devices on the server's own network.
pub trait Prober: Send + Sync + fmt::Debug {
    /// The ports that are probed when a request names none.
    fn default_ports(&self) -> Vec<Port>;

    /// Probes every address on every port and sends what it finds to `events`, waiting for room. It asks
    /// [`ProbeOrder::permit`] right before every connection that it opens, and closes all of them before it
    /// returns. When `cancel` fires or the budget is used up, it returns soon with the results so far.
    fn probe<'a>(
        &'a self,
        order: ProbeOrder,
        events: mpsc::Sender<ProbeEvent>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<ProbeSummary, String>>;

    /// Tries a login at one device, after the device has proved to be the one of the order. Without a login it
    /// finds out whether the device requires one. The permit applies as above. Dropping the future closes its
    /// connections.
    fn pair<'a>(&'a self, order: PairOrder) -> BoxFuture<'a, PairAnswer>;
}

/// A device to pair, as the server knows it.
#[derive(Clone, Debug)]
pub struct PairOrder {
    /// Where the device was found.
    pub endpoint: Endpoint,
    /// What is known of it.
    pub facts: DeviceFacts,
    /// The login to try; none finds out whether the device requires one.
    pub login: Option<PairLogin>,
    /// Whether to try the default credentials of the make too.
    pub try_defaults: bool,
    /// Must be asked before every connection.
    pub permit: DialPermit,
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

/// How a device answered a login.
#[derive(Clone, Debug)]
pub struct PairAnswer {
    /// The result of the login.
    pub outcome: PairOutcome,
    /// Whether the factory password is active; none when that is unknown.
    pub default_password: Option<bool>,
    /// Whether the device needs no login.
    pub open: bool,
    /// Why the login failed; empty after a success.
    pub error: String,
}

/// Endpoints to probe.
#[derive(Clone, Debug)]
pub struct ProbeOrder {
    /// Canonical, each once.
    pub addresses: Vec<IpAddr>,
    /// At least one, in the order to probe.
    pub ports: Vec<Port>,
    /// How long the probe may take.
    pub budget: Duration,
    /// Must be asked before every connection.
    pub permit: DialPermit,
}

/// A result that a prober sends while it works.
#[derive(Clone, Debug)]
pub enum ProbeEvent {
    /// A device, at the endpoint that was dialed.
    Found(DeviceReport),
    /// A host that answered and that no driver identified.
    Host(HostReport),
    /// A note for the operator.
    Note(String),
    /// How many addresses of the order are finished.
    Progress(u64),
}

/// The result of an order.
#[derive(Clone, Debug)]
pub struct ProbeSummary {
    /// One outcome per address, in the order of [`ProbeOrder::addresses`].
    pub outcomes: Vec<TargetOutcome>,
    /// What was left out at addresses that have an outcome.
    pub gaps: Gaps,
}
