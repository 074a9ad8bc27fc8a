//! Events that wait for the names of their hosts. The wait is short, and ends for good if no name server answers.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use fleet_core::NamedBy;
use tokio::task::JoinSet;

use crate::{
    guard::Guard,
    job::ScanEvent,
    names::{Resolver, host::HostNames},
};

/// Lookups at a time. The events beyond have no names, because a slow name server must not hold up a scan.
const WAITING: usize = 256;

/// Queries without an answer, one after the other, after which the name servers are asked no more.
const FAILURES: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Naming {
    /// None if names are not looked up.
    names: Option<HostNames>,
    lookups: JoinSet<(u64, Option<NamedBy>, bool)>,
    waiting: BTreeMap<u64, (u32, ScanEvent)>,
    events: u64,
    failures: u32,
}

impl Naming {
    /// Without a resolver, no event waits.
    pub(super) fn new(resolver: Option<Arc<dyn Resolver>>, guard: &Guard) -> Self {
        Self {
            names: resolver.map(|resolver| HostNames::new(resolver, guard.clone())),
            ..Self::default()
        }
    }

    /// Starts the lookup for an event, which waits. Returns the event if there is none to start.
    pub(super) fn begin(
        &mut self,
        host: u32,
        ip: Option<IpAddr>,
        event: ScanEvent,
    ) -> Option<ScanEvent> {
        let (Some(names), Some(ip)) = (&self.names, ip) else {
            return Some(event);
        };
        if self.waiting.len() >= WAITING {
            return Some(event);
        }
        let servers = !self.is_given_up();
        let (id, names) = (self.events, names.clone());
        self.events += 1;
        self.waiting.insert(id, (host, event));
        self.lookups.spawn(async move {
            let (name, answered) = names.of(ip, servers).await;
            (id, name, answered)
        });
        None
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lookups.is_empty()
    }

    /// Whether an event of the host waits.
    pub(super) fn has(&self, host: u32) -> bool {
        self.waiting.values().any(|(other, _)| *other == host)
    }

    /// Waits for the next event that has its name, or has none. None if a lookup panicked; its event waits until
    /// [`Self::end`]. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(u32, ScanEvent)> {
        let (id, name, answered) = self.lookups.join_next().await?.ok()?;
        // Once given up, no more queries are sent that could be answered.
        if !self.is_given_up() {
            self.failures = if answered { 0 } else { self.failures + 1 };
        }
        let (host, mut event) = self.waiting.remove(&id)?;
        match &mut event {
            ScanEvent::Found(device) => device.facts.host_name = name,
            ScanEvent::Unidentified(host) => host.name = name,
            ScanEvent::Progress(_) | ScanEvent::Note(_) | ScanEvent::Ended(_) => {}
        }
        Some((host, event))
    }

    /// Whether the name servers are asked no more.
    pub(super) fn is_given_up(&self) -> bool {
        self.failures >= FAILURES
    }

    /// Ends all lookups and returns the events that still wait, in order. Later events wait no more.
    pub(super) async fn end(&mut self) -> Vec<(u32, ScanEvent)> {
        self.names = None;
        self.lookups.shutdown().await;
        std::mem::take(&mut self.waiting).into_values().collect()
    }
}
