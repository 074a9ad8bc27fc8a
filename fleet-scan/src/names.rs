//! Host names: looked up once, before a scan, and pinned to what they resolved to then, so that nobody can change a
//! name between its check and its dial. What may be pinned is fleet-discovery's word. Start with [`pin_names`]; DNS is
//! [`DnsResolver`].

mod dns;

use std::{fmt, net::IpAddr};

pub use dns::DnsResolver;
use fleet_core::{AddressPolicy, limits::NAME_TIMEOUT};
use fleet_discovery::{HostName, pinnable};
use futures::{StreamExt, stream};
use tokio::time::timeout;

use crate::BoxFuture;

/// Lookups at a time: the names of the largest command take under three minutes when no server answers.
const LOOKUPS: usize = 64;

/// Says what a name resolves to. It is asked once a name and scan.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// Every address of a name, IPv4 and IPv6, as it is answered: what may be dialed is judged by whoever asks.
    /// Waiting is bounded by whoever asks, who drops the future then.
    fn lookup<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>>;
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name servers know no address of it.
    #[error("it resolves to no address")]
    NoAddress,
    /// The name servers could not be asked, or did not answer.
    #[error("it could not be looked up: {0}")]
    Failed(String),
}

/// A name and what it is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedName {
    /// The name.
    pub name: HostName,
    /// One to eight addresses that may be scanned, canonical, each once; or why the name is left out.
    pub addresses: Result<Vec<IpAddr>, String>,
    /// Whether the lookup itself failed, for example because no name server answered: then the name may have addresses.
    pub lookup_failed: bool,
}

/// Looks names up, each once, within five seconds, 64 at a time; answers in the order of the names. A name with an
/// address that may not be scanned is left out as a whole, see [`pinnable`].
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
