//! Decides whether silence on a path may be claimed. Pure; time is an argument.
//!
//! A path is an interface, and for hosts behind a router also that router. Silence counts only if the link was up since
//! the last packet to the host, and if something on the path has answered since then. Where nothing has, the router is
//! asked as a canary, and the silence is held until it answers or not.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// Requests to a canary before it counts as silent.
const TRIES: u8 = 3;

/// How long a canary may take for an answer.
const WAIT: Duration = Duration::from_millis(300);

/// How long the kernel may take to verify a router that answers nothing but ARP. It trusts an entry for up to 45 s, waits
/// 5 s more, and then asks three times in 3 s.
const VERIFY: Duration = Duration::from_secs(55);

/// The interval of requests while the kernel verifies a router.
const VERIFY_INTERVAL: Duration = Duration::from_secs(1);

/// The state of an interface in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// The interface is up and has a carrier.
    pub(super) is_up: bool,
    /// How often the carrier has changed.
    pub(super) changes: u32,
}

/// What silence on a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// The host is silent.
    Claimed,
    /// Nothing on the path has answered since. The canary decides.
    Held,
    /// The link was down.
    LinkDown,
}

/// The next action of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Canary {
    /// Ask the router now.
    Ask,
    /// Wait until then.
    Wait(Instant),
    /// It does not answer.
    Silent,
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) interface: u32,
    /// The router of the path, or a router on the link of its hosts. Without one, an answer cannot be expected of
    /// anything, and silence is claimed.
    pub(super) router: Option<IpAddr>,
    link: Option<Link>,
    last_down: Option<Instant>,
    last_answer: Option<Instant>,
    asked: Option<Asked>,
}

/// Requests to the canary since its last answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    first: Instant,
    last: Instant,
    tries: u8,
}

impl Path {
    pub(super) fn new(interface: u32, router: Option<IpAddr>) -> Self {
        Self {
            interface,
            router,
            link: None,
            last_down: None,
            last_answer: None,
            asked: None,
        }
    }

    /// Takes a view of all interfaces. An interface that is missing is down.
    pub(super) fn observe(&mut self, links: &[Link], now: Instant) {
        let link = links.iter().find(|link| link.index == self.interface);
        // A carrier can be lost and return between two reads. Only the counter shows it.
        let flapped = self.link.as_ref().zip(link);
        let flapped = flapped.is_some_and(|(before, link)| before.changes != link.changes);
        if flapped || link.is_none_or(|link| !link.is_up) {
            self.last_down = Some(now);
        }
        if let Some(link) = link {
            self.link = Some(link.clone());
        }
    }

    /// The interface for people.
    pub(super) fn name(&self) -> String {
        let name = self.link.as_ref().map(|link| link.name.clone());
        name.unwrap_or_else(|| format!("interface {}", self.interface))
    }

    /// Something on the path answered at this time. An answer that is not news changes nothing.
    pub(super) fn answered(&mut self, at: Instant) {
        if self.last_answer.is_some_and(|last| at <= last) {
            return;
        }
        self.last_answer = Some(at);
        // An older answer does not answer the requests since.
        if self.asked.is_some_and(|asked| asked.first <= at) {
            self.asked = None;
        }
    }

    /// Judges the silence of a host since the last packet to it.
    pub(super) fn judge(&self, sent: Instant) -> Silence {
        // `None` is less than any time, so a link that was never down passes.
        if self.last_down >= Some(sent) {
            Silence::LinkDown
        } else if self.router.is_none() || self.last_answer >= Some(sent) {
            Silence::Claimed
        } else {
            Silence::Held
        }
    }

    /// Decides what to do for the silence that is held. A router that the kernel may still verify is asked for longer.
    pub(super) fn canary(&mut self, now: Instant, unverified: bool) -> Canary {
        let Some(Asked { first, last, tries }) = self.asked else {
            return Canary::Ask;
        };
        let interval = if tries <= TRIES {
            WAIT
        } else {
            VERIFY_INTERVAL
        };
        if now < last + interval {
            Canary::Wait(last + interval)
        } else if tries < TRIES || (unverified && now < first + VERIFY) {
            Canary::Ask
        } else {
            // The router may recover, so the next silence asks it again.
            self.asked = None;
            Canary::Silent
        }
    }

    /// Reports that the canary was asked.
    pub(super) fn asked(&mut self, now: Instant) {
        let (first, tries) = self
            .asked
            .map_or((now, 0), |asked| (asked.first, asked.tries));
        self.asked = Some(Asked {
            first,
            last: now,
            tries: tries.saturating_add(1),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn link(is_up: bool, changes: u32) -> Link {
        Link {
            index: 2,
            name: "eth0".to_owned(),
            is_up,
            changes,
        }
    }

    fn path(router: bool) -> Path {
        Path::new(2, router.then(|| [10, 0, 0, 1].into()))
    }

    #[test]
    fn silence_is_not_claimed_if_the_link_was_down_after_the_packet() {
        let start = Instant::now();
        for (views, expected) in [
            (vec![link(true, 1)], Silence::Claimed),
            (vec![link(false, 2)], Silence::LinkDown),
            (vec![], Silence::LinkDown),
            (vec![link(true, 3)], Silence::LinkDown),
        ] {
            let mut path = path(false);
            path.observe(&[link(true, 1)], start);
            path.observe(&views, start + SECOND);
            assert_eq!(path.judge(start), expected, "{views:?}");
            let views = views.into_iter().map(|link| Link {
                is_up: true,
                ..link
            });
            path.observe(&views.collect::<Vec<_>>(), start + SECOND);
            let later = path.judge(start + SECOND * 2);
            assert_eq!(later, Silence::Claimed, "packets after the failure count");
        }
    }

    #[test]
    fn behind_a_router_silence_needs_a_later_answer() {
        let start = Instant::now();
        let mut path = path(true);
        path.observe(&[link(true, 1)], start);
        assert_eq!(path.judge(start), Silence::Held);
        path.answered(start + SECOND);
        assert_eq!(path.judge(start), Silence::Claimed);
        assert_eq!(path.judge(start + SECOND * 2), Silence::Held);
    }

    #[test]
    fn a_canary_is_asked_three_times() {
        let mut now = Instant::now();
        let mut path = path(true);
        for _ in 0..TRIES {
            assert_eq!(path.canary(now, false), Canary::Ask);
            path.asked(now);
            assert_eq!(path.canary(now, false), Canary::Wait(now + WAIT));
            now += WAIT;
        }
        assert_eq!(path.canary(now, false), Canary::Silent);
        assert_eq!(
            path.canary(now, false),
            Canary::Ask,
            "the next silence asks again"
        );
    }

    #[test]
    fn a_router_that_the_kernel_may_verify_is_asked_for_longer_but_not_for_ever() {
        let start = Instant::now();
        let (mut now, mut requests) = (start, 0);
        let mut path = path(true);
        loop {
            match path.canary(now, true) {
                Canary::Ask => {
                    requests += 1;
                    path.asked(now);
                }
                Canary::Wait(until) => now = until,
                Canary::Silent => break,
            }
        }
        let took = now - start;
        assert!(
            took >= VERIFY && took <= VERIFY + VERIFY_INTERVAL,
            "{took:?}"
        );
        assert!((50..=60).contains(&requests), "{requests} requests");
    }

    #[test]
    fn an_old_answer_neither_verifies_a_path_nor_ends_the_requests() {
        let start = Instant::now();
        let sent = start + SECOND;
        let mut path = path(true);
        path.asked(sent);
        path.answered(start);
        assert_eq!(path.judge(sent), Silence::Held);
        assert_eq!(path.canary(sent, false), Canary::Wait(sent + WAIT));
        path.answered(sent);
        path.answered(start);
        assert_eq!(path.judge(sent), Silence::Claimed);
    }
}
