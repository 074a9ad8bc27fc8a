//! Which host is asked for by ARP when, and what silence means. Pure; time is an argument.
//!
//! Requests of our own leave the kernel's neighbor table alone, so that a network of any size is asked at the rate
//! of the scan.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::timing::Timeouts;

/// Requests to a silent host, as many as the kernel would make (`mcast_solicit`).
const TRIES: u8 = 3;

/// All hosts share their round trips: they share a link.
const LINK: usize = 0;

#[derive(Debug)]
pub(super) struct Ask {
    fresh: VecDeque<u32>,
    again: VecDeque<(u32, u8)>,
    /// In the order of time; of those that answered meanwhile too.
    sent: VecDeque<(Instant, u32, u8)>,
    /// Not answered and not given up, with the time of the latest request.
    open: BTreeMap<u32, Option<Instant>>,
    timeouts: Timeouts,
}

impl Ask {
    /// No wait for an answer will be out of `floor..=ceiling`.
    pub(super) fn new(hosts: VecDeque<u32>, floor: Duration, ceiling: Duration) -> Self {
        Self {
            open: hosts.iter().map(|host| (*host, None)).collect(),
            fresh: hosts,
            again: VecDeque::new(),
            sent: VecDeque::new(),
            timeouts: Timeouts::new(floor, ceiling, 1),
        }
    }

    /// One more host to ask for.
    pub(super) fn add(&mut self, host: u32) {
        self.fresh.push_back(host);
        self.open.insert(host, None);
    }

    /// Whether every host answered or was given up.
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// The host to ask for now, if there is one; [`Ask::asked`] or [`Ask::skip`] is next.
    pub(super) fn want(&mut self) -> Option<u32> {
        while let Some((host, _)) = self.again.front() {
            if self.open.contains_key(host) {
                return Some(*host);
            }
            self.again.pop_front();
        }
        self.fresh.front().copied()
    }

    /// The wanted host was asked for.
    pub(super) fn asked(&mut self, now: Instant) {
        let fresh = || Some((self.fresh.pop_front()?, 0));
        if let Some((host, tries)) = self.again.pop_front().or_else(fresh) {
            self.sent.push_back((now, host, tries + 1));
            self.open.entry(host).and_modify(|sent| *sent = Some(now));
        }
    }

    /// The wanted host is not asked for.
    pub(super) fn skip(&mut self) {
        let again = self.again.pop_front().map(|(host, _)| host);
        if let Some(host) = again.or_else(|| self.fresh.pop_front()) {
            self.open.remove(&host);
        }
    }

    /// A host answered; whether it was the first time.
    pub(super) fn answered(&mut self, host: u32, now: Instant) -> bool {
        let Some(sent) = self.open.remove(&host) else {
            return false;
        };
        // The latest request may not be the one that is answered: too short a round trip only of hosts that were
        // silent once, which are few.
        if let Some(sent) = sent {
            let round_trip = now.saturating_duration_since(sent);
            self.timeouts.answered(LINK, round_trip);
        }
        true
    }

    /// A host that stayed silent to the last request. To be called until there is none.
    pub(super) fn expire(&mut self, now: Instant) -> Option<u32> {
        while let Some((sent, host, tries)) = self.sent.front().copied() {
            if now < sent + self.timeouts.of(LINK) {
                return None;
            }
            self.sent.pop_front();
            if !self.open.contains_key(&host) {
                continue;
            }
            if tries >= TRIES {
                self.open.remove(&host);
                return Some(host);
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

    /// Runs a sweep, one request a millisecond, until all is known: when which host was asked for, who answered,
    /// who was given up, and how long it took. `answers` says after which wait a host answers which try.
    fn run(hosts: u32, answers: impl Fn(u32, u8) -> Option<Duration>) -> Ran {
        let start = Instant::now();
        let mut ran = Ran::default();
        let mut ask = Ask::new((0..hosts).collect(), FLOOR, CEILING);
        let mut coming: Vec<(Instant, u32)> = Vec::new();
        let mut now = start;
        while !ask.is_done() {
            assert!(now < start + Duration::from_secs(60), "it does not end");
            let (due, later) = coming.into_iter().partition(|(at, _)| *at <= now);
            coming = later;
            for (_, host) in Vec::from_iter::<Vec<_>>(due) {
                if ask.answered(host, now) {
                    ran.answered.insert(host);
                }
            }
            ran.silent.extend(std::iter::from_fn(|| ask.expire(now)));
            if let Some(host) = ask.want() {
                ask.asked(now);
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
    fn who_answers_is_asked_for_once_and_who_does_not_three_times() {
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
    fn who_is_skipped_is_not_asked_for() {
        let mut ask = Ask::new([7, 8].into(), FLOOR, CEILING);
        assert_eq!(ask.want(), Some(7));
        ask.skip();
        assert_eq!(ask.want(), Some(8));
        ask.skip();
        assert_eq!(ask.want(), None);
        assert!(ask.is_done());
    }

    #[test]
    fn a_host_may_come_later() {
        let mut ask = Ask::new(VecDeque::new(), FLOOR, CEILING);
        assert!(ask.is_done());
        ask.add(7);
        assert_eq!(ask.want(), Some(7));
        ask.asked(Instant::now());
        assert!(!ask.is_done() && ask.answered(7, Instant::now()));
        assert!(ask.is_done());
    }

    #[test]
    fn loss_costs_a_try_and_not_a_host() {
        let ran = run(50, |host, tries| {
            (tries > (host % 3) as u8).then_some(MILLISECOND)
        });
        assert_eq!(ran.answered.len(), 50);
    }

    #[test]
    fn a_link_without_answers_is_given_the_longest_wait() {
        let ran = run(4, |_, _| None);
        assert_eq!(ran.silent.len(), 4);
        assert!(ran.took >= CEILING * 3, "{:?}", ran.took);
        assert!(run(0, |_, _| None).took.is_zero());
    }

    #[test]
    fn a_late_answer_counts_while_its_host_is_asked_for_again() {
        let late = Duration::from_millis(130);
        let ran = run(40, |host, _| {
            Some(if host < 30 { MILLISECOND } else { late })
        });
        assert_eq!(ran.answered.len(), 40);
    }
}
