//! The order of announcements: an operator who presses one button after the other sees the devices in that order,
//! however long each takes to answer. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The hosts that announced themselves, in order, and the events that wait for earlier hosts.
#[derive(Debug)]
pub(super) struct Order<E> {
    /// The first host is the one whose events are sent at once.
    hosts: VecDeque<u32>,
    announced: BTreeSet<u32>,
    /// Hosts that are present and announced nothing. Their events come last, unless they announce themselves.
    hints: BTreeSet<u32>,
    finished: BTreeSet<u32>,
    held: BTreeMap<u32, Vec<E>>,
}

impl<E> Default for Order<E> {
    fn default() -> Self {
        Self {
            hosts: VecDeque::new(),
            announced: BTreeSet::new(),
            hints: BTreeSet::new(),
            finished: BTreeSet::new(),
            held: BTreeMap::new(),
        }
    }
}

impl<E> Order<E> {
    /// Adds a host behind the others.
    pub(super) fn add(&mut self, host: u32) {
        if self.announced.insert(host) {
            self.hints.remove(&host);
            self.hosts.push_back(host);
        }
    }

    /// Adds a host that announced nothing.
    pub(super) fn hint(&mut self, host: u32) {
        if !self.announced.contains(&host) {
            self.hints.insert(host);
        }
    }

    /// No more hosts announce themselves: the others follow.
    pub(super) fn end_announcements(&mut self) {
        self.hosts.extend(std::mem::take(&mut self.hints));
    }

    /// Records that all ports of a host are settled.
    pub(super) fn finish(&mut self, host: u32) {
        self.finished.insert(host);
    }

    /// Returns the event if it may be sent now. Otherwise it waits.
    pub(super) fn take(&mut self, host: u32, event: E) -> Option<E> {
        let is_behind = self.hosts.iter().skip(1).any(|other| *other == host);
        if is_behind || self.hints.contains(&host) {
            self.held.entry(host).or_default().push(event);
            return None;
        }
        Some(event)
    }

    /// Removes finished hosts from the front, except one that `waits` for a fact. Returns the events that may be sent
    /// now.
    pub(super) fn advance(&mut self, waits: impl Fn(u32) -> bool) -> Vec<E> {
        let mut events = Vec::new();
        while let Some(host) = self.hosts.front() {
            events.extend(self.held.remove(host).unwrap_or_default());
            if !self.finished.contains(host) || waits(*host) {
                break;
            }
            self.hosts.pop_front();
        }
        events
    }

    /// Returns all events that still wait, in order.
    pub(super) fn into_rest(mut self) -> Vec<E> {
        self.end_announcements();
        let hosts = std::mem::take(&mut self.hosts);
        let held = hosts.iter().filter_map(|host| self.held.remove(host));
        held.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(hosts: &[u32]) -> Order<&'static str> {
        let mut order = Order::default();
        hosts.iter().for_each(|host| order.add(*host));
        order
    }

    #[test]
    fn events_follow_the_announcements() {
        let mut order = order(&[7, 3, 9, 3]);
        assert_eq!(order.take(3, "third"), None);
        assert_eq!(order.take(9, "ninth"), None);
        order.finish(3);
        assert!(
            order.advance(|_| false).is_empty(),
            "the first is not finished"
        );
        assert_eq!(order.take(7, "seventh"), Some("seventh"));
        order.finish(7);
        assert!(
            order.advance(|host| host == 7).is_empty(),
            "it waits for its MAC"
        );
        assert_eq!(order.advance(|_| false), ["third", "ninth"]);
        assert_eq!(order.take(9, "more of it"), Some("more of it"));
        assert_eq!(order.take(1, "no announcement"), Some("no announcement"));
    }

    #[test]
    fn a_silent_host_holds_nothing_back_once_it_is_finished() {
        let mut order = order(&[1, 2, 3]);
        assert_eq!(order.take(3, "third"), None);
        order.finish(1);
        order.finish(2);
        assert_eq!(order.advance(|_| false), ["third"]);
    }

    #[test]
    fn a_host_that_is_only_present_comes_last_unless_it_announces_itself() {
        let mut order = order(&[7]);
        for host in [1, 2, 3, 7] {
            order.hint(host);
        }
        for (host, event) in [(1, "first"), (2, "second"), (3, "third")] {
            assert_eq!(order.take(host, event), None);
            order.finish(host);
        }
        order.finish(7);
        assert!(order.advance(|_| false).is_empty());
        // It answered long ago, and its button is pressed now.
        order.add(2);
        assert_eq!(order.advance(|_| false), ["second"]);
        order.add(2);
        order.end_announcements();
        assert_eq!(order.advance(|_| false), ["first", "third"]);
    }

    #[test]
    fn the_rest_keeps_its_order() {
        let mut order = order(&[4, 2, 1]);
        assert_eq!(order.take(1, "first"), None);
        assert_eq!(order.take(2, "second"), None);
        assert_eq!(order.into_rest(), ["second", "first"]);
    }
}
