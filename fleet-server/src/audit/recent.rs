//! The refusals of the current minute, in bounded memory.

use std::{collections::HashMap, net::IpAddr};

use fleet_core::{OrgId, Timestamp};
use fleet_store::AuditEntry;
use fleet_wire::Code;

use crate::limiter;

/// Refusals that are remembered by their source. A minute of an attack from more sources than this is recorded by
/// address block.
const MOST: usize = 16_384;
/// The part of them that one address block can take: the sources of other blocks keep their own records.
const MOST_OF_A_BLOCK: usize = 1_024;

/// Counted refusals of past minutes that wait for the database: those of at least two minutes.
const PAST_MOST: usize = 4 * MOST;

/// Counts refusals by organization, account, source, action and code.
#[derive(Debug, Default)]
pub(super) struct Recent {
    minute: i64,
    refusals: HashMap<Key, Counted>,
    /// Remembered sources by address block.
    blocks: HashMap<IpAddr, usize>,
    /// Of past minutes, not yet added to their records.
    past: Vec<(AuditEntry, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    org: Option<OrgId>,
    account: Account,
    source: Option<IpAddr>,
    action: String,
    code: Code,
}

/// Whose refusals are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Account {
    /// The operator or node that was refused.
    Caller(&'static str, i64),
    /// The account of the organization at which an unauthenticated peer aims.
    Target(String),
    /// Unauthenticated peers without a known target. What they write is not a key: it would have no bound.
    Unknown,
}

/// A recorded refusal and the number of further ones.
#[derive(Debug)]
struct Counted {
    entry: AuditEntry,
    more: u64,
}

impl Recent {
    /// Counts a refusal. Returns the entry to record if it is the first of its kind in this minute.
    pub(super) fn add(&mut self, mut entry: AuditEntry, code: Code) -> Option<AuditEntry> {
        self.turn(minute_of(entry.at));
        let mut key = Key {
            org: entry.org,
            account: match entry.actor.principal.parts() {
                (kind, Some(id)) => Account::Caller(kind, id),
                (_, None) if entry.org.is_some() => Account::Target(entry.subject.clone()),
                (_, None) => Account::Unknown,
            },
            source: entry.actor.from.map(limiter::source),
            action: entry.action.clone().into_owned(),
            code,
        };
        let block = entry.actor.from.map(limiter::widest_block);
        let of_block = block.map_or(0, |block| self.blocks.get(&block).copied().unwrap_or(0));
        let is_full = self.refusals.len() >= MOST || of_block >= MOST_OF_A_BLOCK;
        if is_full && !self.refusals.contains_key(&key) {
            key.source = block;
            entry.actor.from = block;
        }
        if let Some(counted) = self.refusals.get_mut(&key) {
            counted.more += 1;
            return None;
        }
        // Only a flood from thousands of blocks comes here. Each of its refusals costs a write, and none is lost.
        if self.refusals.len() < 2 * MOST {
            if let Some(block) = block {
                *self.blocks.entry(block).or_default() += 1;
            }
            let counted = Counted {
                entry: entry.clone(),
                more: 0,
            };
            self.refusals.insert(key, counted);
        }
        Some(entry)
    }

    /// Removes and returns the counts of past minutes, or all counts.
    pub(super) fn take_counted(&mut self, now: Timestamp, all: bool) -> Vec<(AuditEntry, u64)> {
        self.turn(minute_of(now));
        if all {
            for counted in self
                .refusals
                .values_mut()
                .filter(|counted| counted.more > 0)
            {
                let more = std::mem::take(&mut counted.more);
                self.past.push((counted.entry.clone(), more));
            }
        }
        std::mem::take(&mut self.past)
    }

    /// Takes counts back that could not be stored. Returns the number of refusals for which there is no room.
    pub(super) fn put_back(&mut self, counted: Vec<(AuditEntry, u64)>) -> u64 {
        let room = PAST_MOST.saturating_sub(self.past.len());
        let lost = counted.iter().skip(room).map(|(_, more)| more).sum();
        self.past.extend(counted.into_iter().take(room));
        lost
    }

    fn turn(&mut self, minute: i64) {
        if self.minute == minute {
            return;
        }
        self.minute = minute;
        self.blocks.clear();
        let counted = self.refusals.drain().map(|(_, counted)| counted);
        let counted = counted
            .filter(|counted| counted.more > 0)
            .map(|counted| (counted.entry, counted.more));
        let counted = counted.collect();
        let lost = self.put_back(counted);
        if lost > 0 {
            tracing::error!(
                lost,
                "repeated refusals cannot be counted in the audit trail"
            );
        }
    }
}

fn minute_of(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(60_000)
}

#[cfg(test)]
mod tests {
    use fleet_core::NodeId;
    use fleet_store::{Actor, AuditResult, Principal};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn refusal(
        org: Option<i64>,
        principal: Principal,
        from: &str,
        subject: &str,
        seconds: i64,
    ) -> AuditEntry {
        AuditEntry {
            org: org.map(OrgId),
            actor: Actor {
                principal,
                from: from.parse().ok(),
            },
            action: "operator.sign_in".into(),
            subject: subject.to_owned(),
            result: AuditResult::Refused("no".to_owned()),
            at: at(seconds),
        }
    }

    #[test]
    fn each_organization_account_source_and_code_has_its_record_in_a_minute() {
        let mut recent = Recent::default();
        let node = |id| Principal::Node(NodeId(id));
        let mut add = |org, principal, from, subject, code, seconds| {
            let entry = refusal(org, principal, from, subject, seconds);
            recent.add(entry, code).is_some()
        };
        use Principal::Anonymous;
        let (here, there) = ("192.0.2.1", "198.51.100.1");
        let denied = Code::Unauthenticated;
        assert!(add(None, Anonymous, here, "e-mail a", denied, 60));
        assert!(!add(None, Anonymous, here, "e-mail b", denied, 61));
        assert!(add(Some(1), Anonymous, here, "operator 1", denied, 62));
        assert!(!add(Some(1), Anonymous, here, "operator 1", denied, 62));
        assert!(add(Some(1), Anonymous, here, "operator 2", denied, 63));
        assert!(add(Some(2), Anonymous, here, "operator 1", denied, 63));
        assert!(add(Some(1), Anonymous, there, "operator 1", denied, 64));
        assert!(add(Some(1), node(1), here, "a", Code::NotFound, 65));
        assert!(!add(Some(1), node(1), here, "b", Code::NotFound, 66));
        assert!(add(Some(1), node(2), here, "a", Code::NotFound, 67));
        assert!(add(Some(1), node(1), here, "a", denied, 119));
        assert!(add(Some(1), node(1), here, "a", denied, 120));
    }

    #[test]
    fn refusals_that_are_only_counted_reach_their_record() {
        let mut recent = Recent::default();
        let first = refusal(Some(1), Principal::Anonymous, "192.0.2.1", "operator 1", 60);
        for _ in 0..5 {
            recent.add(first.clone(), Code::Unauthenticated);
        }
        assert_eq!(recent.take_counted(at(119), false), []);
        assert_eq!(recent.take_counted(at(120), false), [(first.clone(), 4)]);
        assert_eq!(recent.take_counted(at(120), false), []);
        recent.add(first.clone(), Code::Unauthenticated);
        recent.add(first.clone(), Code::Unauthenticated);
        assert_eq!(recent.take_counted(at(60), true), [(first, 1)]);
    }

    #[test]
    fn counts_that_the_database_did_not_take_are_counted_later() {
        let mut recent = Recent::default();
        let first = refusal(Some(1), Principal::Anonymous, "192.0.2.1", "operator 1", 60);
        for _ in 0..3 {
            recent.add(first.clone(), Code::Unauthenticated);
        }
        let counted = recent.take_counted(at(120), false);
        assert_eq!(recent.put_back(counted.clone()), 0);
        assert_eq!(recent.take_counted(at(120), false), counted);
        let many = vec![(first, 2); PAST_MOST + 5];
        assert_eq!(recent.put_back(many), 10, "memory is bounded");
        assert_eq!(recent.take_counted(at(120), false).len(), PAST_MOST);
    }

    #[test]
    fn a_block_that_fills_its_part_hides_no_other_source_and_is_still_counted() {
        let mut recent = Recent::default();
        let aimed = |from: &str| refusal(Some(1), Principal::Anonymous, from, "operator 1", 60);
        let mut written = 0_u64;
        for host in 0..20_000_u32 {
            let from = IpAddr::V4((0x0a01_0001 + host).into()).to_string();
            written += u64::from(recent.add(aimed(&from), Code::Unauthenticated).is_some());
        }
        assert_eq!(written, MOST_OF_A_BLOCK as u64 + 1);
        let other = recent.add(aimed("192.0.2.1"), Code::Unauthenticated);
        assert_eq!(other, Some(aimed("192.0.2.1")));
        let counted = recent.take_counted(at(120), false);
        assert_eq!(counted, [(aimed("10.1.0.0"), 20_000 - written)]);
    }
}
