//! Two machines with one identity: which of them stays. One [`Takeovers`] a node; no timers of its own,
//! what is too old is dropped when it is looked at.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use fleet_core::limits::{DUPLICATE_HOLD, TAKEOVER_WINDOW, TAKEOVERS};

use super::io::Identity;

/// Takeovers remembered a node. More than [`TAKEOVERS`], so that a third machine in between does not hide
/// what two others do to each other.
pub(super) const HISTORY: usize = 8;
/// Identities held off a node; the oldest hold gives way.
pub(super) const HOLDS: usize = 4;

/// What is remembered of a node's takeovers.
#[derive(Debug, Default)]
pub(super) struct Takeovers {
    history: VecDeque<(Instant, Identity, Identity)>,
    holds: VecDeque<(Instant, Identity)>,
}

/// Whether a newcomer may take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Proceed,
    /// It is held off already.
    Held(Duration),
    /// It is the loser of a duplicate just found.
    Duplicate {
        incumbent: Identity,
    },
}

impl Takeovers {
    /// Judges a newcomer while `incumbent` holds the node's stream on this process.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        incumbent: Option<Identity>,
        newcomer: Identity,
    ) -> Judgement {
        self.prune(now);
        if let Some((until, _)) = self.holds.iter().find(|(_, held)| *held == newcomer) {
            return Judgement::Held(until.saturating_duration_since(now));
        }
        let Some(incumbent) = incumbent.filter(|i| *i != newcomer) else {
            return Judgement::Proceed;
        };
        // A held machine of a stock node can come back with a session that nobody has seen.
        if let (Identity::Session(_), Some((until, _))) = (newcomer, self.holds.back()) {
            return Judgement::Held(until.saturating_duration_since(now));
        }
        let between = |a: &Identity, b: &Identity| {
            (*a, *b) == (incumbent, newcomer) || (*b, *a) == (incumbent, newcomer)
        };
        let earlier = self
            .history
            .iter()
            .filter(|(_, a, b)| between(a, b))
            .count();
        if earlier + 1 < TAKEOVERS {
            return Judgement::Proceed;
        }
        if self.holds.len() == HOLDS {
            self.holds.pop_front();
        }
        self.holds.push_back((now + DUPLICATE_HOLD, newcomer));
        Judgement::Duplicate { incumbent }
    }

    /// Records that `newcomer` displaced `incumbent`.
    pub(super) fn record(&mut self, now: Instant, incumbent: Identity, newcomer: Identity) {
        if incumbent == newcomer {
            return;
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((now, incumbent, newcomer));
    }

    fn prune(&mut self, now: Instant) {
        self.history
            .retain(|(at, ..)| now.saturating_duration_since(*at) < TAKEOVER_WINDOW);
        self.holds.retain(|(until, _)| *until > now);
    }

    pub(super) fn is_within_bounds(&self) -> bool {
        self.history.len() <= HISTORY && self.holds.len() <= HOLDS
    }
}
