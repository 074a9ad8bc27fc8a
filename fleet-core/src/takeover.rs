//! Decides which of two machines with the same identity keeps the stream of a node. The store keeps the history
//! beside the claim of the stream, which applies the rule across servers. Start with [`Takeovers::judge`].

use std::{collections::VecDeque, fmt, str::FromStr, time::Duration};

use crate::{
    InstanceId, SessionId, Timestamp,
    limits::{DUPLICATE_HOLD, TAKEOVER_WINDOW, TAKEOVERS},
};

/// Number of takeovers that are kept per node. It exceeds [`TAKEOVERS`], because a third machine could otherwise hide
/// the takeovers between two others.
pub const HISTORY: usize = 8;
/// Maximum number of holds per node. A new hold replaces the oldest.
pub const HOLDS: usize = 4;

/// The machine that uses the identity of a node. Nodes of this product report the start of their process. Upstream
/// nodes are identified by their session only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claimant {
    /// One start of a node's process.
    Instance(InstanceId),
    /// One session of a node that does not identify its process.
    Session(SessionId),
}

impl Claimant {
    /// Uses the instance if there is one, otherwise the session.
    pub fn new(instance: Option<InstanceId>, session: SessionId) -> Self {
        instance.map_or(Self::Session(session), Self::Instance)
    }
}

/// One machine took a node's stream from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Time of the takeover.
    pub at: Timestamp,
    /// The previous machine.
    pub from: Claimant,
    /// The new machine.
    pub to: Claimant,
}

/// A machine that is refused for a node for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// End of the hold.
    pub until: Timestamp,
    /// The refused machine.
    pub who: Claimant,
}

/// The takeover history of a node: at most [`HISTORY`] takeovers and [`HOLDS`] holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takeovers {
    /// The last takeovers, oldest first.
    pub history: VecDeque<Takeover>,
    /// The current holds, oldest first.
    pub holds: VecDeque<Hold>,
    /// When a machine was last refused.
    pub refused_at: Option<Timestamp>,
}

/// The decision about a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The newcomer may take over.
    Proceed,
    /// The newcomer is on hold for this time.
    Held(Duration),
    /// The newcomer is a duplicate and is on hold for [`DUPLICATE_HOLD`] from now on.
    Duplicate,
}

impl Takeovers {
    /// Decides whether a machine may take the stream of a node from `incumbent`, and records the decision.
    pub fn judge(
        &mut self,
        now: Timestamp,
        incumbent: Option<Claimant>,
        newcomer: Claimant,
    ) -> Judgement {
        self.prune(now);
        let judgement = self.judged(now, incumbent, newcomer);
        match (judgement, incumbent) {
            // A held machine that keeps trying keeps the node marked as contested.
            (Judgement::Held(_), _) => self.refused_at = Some(now),
            (Judgement::Duplicate, _) => {
                self.refused_at = Some(now);
                bounded(&mut self.holds, HOLDS).push_back(Hold {
                    until: now.plus(DUPLICATE_HOLD),
                    who: newcomer,
                });
            }
            (Judgement::Proceed, Some(from)) if from != newcomer => {
                bounded(&mut self.history, HISTORY).push_back(Takeover {
                    at: now,
                    from,
                    to: newcomer,
                });
            }
            (Judgement::Proceed, _) => {}
        }
        judgement
    }

    fn judged(&self, now: Timestamp, incumbent: Option<Claimant>, newcomer: Claimant) -> Judgement {
        // A hold comes before the incumbent: the first machine may only be about to reconnect.
        if let Some(hold) = self.holds.iter().find(|hold| hold.who == newcomer) {
            return Judgement::Held(hold.until.since(now));
        }
        let Some(incumbent) = incumbent.filter(|incumbent| *incumbent != newcomer) else {
            return Judgement::Proceed;
        };
        // A machine on hold that runs an upstream node can return with a new session.
        if let (Claimant::Session(_), Some(hold)) = (newcomer, self.holds.back()) {
            return Judgement::Held(hold.until.since(now));
        }
        // Each of the two machines takes the stream back, so both directions count.
        let pair = [(incumbent, newcomer), (newcomer, incumbent)];
        let earlier = self
            .history
            .iter()
            .filter(|takeover| pair.contains(&(takeover.from, takeover.to)))
            .count();
        if earlier + 1 < TAKEOVERS {
            Judgement::Proceed
        } else {
            Judgement::Duplicate
        }
    }

    /// Whether a machine was refused within the last [`DUPLICATE_HOLD`]. During this time the node is shown as a
    /// duplicate.
    pub fn is_contested(&self, now: Timestamp) -> bool {
        self.refused_at
            .is_some_and(|at| now.since(at) < DUPLICATE_HOLD)
    }

    fn prune(&mut self, now: Timestamp) {
        self.history
            .retain(|takeover| now.since(takeover.at) < TAKEOVER_WINDOW);
        // A clock that jumps back must not extend a hold.
        let longest = now.plus(DUPLICATE_HOLD);
        self.holds
            .retain(|hold| hold.until > now && hold.until <= longest);
    }
}

/// Removes the oldest entries to make room for one more.
fn bounded<T>(queue: &mut VecDeque<T>, most: usize) -> &mut VecDeque<T> {
    while queue.len() >= most {
        queue.pop_front();
    }
    queue
}

impl fmt::Display for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(InstanceId(bytes)) => {
                f.write_str("instance ")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Session(session) => write!(f, "session {session}"),
        }
    }
}

/// A text that is not a claimant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `instance` and 32 hex digits nor `session` and a number")]
pub struct InvalidClaimant(String);

impl FromStr for Claimant {
    type Err = InvalidClaimant;

    /// Parses what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once(' ') {
            Some(("instance", hex)) if hex.len() == 32 && hex.is_ascii() => {
                u128::from_str_radix(hex, 16)
                    .ok()
                    .map(|bits| Self::Instance(InstanceId(bits.to_be_bytes())))
            }
            Some(("session", id)) => id.parse().ok().map(SessionId).map(Self::Session),
            _ => None,
        };
        parsed.ok_or_else(|| {
            InvalidClaimant(text.chars().take(64).flat_map(char::escape_debug).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(0).plus(Duration::from_secs(seconds))
    }

    fn machine(number: u8) -> Claimant {
        Claimant::Instance(InstanceId([number; 16]))
    }

    /// Lets machines connect one after the other, `pause` seconds apart, and returns the judgements.
    fn come(machines: &[Claimant], pause: u64) -> Vec<Judgement> {
        let mut takeovers = Takeovers::default();
        let mut incumbent = None;
        let mut judgements = Vec::new();
        for (second, newcomer) in (0..)
            .step_by(usize::try_from(pause).unwrap_or(1))
            .zip(machines)
        {
            let judgement = takeovers.judge(at(second), incumbent, *newcomer);
            if judgement == Judgement::Proceed {
                incumbent = Some(*newcomer);
            }
            judgements.push(judgement);
        }
        judgements
    }

    #[test]
    fn the_third_takeover_between_two_machines_is_refused_and_the_loser_held_off() {
        let [a, b] = [machine(1), machine(2)];
        use Judgement::{Duplicate, Held, Proceed};
        assert_eq!(
            come(&[a, b, a, b, b, a], 10),
            [
                Proceed,
                Proceed,
                Proceed,
                Duplicate,
                Held(Duration::from_secs(590)),
                Proceed
            ]
        );
    }

    #[test]
    fn slow_takeovers_restarts_and_third_machines_are_no_duplicates() {
        let of = |numbers: [u8; 4]| numbers.map(machine);
        for (machines, pause) in [
            (of([1, 2, 1, 2]), 31),
            (of([1, 2, 3, 4]), 1),
            (of([1, 1, 1, 1]), 1),
            (of([1, 2, 3, 1]), 1),
        ] {
            assert_eq!(come(&machines, pause), [Judgement::Proceed; 4]);
        }
    }

    #[test]
    fn a_upstream_machine_that_is_held_cannot_come_back_with_a_new_session() {
        let session = |id| Claimant::Session(SessionId(id));
        let judgements = come(
            &[session(1), session(2), session(1), session(2), session(3)],
            1,
        );
        assert_eq!(judgements[3], Judgement::Duplicate);
        assert_eq!(judgements[4], Judgement::Held(Duration::from_secs(599)));
    }

    #[test]
    fn a_refusal_is_forgotten_when_nobody_was_refused_for_as_long_as_a_hold_lasts() {
        let [a, b] = [machine(1), machine(2)];
        let mut takeovers = Takeovers::default();
        let mut incumbent = None;
        for (second, newcomer) in [(0, a), (1, b), (2, a), (3, b)] {
            if takeovers.judge(at(second), incumbent, newcomer) == Judgement::Proceed {
                incumbent = Some(newcomer);
            }
        }
        assert!(takeovers.is_contested(at(602)) && !takeovers.is_contested(at(603)));
        assert_eq!(
            takeovers.judge(at(500), Some(a), b),
            Judgement::Held(Duration::from_secs(103))
        );
        assert!(takeovers.is_contested(at(603)));
        assert_eq!(takeovers.judge(at(604), Some(a), b), Judgement::Proceed);
    }

    proptest! {
        #![proptest_config(crate::regressions!("takeover"))]

        /// In any sequence of connections, no machine evicts another more than twice within a minute. The history
        /// stays bounded.
        #[test]
        fn there_is_no_loop_of_evictions(
            moves in prop::collection::vec((0_u8..3, 0_u64..20), 1..200),
        ) {
            let mut takeovers = Takeovers::default();
            let (mut now, mut incumbent) = (0, None);
            let mut evictions: Vec<(u64, Claimant, Claimant)> = Vec::new();
            for (number, pause) in moves {
                now += pause;
                let newcomer = machine(number);
                if takeovers.judge(at(now), incumbent, newcomer) != Judgement::Proceed {
                    continue;
                }
                if let Some(from) = incumbent.filter(|from| *from != newcomer) {
                    evictions.push((now, from, newcomer));
                    let between = evictions.iter().filter(|(when, a, b)| {
                        now - when < 60 && [(*a, *b), (*b, *a)].contains(&(from, newcomer))
                    });
                    prop_assert!(between.count() < TAKEOVERS);
                }
                incumbent = Some(newcomer);
                prop_assert!(takeovers.history.len() <= HISTORY && takeovers.holds.len() <= HOLDS);
            }
        }

        #[test]
        fn a_claimant_reads_back(bytes in any::<[u8; 16]>(), session in any::<i64>()) {
            for claimant in [Claimant::Instance(InstanceId(bytes)), Claimant::Session(SessionId(session))] {
                prop_assert_eq!(claimant.to_string().parse(), Ok(claimant));
            }
        }
    }
}
