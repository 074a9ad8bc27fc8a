//! Schedules ARP requests to hosts and decides when a host is silent. Pure; time is an argument.
//!
//! These requests bypass the kernel's neighbor table. Therefore a network of any size is resolved at the rate of the
//! scan.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::timing::Timeouts;

/// Requests to a silent host, as many as the kernel sends (`mcast_solicit`).
const TRIES: u8 = 3;

/// All hosts share their round-trip times, because they share a link.
const LINK: usize = 0;

#[derive(Debug)]
pub(in crate::engine) struct ArpRequests {
    fresh: VecDeque<u32>,
    again: VecDeque<(u32, u8)>,
    /// In the order of time. Hosts that answered in the meantime remain here.
    in_flight: VecDeque<(Instant, u32, u8)>,
    /// Hosts without an outcome, with the time of their latest request.
    open: BTreeMap<u32, Option<Instant>>,
    timeouts: Timeouts,
}

impl ArpRequests {
    /// Covers these hosts. Every wait for an answer is within `floor..=ceiling`.
    pub(in crate::engine) fn new(hosts: VecDeque<u32>, floor: Duration, ceiling: Duration) -> Self {
        Self {
            open: hosts.iter().map(|host| (*host, None)).collect(),
            fresh: hosts,
            again: VecDeque::new(),
            in_flight: VecDeque::new(),
            timeouts: Timeouts::new(floor, ceiling, 1),
        }
    }

    /// Adds a host.
    pub(in crate::engine) fn add(&mut self, host: u32) {
        self.fresh.push_back(host);
        self.open.insert(host, None);
    }

    /// Returns whether every host has an outcome.
    pub(in crate::engine) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// The host to ask now, if any. Call [`ArpRequests::sent`] or [`ArpRequests::skip`] next.
    pub(in crate::engine) fn next_host(&mut self) -> Option<u32> {
        while let Some((host, _)) = self.again.front() {
            if self.open.contains_key(host) {
                return Some(*host);
            }
            self.again.pop_front();
        }
        self.fresh.front().copied()
    }

    /// Reports that the next host was asked.
    pub(in crate::engine) fn sent(&mut self, now: Instant) {
        let fresh = || Some((self.fresh.pop_front()?, 0));
        if let Some((host, tries)) = self.again.pop_front().or_else(fresh) {
            self.in_flight.push_back((now, host, tries + 1));
            self.open.entry(host).and_modify(|sent| *sent = Some(now));
        }
    }

    /// Drops the next host without asking.
    pub(in crate::engine) fn skip(&mut self) {
        let again = self.again.pop_front().map(|(host, _)| host);
        if let Some(host) = again.or_else(|| self.fresh.pop_front()) {
            self.open.remove(&host);
        }
    }

    /// Reports an answer. Returns whether it is the host's first.
    pub(in crate::engine) fn answered(&mut self, host: u32, now: Instant) -> bool {
        let Some(sent) = self.open.remove(&host) else {
            return false;
        };
        // The answer may belong to an earlier request. Only hosts that were silent once are then measured too short, and
        // they are few.
        if let Some(sent) = sent {
            let round_trip = now.saturating_duration_since(sent);
            self.timeouts.answered(LINK, round_trip);
        }
        true
    }

    /// Returns a host that stayed silent, with the time of the last request. Call this until it returns none.
    pub(in crate::engine) fn expire(&mut self, now: Instant) -> Option<(u32, Instant)> {
        while let Some((sent, host, tries)) = self.in_flight.front().copied() {
            if now < sent + self.timeouts.wait(LINK) {
                return None;
            }
            self.in_flight.pop_front();
            if !self.open.contains_key(&host) {
                continue;
            }
            if tries >= TRIES {
                self.open.remove(&host);
                return Some((host, sent));
            }
            self.again.push_back((host, tries));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FLOOR: Duration = Duration::from_millis(100);
    const CEILING: Duration = Duration::from_secs(1);
    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Runs a sweep with one request per millisecond until every host has an outcome. `answers` returns after which wait a
    /// host answers which request.
    fn run(hosts: u32, answers: impl Fn(u32, u8) -> Option<Duration>) -> Ran {
        let start = Instant::now();
        let mut ran = Ran::default();
        let mut requests = ArpRequests::new((0..hosts).collect(), FLOOR, CEILING);
        let mut coming: Vec<(Instant, u32)> = Vec::new();
        let mut now = start;
        while !requests.is_done() {
            assert!(now < start + Duration::from_secs(60), "it does not end");
            let (due, later) = coming.into_iter().partition(|(at, _)| *at <= now);
            coming = later;
            for (_, host) in Vec::from_iter::<Vec<_>>(due) {
                if requests.answered(host, now) {
                    ran.answered.insert(host);
                }
            }
            ran.silent
                .extend(std::iter::from_fn(|| requests.expire(now)).map(|(host, _)| host));
            if let Some(host) = requests.next_host() {
                requests.sent(now);
                let tries = ran.tries.entry(host).or_default();
                *tries += 1;
                coming.extend(answers(host, *tries).map(|wait| (now + wait, host)));
            }
            now += MILLISECOND;
        }
        ran.took = now - start;
        ran
    }

    #[derive(Debug, Default)]
    struct Ran {
        tries: BTreeMap<u32, u8>,
        answered: BTreeSet<u32>,
        silent: BTreeSet<u32>,
        took: Duration,
    }

    #[test]
    fn a_host_is_asked_once_if_it_answers_and_three_times_if_not() {
        let ran = run(100, |host, _| (host % 2 == 0).then_some(MILLISECOND));
        assert_eq!(ran.answered, (0..100).step_by(2).collect());
        assert_eq!(ran.silent, (1..100).step_by(2).collect());
        for (host, tries) in ran.tries {
            assert_eq!(tries, if host % 2 == 0 { 1 } else { 3 }, "host {host}");
        }
        // Three waits of 100 ms, learned from the answers, and 200 requests.
        assert!(ran.took < Duration::from_millis(550), "{:?}", ran.took);
    }

    #[test]
    fn a_skipped_host_is_not_asked() {
        let mut requests = ArpRequests::new([7, 8].into(), FLOOR, CEILING);
        assert_eq!(requests.next_host(), Some(7));
        requests.skip();
        assert_eq!(requests.next_host(), Some(8));
        requests.skip();
        assert_eq!(requests.next_host(), None);
        assert!(requests.is_done());
    }

    #[test]
    fn a_host_can_be_added_later() {
        let mut requests = ArpRequests::new(VecDeque::new(), FLOOR, CEILING);
        assert!(requests.is_done());
        requests.add(7);
        assert_eq!(requests.next_host(), Some(7));
        requests.sent(Instant::now());
        assert!(!requests.is_done() && requests.answered(7, Instant::now()));
        assert!(requests.is_done());
    }

    #[test]
    fn packet_loss_costs_a_request_and_not_a_host() {
        let ran = run(50, |host, tries| {
            (tries > (host % 3) as u8).then_some(MILLISECOND)
        });
        assert_eq!(ran.answered.len(), 50);
    }

    #[test]
    fn a_link_without_answers_gets_the_longest_wait() {
        let ran = run(4, |_, _| None);
        assert_eq!(ran.silent.len(), 4);
        assert!(ran.took >= CEILING * 3, "{:?}", ran.took);
        assert!(run(0, |_, _| None).took.is_zero());
    }

    #[test]
    fn a_late_answer_counts_while_its_host_is_asked_again() {
        let late = Duration::from_millis(130);
        let ran = run(40, |host, _| {
            Some(if host < 30 { MILLISECOND } else { late })
        });
        assert_eq!(ran.answered.len(), 40);
    }
}
