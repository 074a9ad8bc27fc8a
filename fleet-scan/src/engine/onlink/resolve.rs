//! Asks the kernel to resolve hosts, in windows that its neighbor table can hold, and believes what the table says.
//! Pure: what is asked and seen comes in as calls.
//!
//! A packet to a neighbor that is not resolved makes an entry, and the kernel asks for it by its own rules: three
//! times, a second apart. Linux holds 1,024 entries unless told otherwise (`gc_thresh3`), for everybody on the machine,
//! and silently drops what finds no room. [`Resolver::want`], [`Resolver::asked`], [`Resolver::look`].

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use fleet_core::Mac;

use super::table::{State, View};

/// Times that a host is asked for which found no room.
const TRIES: u8 = 4;

/// The smallest window after overflows.
const SMALLEST: usize = 16;

/// How long others may keep the table full before the rest of the hosts is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered, from here.
    There(Mac),
    /// The kernel has no entry of it though there was room: a connection has to tell.
    Unclear,
    /// The kernel asked in vain.
    Silent,
    /// There never was room to ask.
    Unsure,
}

#[derive(Debug)]
pub(super) struct Resolver {
    /// In the order in which they are asked for, with the tries so far.
    waiting: VecDeque<(u32, u8)>,
    asked: BTreeMap<u32, Asked>,
    /// The most entries that may be unresolved, whoever's they are.
    window: usize,
    /// The most entries that may be held, so that others find room at any time.
    most: usize,
    /// How many more may be asked for before the next look.
    leave: usize,
    /// As it was at the last look.
    fulls: Option<u64>,
    /// Since when nothing could be asked.
    stuck: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    tries: u8,
    /// An entry was there once, and at this look.
    seen: bool,
    seen_now: bool,
    /// There was no room, as the system said at once.
    refused: bool,
}

/// What a look at the table told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) verdicts: Vec<(u32, Verdict)>,
    /// The table overflowed since the last look: how many are asked for at a time from now on.
    pub(super) overflow: Option<usize>,
}

impl Resolver {
    /// For a table of `limit` entries: at most half of it is unresolved, and an eighth stays free.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
            window: (limit / 2).max(SMALLEST),
            most: (limit / 8 * 7).max(SMALLEST),
            leave: 0,
            fulls: None,
            stuck: None,
        }
    }

    /// One more host to resolve.
    pub(super) fn add(&mut self, host: u32) {
        self.waiting.push_back((host, 0));
    }

    /// Whether nothing waits and nothing is awaited.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty()
    }

    /// The host to ask for now, if there is one and room for it; [`Resolver::asked`] or [`Resolver::skip`] is next.
    pub(super) fn want(&self) -> Option<u32> {
        let (host, _) = self.waiting.front()?;
        (self.leave > 0).then_some(*host)
    }

    /// The wanted host was asked for; `refused` when the system said that there is no room.
    pub(super) fn asked(&mut self, refused: bool) {
        if let Some((host, tries)) = self.waiting.pop_front() {
            let asked = Asked {
                tries: tries + 1,
                seen: false,
                seen_now: false,
                refused,
            };
            self.asked.insert(host, asked);
        }
        // After a refusal only a look can tell whether there is room.
        self.leave = if refused { 0 } else { self.leave - 1 };
    }

    /// The wanted host cannot be asked for.
    pub(super) fn skip(&mut self) {
        self.waiting.pop_front();
    }

    /// The table cannot be read any more: every host that is not settled.
    pub(super) fn give_up(&mut self) -> Vec<u32> {
        let waiting = self.waiting.drain(..).map(|(host, _)| host);
        let asked = std::mem::take(&mut self.asked).into_keys();
        waiting.chain(asked).collect()
    }

    /// Takes in the table; `host_of` finds the hosts of this scan.
    pub(super) fn look(
        &mut self,
        view: &View,
        host_of: impl Fn(IpAddr) -> Option<u32>,
        now: Instant,
    ) -> Looked {
        let overflow = self.fulls.is_some_and(|before| view.fulls > before)
            || self.asked.values().any(|asked| asked.refused);
        self.fulls = Some(view.fulls);
        if overflow {
            self.window = (self.window / 2).max(SMALLEST);
        }
        let mut looked = Looked {
            verdicts: self.answers(view, host_of),
            overflow: overflow.then_some(self.window),
        };
        self.ask_again_for_what_has_no_entry(overflow, &mut looked.verdicts);
        let unresolved = self.window.saturating_sub(view.unresolved());
        self.leave = unresolved.min(self.most.saturating_sub(view.occupied()));
        self.lose_patience(now, &mut looked.verdicts);
        looked
    }

    fn answers(
        &mut self,
        view: &View,
        host_of: impl Fn(IpAddr) -> Option<u32>,
    ) -> Vec<(u32, Verdict)> {
        let mut verdicts = Vec::new();
        for entry in &view.entries {
            let Some(host) = host_of(entry.ip) else {
                continue;
            };
            let Some(asked) = self.asked.get_mut(&host) else {
                continue;
            };
            (asked.seen, asked.seen_now) = (true, true);
            let verdict = match (entry.state, entry.mac) {
                (State::Unresolved, _) => continue,
                (State::Answered, Some(mac)) => Verdict::There(mac),
                (State::Failed, _) => Verdict::Silent,
                (State::Answered | State::Fixed, _) => Verdict::Unclear,
            };
            self.asked.remove(&host);
            verdicts.push((host, verdict));
        }
        verdicts
    }

    /// An entry goes only when its host did not answer; one that never was there found no room, or the host is not
    /// on the link after all.
    fn ask_again_for_what_has_no_entry(
        &mut self,
        overflow: bool,
        verdicts: &mut Vec<(u32, Verdict)>,
    ) {
        // What is still awaited was found in the table just now, or is missing from it.
        let missing: Vec<(u32, Asked)> = self
            .asked
            .extract_if(.., |_, asked| !std::mem::take(&mut asked.seen_now))
            .collect();
        for (host, asked) in missing {
            if asked.seen {
                verdicts.push((host, Verdict::Silent));
            } else if !overflow {
                verdicts.push((host, Verdict::Unclear));
            } else if asked.tries < TRIES {
                self.waiting.push_back((host, asked.tries));
            } else {
                verdicts.push((host, Verdict::Unsure));
            }
        }
    }

    fn lose_patience(&mut self, now: Instant, verdicts: &mut Vec<(u32, Verdict)>) {
        let stuck = self.leave == 0 && self.asked.is_empty() && !self.waiting.is_empty();
        if !stuck {
            self.stuck = None;
        } else if now.duration_since(*self.stuck.get_or_insert(now)) >= PATIENCE {
            let rest = self.waiting.drain(..);
            verdicts.extend(rest.map(|(host, _)| (host, Verdict::Unsure)));
        }
    }
}

#[cfg(test)]
mod tests;
