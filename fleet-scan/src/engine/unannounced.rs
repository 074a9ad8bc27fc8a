//! Hosts that are tried only after they announced a service. Pure.

use std::collections::BTreeSet;

use super::sweep::Absence;

#[derive(Debug)]
pub(super) struct Unannounced {
    hosts: BTreeSet<u32>,
    /// Set when listening has ended: the outcome of the remaining hosts.
    ended: Option<Absence>,
}

impl Unannounced {
    /// Covers the hosts `0..hosts`.
    pub(super) fn new(hosts: u32) -> Self {
        Self {
            hosts: (0..hosts).collect(),
            ended: None,
        }
    }

    /// Records an announcement. Returns whether it is the host's first, and in time.
    pub(super) fn announce(&mut self, host: u32) -> bool {
        self.ended.is_none() && self.hosts.remove(&host)
    }

    /// Ends listening; the first call counts. Returns whether this was the first.
    pub(super) fn end(&mut self, absence: Absence) -> bool {
        let is_first = self.ended.is_none();
        self.ended.get_or_insert(absence);
        is_first
    }

    /// Returns the next host that did not announce itself in time, each once.
    pub(super) fn next_absent(&mut self) -> Option<(u32, Absence)> {
        let absence = self.ended?;
        Some((self.hosts.pop_first()?, absence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_announced_once_or_absent_once() {
        let mut hosts = Unannounced::new(4);
        assert!(hosts.announce(2) && !hosts.announce(2) && !hosts.announce(4));
        assert_eq!(hosts.next_absent(), None, "listening has not ended");
        assert!(hosts.announce(0));
        assert!(hosts.end(Absence::Silent));
        assert!(!hosts.end(Absence::ListenFailed), "the first call counts");
        assert!(!hosts.announce(1), "too late");
        let absent: Vec<_> = std::iter::from_fn(|| hosts.next_absent()).collect();
        assert_eq!(absent, [(1, Absence::Silent), (3, Absence::Silent)]);
    }
}
