//! In which order endpoints are tried: hosts interleaved, few connections to a host, retries in between. Pure.
//!
//! Hosts go in blocks; within a block one port of every host, then the next port. So two connections to a host are
//! far apart, yet all that can be learned of a host is learned within a block.

use std::collections::{HashMap, VecDeque};

use fleet_core::limits::HOST_CONNECTIONS;

/// Hosts in a block: enough to interleave, few enough that a host's last port comes soon.
const BLOCK: u32 = 256;

/// One connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt {
    /// Index of the host.
    pub(super) host: u32,
    /// Index of the port.
    pub(super) port: u8,
    /// Earlier attempts that met silence.
    pub(super) tries: u8,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Dial this. Then call [`Schedule::retry`] or [`Schedule::settle`], and [`Schedule::release`] once it is closed.
    Dial(Attempt),
    /// Nothing until something is retried, settled or released.
    Wait,
    /// Everything is settled.
    Done,
}

#[derive(Debug)]
pub(super) struct Schedule {
    hosts: u32,
    ports: u8,
    block: u32,
    at: u32,
    again: VecDeque<Attempt>,
    parked: HashMap<u32, VecDeque<Attempt>>,
    busy: Vec<u8>,
    unsettled: usize,
}

impl Schedule {
    pub(super) fn new(hosts: u32, ports: u8) -> Self {
        Self {
            hosts,
            ports,
            block: 0,
            at: 0,
            again: VecDeque::new(),
            parked: HashMap::new(),
            busy: vec![0; hosts as usize],
            unsettled: 0,
        }
    }

    pub(super) fn next(&mut self) -> Next {
        while let Some(attempt) = self.again.pop_front().or_else(|| self.fresh()) {
            let busy = &mut self.busy[attempt.host as usize];
            if usize::from(*busy) < HOST_CONNECTIONS {
                *busy += 1;
                self.unsettled += 1;
                return Next::Dial(attempt);
            }
            self.parked
                .entry(attempt.host)
                .or_default()
                .push_back(attempt);
        }
        if self.unsettled == 0 && self.parked.is_empty() {
            Next::Done
        } else {
            Next::Wait
        }
    }

    /// The attempt met silence and is to be repeated. Its connection is to be released as well.
    pub(super) fn retry(&mut self, attempt: Attempt) {
        self.again.push_back(Attempt {
            tries: attempt.tries + 1,
            ..attempt
        });
        self.settle();
    }

    /// An attempt will not be repeated; its connection may still be open.
    pub(super) fn settle(&mut self) {
        self.unsettled = self.unsettled.saturating_sub(1);
    }

    /// A connection to the host is closed.
    pub(super) fn release(&mut self, host: u32) {
        if let Some(busy) = self.busy.get_mut(host as usize) {
            *busy = busy.saturating_sub(1);
        }
        if let Some(waiting) = self.parked.get_mut(&host) {
            self.again.extend(waiting.pop_front());
            if waiting.is_empty() {
                self.parked.remove(&host);
            }
        }
    }

    fn fresh(&mut self) -> Option<Attempt> {
        if self.block >= self.hosts {
            return None;
        }
        let size = BLOCK.min(self.hosts - self.block);
        let attempt = Attempt {
            host: self.block + self.at % size,
            port: (self.at / size) as u8,
            tries: 0,
        };
        self.at += 1;
        if self.at >= size * u32::from(self.ports) {
            self.block += size;
            self.at = 0;
        }
        Some(attempt)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_are_interleaved_within_a_block() {
        let mut schedule = Schedule::new(300, 2);
        let order: Vec<(u32, u8)> = std::iter::from_fn(|| match schedule.next() {
            Next::Dial(attempt) => Some((attempt.host, attempt.port)),
            Next::Wait | Next::Done => None,
        })
        .collect();
        assert_eq!(order.len(), 600);
        assert_eq!(order[..2], [(0, 0), (1, 0)]);
        assert_eq!(order[256], (0, 1));
        assert_eq!(order[512], (256, 0));
        assert_eq!(order[599], (299, 1));
    }

    #[test]
    fn nothing_to_scan_is_done_at_once() {
        assert_eq!(Schedule::new(0, 3).next(), Next::Done);
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("schedule", 64))]

        /// Whatever the order of answers: each endpoint is settled once, a host never has more than two
        /// connections, and the schedule ends.
        #[test]
        fn every_endpoint_is_settled_once_and_hosts_are_spared(
            hosts in 1u32..600,
            ports in 1u8..6,
            choices in proptest::collection::vec((0usize..64, 0u8..3), 1..200),
        ) {
            let mut schedule = Schedule::new(hosts, ports);
            let (mut dialled, mut open) = (Vec::new(), Vec::new());
            let mut settled: BTreeMap<(u32, u8), u32> = BTreeMap::new();
            let mut choices = choices.into_iter().cycle();
            for step in 0.. {
                prop_assert!(step < 100_000, "the schedule does not end");
                let next = schedule.next();
                if let Next::Dial(attempt) = next {
                    dialled.push(attempt);
                    let at_once = dialled.iter().chain(&open).filter(|a: &&Attempt| a.host == attempt.host).count();
                    prop_assert!(at_once <= HOST_CONNECTIONS);
                }
                if next == Next::Done {
                    prop_assert!(dialled.is_empty());
                    break;
                }
                let (pick, what) = choices.next().unwrap_or_default();
                if next == Next::Wait || pick % 3 == 0 {
                    if !dialled.is_empty() {
                        let attempt = dialled.swap_remove(pick % dialled.len());
                        if what == 0 && attempt.tries < 2 {
                            schedule.retry(attempt);
                            schedule.release(attempt.host);
                        } else {
                            schedule.settle();
                            *settled.entry((attempt.host, attempt.port)).or_default() += 1;
                            open.push(attempt);
                        }
                    }
                    if (dialled.is_empty() || what == 1) && !open.is_empty() {
                        let attempt = open.swap_remove(pick % open.len());
                        schedule.release(attempt.host);
                    }
                }
            }
            prop_assert_eq!(settled.len(), hosts as usize * usize::from(ports));
            prop_assert!(settled.values().all(|times| *times == 1));
        }
    }
}
