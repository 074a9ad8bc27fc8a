//! Makes the kernel resolve hosts, in windows that fit its neighbor table, and reads the results from the table. Pure:
//! requests and views come in as calls.
//!
//! A packet to an unresolved neighbor creates an entry, and the kernel then asks three times, a second apart. By default
//! Linux holds 1,024 entries (`gc_thresh3`) for all programs, and silently drops packets that find no room. Use
//! [`Resolver::next_host`], [`Resolver::requested`] and [`Resolver::apply_view`].

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use fleet_core::Mac;

use super::table::{State, View};

/// Requests for a host that found no room.
const TRIES: u8 = 4;

/// Consecutive views without an entry after which the entry is gone.
const MISSED: u8 = 2;

/// The smallest window after overflows.
const MIN_WINDOW: usize = 16;

/// How long other programs may keep the table full before the remaining hosts are given up.
const STUCK_LIMIT: Duration = Duration::from_secs(30);

/// The outcome of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolution {
    /// It answered from this hardware address.
    Answered(Mac),
    /// The kernel has no entry although there was room. A connection has to find out.
    Unknown,
    /// The kernel got no answer.
    Silent,
    /// There was never room to ask.
    NoRoom,
}

#[derive(Debug)]
pub(super) struct Resolver {
    /// In the order of requests, with the tries so far.
    waiting: VecDeque<(u32, u8)>,
    requests: BTreeMap<u32, Request>,
    /// The most unresolved entries of all programs together.
    window: usize,
    /// The most entries in use. The rest stays free for other programs.
    most: usize,
    /// Requests allowed before the next view.
    permits: usize,
    /// The overflow count of the last view.
    fulls: Option<u64>,
    /// Since when no request was possible.
    stuck_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    tries: u8,
    /// An entry was seen in some view, and in the current one.
    seen: bool,
    seen_now: bool,
    /// Consecutive views without an entry. A dump is not atomic and can miss one.
    missed: u8,
    /// The system reported at once that there was no room.
    refused: bool,
}

/// The result of a view.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) resolutions: Vec<(u32, Resolution)>,
    /// The table overflowed since the last view: the new window.
    pub(super) overflow: Option<usize>,
}

impl Resolver {
    /// Plans for a table of `limit` entries: at most half of it is unresolved, and an eighth stays free.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            requests: BTreeMap::new(),
            window: (limit / 2).max(MIN_WINDOW),
            most: (limit / 8 * 7).max(MIN_WINDOW),
            permits: 0,
            fulls: None,
            stuck_since: None,
        }
    }

    /// Adds a host.
    pub(super) fn add(&mut self, host: u32) {
        self.waiting.push_back((host, 0));
    }

    /// Returns whether every host has an outcome.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.requests.is_empty()
    }

    /// The host to request now, if any and if there is room. Call [`Resolver::requested`] or [`Resolver::skip`] next.
    pub(super) fn next_host(&self) -> Option<u32> {
        let (host, _) = self.waiting.front()?;
        (self.permits > 0).then_some(*host)
    }

    /// Reports that the next host was requested; `refused` if the system reported a full table.
    pub(super) fn requested(&mut self, refused: bool) {
        if let Some((host, tries)) = self.waiting.pop_front() {
            let request = Request {
                tries: tries + 1,
                seen: false,
                seen_now: false,
                missed: 0,
                refused,
            };
            self.requests.insert(host, request);
        }
        // After a refusal only the next view shows whether there is room.
        self.permits = if refused { 0 } else { self.permits - 1 };
    }

    /// Drops the next host, which cannot be requested.
    pub(super) fn skip(&mut self) {
        self.waiting.pop_front();
    }

    /// Returns every host without an outcome, because the table cannot be read any more.
    pub(super) fn give_up(&mut self) -> Vec<u32> {
        let waiting = self.waiting.drain(..).map(|(host, _)| host);
        let requested = std::mem::take(&mut self.requests).into_keys();
        waiting.chain(requested).collect()
    }

    /// Processes a view of the table; `host_of` maps addresses to hosts of this scan.
    pub(super) fn apply_view(
        &mut self,
        view: &View,
        host_of: impl Fn(IpAddr) -> Option<u32>,
        now: Instant,
    ) -> Update {
        // The counter runs since the system started, so the first view only gives its starting
        // value.
        let overflow = self.fulls.is_some_and(|before| view.fulls > before)
            || self.requests.values().any(|request| request.refused);
        self.fulls = Some(view.fulls);
        if overflow {
            self.window = (self.window / 2).max(MIN_WINDOW);
        }
        let mut update = Update {
            resolutions: self.answers(view, host_of),
            overflow: overflow.then_some(self.window),
        };
        self.retry_hosts_without_an_entry(overflow, &mut update.resolutions);
        let unresolved = self.window.saturating_sub(view.unresolved());
        self.permits = unresolved.min(self.most.saturating_sub(view.occupied()));
        self.give_up_if_stuck(now, &mut update.resolutions);
        update
    }

    fn answers(
        &mut self,
        view: &View,
        host_of: impl Fn(IpAddr) -> Option<u32>,
    ) -> Vec<(u32, Resolution)> {
        let mut resolutions = Vec::new();
        for entry in &view.entries {
            let Some(host) = host_of(entry.ip) else {
                continue;
            };
            let Some(request) = self.requests.get_mut(&host) else {
                continue;
            };
            (request.seen, request.seen_now) = (true, true);
            let resolution = match (entry.state, entry.mac) {
                (State::Unresolved, _) => continue,
                (State::Answered, Some(mac)) => Resolution::Answered(mac),
                (State::Failed, _) => Resolution::Silent,
                // A configured entry proves nothing about the host.
                (State::Answered | State::Fixed, _) => Resolution::Unknown,
            };
            self.requests.remove(&host);
            resolutions.push((host, resolution));
        }
        resolutions
    }

    /// The kernel removes an entry only if its host did not answer. A host that never had an entry found no room, or is not
    /// on the link.
    fn retry_hosts_without_an_entry(
        &mut self,
        overflow: bool,
        resolutions: &mut Vec<(u32, Resolution)>,
    ) {
        let mut missing = Vec::new();
        for (host, request) in &mut self.requests {
            if std::mem::take(&mut request.seen_now) {
                request.missed = 0;
                continue;
            }
            request.missed += 1;
            // After an overflow one view is enough: the packet is lost, and no entry will come.
            let found_no_room = overflow && !request.seen;
            if found_no_room || request.missed >= MISSED {
                missing.push(*host);
            }
        }
        for host in missing {
            let Some(request) = self.requests.remove(&host) else {
                continue;
            };
            if request.seen {
                resolutions.push((host, Resolution::Silent));
            } else if !overflow {
                resolutions.push((host, Resolution::Unknown));
            } else if request.tries < TRIES {
                self.waiting.push_back((host, request.tries));
            } else {
                resolutions.push((host, Resolution::NoRoom));
            }
        }
    }

    fn give_up_if_stuck(&mut self, now: Instant, resolutions: &mut Vec<(u32, Resolution)>) {
        let stuck = self.permits == 0 && self.requests.is_empty() && !self.waiting.is_empty();
        if !stuck {
            self.stuck_since = None;
        } else if now.duration_since(*self.stuck_since.get_or_insert(now)) >= STUCK_LIMIT {
            let rest = self.waiting.drain(..);
            resolutions.extend(rest.map(|(host, _)| (host, Resolution::NoRoom)));
        }
    }
}

#[cfg(test)]
mod tests;
