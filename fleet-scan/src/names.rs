//! Host names. Each is looked up once, before a scan, and pinned to its addresses. A name therefore cannot change between
//! its check and its dial. fleet-discovery decides which addresses can be pinned. Start with [`pin_names`];
//! [`DnsResolver`] uses DNS.

mod dns;
pub(crate) mod host;
mod multicast;

use std::{fmt, net::IpAddr};

pub use dns::DnsResolver;
use fleet_core::{AddressPolicy, NamedBy, limits::NAME_TIMEOUT};
use fleet_discovery::{HostName, pinnable};
use futures::{StreamExt, stream};
pub use multicast::MulticastResolver;
use tokio::time::timeout;

use crate::BoxFuture;

/// Simultaneous lookups. If no server answers, the names of the largest command take under three minutes.
const LOOKUPS: usize = 64;

/// Resolves host names. A scan resolves each name once.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// Returns every address of a name, IPv4 and IPv6, unfiltered. The caller decides which may be dialed, and drops the
    /// future after a time limit.
    fn lookup<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>>;

    /// Returns the name of an address by the site's name servers, or none. The caller bounds the time.
    fn reverse<'a>(&'a self, ip: IpAddr) -> BoxFuture<'a, Option<NamedBy>> {
        let _ = ip;
        Box::pin(async { None })
    }

    /// The addresses that the administrator of this machine listed for a name, which go before every lookup.
    fn listed(&self, _name: &HostName) -> Option<Vec<IpAddr>> {
        None
    }
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name servers know no address for it.
    #[error("it resolves to no address")]
    NoAddress,
    /// No host on the node's links has the name.
    #[error("no host on the local subnets answers to it by multicast DNS")]
    Unclaimed,
    /// The name servers could not be queried or did not answer.
    #[error("it could not be looked up: {0}")]
    Failed(String),
}

/// A name and its pinned addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedName {
    /// The name.
    pub name: HostName,
    /// One to eight distinct canonical addresses that may be scanned, or why the name is left out.
    pub addresses: Result<Vec<IpAddr>, String>,
    /// Whether the lookup itself failed, for example because no name server answered: then the name may have addresses.
    pub lookup_failed: bool,
}

/// Looks up names, each once, for at most five seconds, 64 at a time. Returns them in order. A name with an address that
/// may not be scanned is left out as a whole, see [`pinnable`].
///
/// Cancel-safe: dropping the future drops the lookups.
pub async fn pin_names(
    resolver: &dyn Resolver,
    names: Vec<HostName>,
    policy: AddressPolicy,
) -> Vec<PinnedName> {
    let lookups = names.into_iter().map(|name| async move {
        let seconds = NAME_TIMEOUT.as_secs();
        let answer = timeout(NAME_TIMEOUT, resolver.lookup(&name)).await;
        let lookup_failed = matches!(&answer, Ok(Err(LookupError::Failed(_))) | Err(_));
        let addresses = match answer {
            Ok(Ok(addresses)) => pinnable(&addresses, policy),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no name server answered within {seconds} seconds")),
        };
        PinnedName {
            name,
            addresses,
            lookup_failed,
        }
    });
    stream::iter(lookups).buffered(LOOKUPS).collect().await
}
