//! Hosts of which something must be heard before anything is tried there. Pure.

use std::collections::BTreeSet;

use super::sweep::Absence;

#[derive(Debug)]
pub(super) struct Awaited {
    hosts: BTreeSet<u32>,
    /// Nothing more will be heard: what that means for the rest.
    over: Option<Absence>,
}

impl Awaited {
    /// Of hosts `0..hosts`.
    pub(super) fn new(hosts: u32) -> Self {
        Self {
            hosts: (0..hosts).collect(),
            over: None,
        }
    }

    /// A host was heard; whether it was the first time, and in time.
    pub(super) fn hear(&mut self, host: u32) -> bool {
        self.over.is_none() && self.hosts.remove(&host)
    }

    /// Nothing more will be heard. Whether that is news.
    pub(super) fn end(&mut self, absence: Absence) -> bool {
        let is_news = self.over.is_none();
        self.over.get_or_insert(absence);
        is_news
    }

    /// A host that was not heard in time, each once.
    pub(super) fn next_absent(&mut self) -> Option<(u32, Absence)> {
        let absence = self.over?;
        Some((self.hosts.pop_first()?, absence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_heard_once_or_absent_once() {
        let mut awaited = Awaited::new(4);
        assert!(awaited.hear(2) && !awaited.hear(2) && !awaited.hear(4));
        assert_eq!(
            awaited.next_absent(),
            None,
            "who was not heard may still be"
        );
        assert!(awaited.hear(0));
        assert!(awaited.end(Absence::Silent));
        assert!(!awaited.end(Absence::Unheard), "the first word counts");
        assert!(!awaited.hear(1), "too late");
        let absent: Vec<_> = std::iter::from_fn(|| awaited.next_absent()).collect();
        assert_eq!(absent, [(1, Absence::Silent), (3, Absence::Silent)]);
    }
}
