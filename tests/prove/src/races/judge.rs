//! Judges the actions of a race from the times of one clock. Pure. Two overlapping actions may have occurred in either
//! order. A result is a violation if no order explains it.

use std::time::Duration;

use fleet_core::{DeviceId, NodeId};

/// Time since the start of the round.
pub(super) type Moment = Duration;

/// The time from before a call until after its response. The action took effect within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) asked: Moment,
    pub(super) answered: Moment,
}

impl Interval {
    /// The state before the round.
    pub(super) const BEFORE: Self = Self {
        asked: Moment::ZERO,
        answered: Moment::ZERO,
    };

    /// Returns whether this action can have taken effect before another.
    fn may_precede(self, other: Self) -> bool {
        self.asked <= other.answered
    }

    /// Returns whether this action took effect before another in every order.
    fn precedes(self, other: Self) -> bool {
        self.answered < other.asked
    }
}

/// The party that a device is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Node(NodeId),
    Server,
}

/// An action that took effect on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A node's report of the device was accepted.
    Reported(NodeId),
    /// An operator bound the device to a node.
    Paired(NodeId),
    /// An operator unpaired the device.
    Unpaired,
    /// The server stored a device that it found at the endpoint.
    DirectOutcome,
    /// The server bound the device to itself.
    PairedByServer,
}

/// An action that took effect, and the record that it changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) action: Action,
    pub(super) device: DeviceId,
    pub(super) when: Interval,
}

/// The record at an endpoint before the round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) device: DeviceId,
    /// `None` is the server.
    pub(super) owner: Option<NodeId>,
    pub(super) holder: Option<Holder>,
}

/// All actions at one endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Race {
    pub(super) known: Option<Known>,
    pub(super) done: Vec<Done>,
    /// When the server dialed the endpoint.
    pub(super) dialed: Vec<Moment>,
    /// The revoked nodes with the times of revocation.
    pub(super) revoked: Vec<(NodeId, Interval)>,
    /// The records at the endpoint after the round: device, owner, holder.
    pub(super) left: Vec<Known>,
}

/// The forbidden results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    BoundTwice(DeviceId),
    ClaimedWithoutRight(DeviceId),
    Dialed(Moment),
}

/// Returns every violation of a race.
pub(super) fn judge(race: &Race) -> Vec<Violation> {
    let mut devices: Vec<DeviceId> = race.done.iter().map(|done| done.device).collect();
    devices.extend(race.known.map(|known| known.device));
    devices.extend(race.left.iter().map(|left| left.device));
    devices.sort_unstable();
    devices.dedup();
    let mut found = Vec::new();
    for device in devices {
        let record = Record { race, device };
        if !record.bindings_exclude_each_other() {
            found.push(Violation::BoundTwice(device));
        }
        if !record.claims_are_rightful() {
            found.push(Violation::ClaimedWithoutRight(device));
        }
    }
    let dialed = race.dialed.iter().copied();
    found.extend(
        dialed
            .filter(|moment| race.was_a_nodes_at(*moment))
            .map(Violation::Dialed),
    );
    found
}

impl Race {
    /// Returns whether a node had a device at the endpoint at that time.
    fn was_a_nodes_at(&self, moment: Moment) -> bool {
        self.known.is_some_and(|known| known.owner.is_some())
            || self.done.iter().any(|done| {
                matches!(done.action, Action::Reported(_) | Action::Paired(_))
                    && done.when.answered < moment
            })
    }

    fn may_be_revoked_by(&self, node: NodeId, when: Interval) -> bool {
        self.revoked
            .iter()
            .any(|(revoked, span)| *revoked == node && span.may_precede(when))
    }
}

/// One record of a race.
struct Record<'a> {
    race: &'a Race,
    device: DeviceId,
}

impl Record<'_> {
    fn known(&self) -> Option<Known> {
        self.race.known.filter(|known| known.device == self.device)
    }

    fn done(&self) -> impl Iterator<Item = &Done> {
        self.race
            .done
            .iter()
            .filter(|done| done.device == self.device)
    }

    fn left(&self) -> impl Iterator<Item = &Known> {
        self.race
            .left
            .iter()
            .filter(|left| left.device == self.device)
    }

    /// Returns the successive holders of the record with their times.
    fn bindings(&self) -> Vec<(Holder, Interval)> {
        let before = self.known().and_then(|known| known.holder);
        let bound = self.done().filter_map(|done| match done.action {
            Action::Paired(node) => Some((Holder::Node(node), done.when)),
            Action::PairedByServer => Some((Holder::Server, done.when)),
            Action::Reported(_) | Action::Unpaired | Action::DirectOutcome => None,
        });
        let before = before.map(|holder| (holder, Interval::BEFORE));
        before.into_iter().chain(bound).collect()
    }

    /// Returns whether a binding can have ended before another action.
    fn may_be_released(&self, (holder, bound): (Holder, Interval), by: Interval) -> bool {
        let between = |span: Interval| bound.may_precede(span) && span.may_precede(by);
        let unpaired = self
            .done()
            .any(|done| done.action == Action::Unpaired && between(done.when));
        let revoked = self
            .race
            .revoked
            .iter()
            .any(|(node, span)| holder == Holder::Node(*node) && between(*span));
        unpaired || revoked
    }

    fn bindings_exclude_each_other(&self) -> bool {
        let bindings = self.bindings();
        let follows = |first: (Holder, Interval), second: (Holder, Interval)| {
            first.1.may_precede(second.1) && self.may_be_released(first, second.1)
        };
        let apart = bindings.iter().enumerate().all(|(at, one)| {
            let mut later = bindings[at + 1..].iter();
            later.all(|other| follows(*one, *other) || follows(*other, *one))
        });
        let mut holders = self.left().filter_map(|left| left.holder);
        apart && holders.all(|holder| bindings.iter().any(|(bound, _)| *bound == holder))
    }

    fn claims(&self) -> Vec<Claim> {
        let before = self.known().and_then(|known| known.owner);
        let before = before.map(|node| Claim {
            node,
            when: Interval::BEFORE,
            origin: Origin::Before,
        });
        let claimed = self.done().filter_map(|done| {
            let (node, origin) = match done.action {
                Action::Reported(node) => (node, Origin::Report),
                Action::Paired(node) => (node, Origin::Operator),
                Action::Unpaired | Action::DirectOutcome | Action::PairedByServer => return None,
            };
            let when = done.when;
            Some(Claim { node, when, origin })
        });
        before.into_iter().chain(claimed).collect()
    }

    /// Returns whether a node may have claimed the record after another node had it.
    fn may_follow(&self, first: Claim, second: Claim) -> bool {
        let given = |claim: &Claim| {
            claim.origin == Origin::Operator
                && claim.node == second.node
                && claim.when.may_precede(second.when)
        };
        first.when.may_precede(second.when)
            && (self.race.may_be_revoked_by(first.node, second.when)
                || self.claims().iter().any(given))
    }

    /// Returns whether a report was accepted despite another binding, or for a device of the server.
    fn is_an_intrusion(&self, report: Claim) -> bool {
        let bound_to_another = self.bindings().into_iter().any(|binding| {
            binding.0 != Holder::Node(report.node)
                && binding.1.precedes(report.when)
                && !self.may_be_released(binding, report.when)
        });
        let servers = self.known().is_some_and(|known| known.owner.is_none())
            || self.done().any(|done| {
                done.action == Action::DirectOutcome && done.when.precedes(report.when)
            });
        let given_away = self
            .claims()
            .iter()
            .any(|claim| claim.origin == Origin::Operator && claim.when.may_precede(report.when));
        bound_to_another || (servers && !given_away)
    }

    fn claims_are_rightful(&self) -> bool {
        let claims = self.claims();
        let after_each_other = claims.iter().enumerate().all(|(at, one)| {
            claims[at + 1..].iter().all(|other| {
                one.node == other.node
                    || self.may_follow(*one, *other)
                    || self.may_follow(*other, *one)
            })
        });
        let mut reports = claims.iter().filter(|claim| claim.origin == Origin::Report);
        let mut owners = self.left().filter_map(|left| left.owner);
        after_each_other
            && !reports.any(|report| self.is_an_intrusion(*report))
            && owners.all(|owner| claims.iter().any(|claim| claim.node == owner))
    }
}

/// How a node became the owner of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Before,
    Operator,
    Report,
}

/// The event of a node becoming the owner of a record.
#[derive(Clone, Copy, Debug)]
struct Claim {
    node: NodeId,
    when: Interval,
    origin: Origin,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(1);
    const A: NodeId = NodeId(10);
    const B: NodeId = NodeId(11);

    fn span(asked: u64, answered: u64) -> Interval {
        Interval {
            asked: Moment::from_micros(asked),
            answered: Moment::from_micros(answered),
        }
    }

    fn done(action: Action, asked: u64, answered: u64) -> Done {
        Done {
            action,
            device: DEVICE,
            when: span(asked, answered),
        }
    }

    fn known(owner: Option<NodeId>, holder: Option<Holder>) -> Option<Known> {
        Some(Known {
            device: DEVICE,
            owner,
            holder,
        })
    }

    #[test]
    fn two_bindings_need_an_unpairing_between_them() {
        let paired = [done(Action::Paired(A), 1, 2), done(Action::Paired(B), 5, 6)];
        let with = |unpaired: Option<Done>| Race {
            known: known(Some(A), None),
            done: paired.iter().copied().chain(unpaired).collect(),
            ..Race::default()
        };
        let twice = vec![Violation::BoundTwice(DEVICE)];
        assert_eq!(judge(&with(None)), twice);
        assert_eq!(judge(&with(Some(done(Action::Unpaired, 7, 8)))), twice);
        assert_eq!(judge(&with(Some(done(Action::Unpaired, 2, 7)))), []);
    }

    #[test]
    fn a_binding_without_an_action_is_a_violation() {
        let race = Race {
            known: known(Some(A), None),
            left: known(Some(A), Some(Holder::Server)).into_iter().collect(),
            ..Race::default()
        };
        assert_eq!(judge(&race), [Violation::BoundTwice(DEVICE)]);
    }

    #[test]
    fn a_node_claims_the_record_of_another_only_after_its_revocation() {
        let race = |revoked: Option<Interval>| Race {
            known: known(Some(A), None),
            done: vec![done(Action::Reported(B), 5, 6)],
            revoked: revoked.into_iter().map(|span| (A, span)).collect(),
            ..Race::default()
        };
        let claimed = vec![Violation::ClaimedWithoutRight(DEVICE)];
        assert_eq!(judge(&race(None)), claimed);
        assert_eq!(judge(&race(Some(span(7, 9)))), claimed);
        assert_eq!(judge(&race(Some(span(6, 9)))), []);
        assert_eq!(judge(&race(Some(Interval::BEFORE))), []);
    }

    #[test]
    fn only_one_of_two_nodes_may_claim_a_new_record() {
        let race = Race {
            done: vec![
                done(Action::Reported(A), 1, 9),
                done(Action::Reported(B), 2, 8),
            ],
            ..Race::default()
        };
        assert_eq!(judge(&race), [Violation::ClaimedWithoutRight(DEVICE)]);
    }

    #[test]
    fn a_node_gets_a_device_of_the_server_only_by_an_operator() {
        let race = |paired: Option<Done>| Race {
            known: known(None, None),
            done: paired
                .into_iter()
                .chain([done(Action::Reported(A), 5, 6)])
                .collect(),
            ..Race::default()
        };
        assert_eq!(judge(&race(None)), [Violation::ClaimedWithoutRight(DEVICE)]);
        assert_eq!(judge(&race(Some(done(Action::Paired(A), 1, 2)))), []);
    }

    #[test]
    fn an_owner_without_a_claim_is_a_violation() {
        let race = Race {
            known: known(Some(A), None),
            left: known(Some(B), None).into_iter().collect(),
            ..Race::default()
        };
        assert_eq!(judge(&race), [Violation::ClaimedWithoutRight(DEVICE)]);
    }

    #[test]
    fn a_dial_after_an_accepted_report_is_a_violation() {
        let race = |dialed: u64| Race {
            done: vec![done(Action::Reported(A), 1, 5)],
            dialed: vec![Moment::from_micros(dialed)],
            ..Race::default()
        };
        assert_eq!(judge(&race(4)), []);
        let moment = Moment::from_micros(6);
        assert_eq!(judge(&race(6)), [Violation::Dialed(moment)]);
    }
}
