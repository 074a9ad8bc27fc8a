//! What every handler of a server shares: storage, clocks, bells, who is connected, limits.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use fleet_core::{AddressPolicy, ReplicaId};
use fleet_discovery::PlanPolicy;
use fleet_store::Store;
use fleet_wire::RpcError;
use ipnetwork::IpNetwork;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    audit::Refusals,
    bells::Bells,
    direct::{DirectPath, Lanes},
    dispatch::Work,
    environment::Environment,
    hub::Hub,
    limiter::Limiter,
    passwords::Passwords,
};

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Which addresses may be scanned and reported.
    pub addresses: AddressPolicy,
    /// Whether host names are sent to nodes that cannot pin what they resolve to.
    pub unpinned_names: bool,
    /// Limits of calls that need no credential; none switches them off.
    pub rates: Option<Rates>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNetwork>,
    /// Whether browsers reach this server by https, whatever the last hop speaks.
    pub public_https: bool,
    /// Said by `WhoAmI` and to nodes.
    pub version: String,
    /// How long nodes are given to come back after a drain.
    pub drain_window: Duration,
    /// How the server reaches devices itself; none switches that off.
    pub direct: Option<DirectPath>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            addresses: AddressPolicy::default(),
            unpinned_names: false,
            rates: Some(Rates::default()),
            trusted_proxies: Vec::new(),
            public_https: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            drain_window: Duration::from_secs(10),
            direct: None,
        }
    }
}

/// Calls a minute.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// `Register`, by address.
    pub register: NonZeroU32,
    /// Handshake calls, by address.
    pub handshakes: NonZeroU32,
    /// Handshake calls, by API key.
    pub handshakes_of_a_key: NonZeroU32,
    /// Sign-ins of browsers, by address.
    pub sign_ins: NonZeroU32,
    /// Passwords tried for one account: by each address from which its owner has signed in before, and by all
    /// other addresses together. So a stranger who guesses cannot lock the owner out, and many strangers
    /// guess no faster than one.
    pub passwords_of_an_account: NonZeroU32,
}

impl Default for Rates {
    fn default() -> Self {
        let per_minute = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            register: per_minute(10),
            handshakes: per_minute(600),
            handshakes_of_a_key: per_minute(30),
            sign_ins: per_minute(30),
            passwords_of_an_account: per_minute(10),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Limiters {
    pub(crate) register: Limiter,
    pub(crate) handshakes: Limiter,
    pub(crate) handshakes_of_a_key: Limiter,
    pub(crate) sign_ins: Limiter,
    pub(crate) passwords_of_an_account: Limiter,
}

impl Limiters {
    fn new(rates: Rates) -> Self {
        Self {
            register: Limiter::per_minute(rates.register),
            handshakes: Limiter::per_minute(rates.handshakes),
            handshakes_of_a_key: Limiter::per_minute(rates.handshakes_of_a_key),
            sign_ins: Limiter::per_minute(rates.sign_ins),
            passwords_of_an_account: Limiter::per_minute(rates.passwords_of_an_account),
        }
    }
}

/// What every handler of a server shares.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) replica: ReplicaId,
    pub(crate) hub: Hub,
    pub(crate) work: Arc<Work>,
    pub(crate) bells: Bells,
    pub(crate) direct: Lanes,
    pub(crate) limiters: Option<Limiters>,
    /// Which refusals of this minute are on record, so that nobody can flood the trail.
    pub(crate) refusals: Refusals,
    pub(crate) passwords: Passwords,
    /// Fires when the server begins to go down: watches end, nodes are told.
    pub(crate) drain: CancellationToken,
    /// Streams, and actions that are carried through though their caller has hung up; a drain waits for them.
    pub(crate) tasks: TaskTracker,
}

impl App {
    pub(crate) fn new(
        config: ServerConfig,
        store: Arc<dyn Store>,
        environment: Arc<dyn Environment>,
    ) -> Arc<Self> {
        let limiters = config.rates.map(Limiters::new);
        let work = Arc::new(Work::new());
        Arc::new(Self {
            replica: ReplicaId(environment.random()),
            hub: Hub::new(environment.clone(), work.clone(), config.version.clone()),
            work,
            bells: Bells::new(),
            direct: Lanes::default(),
            limiters,
            refusals: Refusals::new(),
            passwords: Passwords::new(),
            drain: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
            store,
            environment,
        })
    }

    /// Runs what must not stop halfway when the caller hangs up: what the store has done, the hub is told.
    ///
    /// # Errors
    ///
    /// Those of `action`; INTERNAL when it panicked.
    pub(crate) async fn carry_through<T: Send + 'static>(
        &self,
        action: impl Future<Output = Result<T, RpcError>> + Send + 'static,
    ) -> Result<T, RpcError> {
        self.tasks
            .spawn(action)
            .await
            .map_err(|_| RpcError::internal("internal error"))?
    }

    /// What plans are judged by.
    pub(crate) fn plan_policy(&self) -> PlanPolicy {
        PlanPolicy {
            addresses: self.config.addresses,
            unpinned_names: self.config.unpinned_names,
        }
    }
}
