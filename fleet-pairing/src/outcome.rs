//! The machine of a pairing attempt: what a node's result makes of a device.

use fleet_core::{NodeId, PairOutcome, PairingStatus, RejectReason};

use crate::Binding;

/// A node's word about one target, or that it gave none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairWord {
    /// A result.
    Said {
        /// What came of the attempt.
        outcome: PairOutcome,
        /// Whether the password it was delivered with is active; none when the node does not know.
        default_password: Option<bool>,
    },
    /// The command ended without one.
    Silent,
}

/// What becomes of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What the operator is told of this attempt.
    pub told: PairingStatus,
    /// Where the device stands from now on.
    pub status: PairingStatus,
    /// Whether it is bound to the node in the same transaction.
    pub bind: bool,
}

/// Decides about one result. A device that is paired stays so unless it refuses the credentials: an
/// attempt that met a want of credentials was sent before, and one that failed otherwise says nothing
/// about those that work.
pub fn decide_result(word: PairWord, current: PairingStatus) -> Settled {
    use PairingStatus::{AuthenticationNeeded, DefaultPassword, Failed, Paired};
    let plain = |status| Settled {
        told: status,
        status,
        bind: false,
    };
    match word {
        PairWord::Said {
            outcome: PairOutcome::Paired,
            default_password,
        } => {
            let status = match default_password {
                Some(true) => DefaultPassword,
                None if current == DefaultPassword => DefaultPassword,
                Some(false) | None => Paired,
            };
            Settled {
                bind: true,
                ..plain(status)
            }
        }
        PairWord::Said {
            outcome: PairOutcome::AuthNeeded,
            ..
        } if current.is_paired() => plain(current),
        PairWord::Said {
            outcome: PairOutcome::AuthNeeded | PairOutcome::AuthFailed,
            ..
        } => plain(AuthenticationNeeded),
        PairWord::Said {
            outcome: PairOutcome::Error,
            ..
        }
        | PairWord::Silent => Settled {
            status: if current.is_paired() { current } else { Failed },
            ..plain(Failed)
        },
    }
}

/// Whether a node may still say what came of a device that it was asked to pair: the device may have
/// been bound elsewhere, or found by another node, since the command was sent.
///
/// # Errors
///
/// Why its word is refused.
pub fn may_settle(
    node: NodeId,
    binding: Binding,
    owner: Option<NodeId>,
    owner_live: bool,
) -> Result<(), RejectReason> {
    crate::record::writable(binding, owner, owner_live, node)
}

#[cfg(test)]
mod tests {
    use PairOutcome::{AuthFailed, AuthNeeded, Error, Paired as Took};
    use PairingStatus::{
        AuthenticationNeeded as Needs, DefaultPassword as Default, Failed, Paired, Pending,
        Unpaired,
    };

    use super::*;

    fn said(outcome: PairOutcome, default_password: Option<bool>) -> PairWord {
        PairWord::Said {
            outcome,
            default_password,
        }
    }

    /// Every case: the word, then for every status that the device may have, what is told, what the
    /// status becomes, and whether it is bound.
    #[test]
    fn every_word_over_every_status() {
        type Row = (PairingStatus, PairingStatus, bool);
        let table: [(PairWord, [(PairingStatus, Row); 6]); 7] = [
            (
                said(Took, Some(true)),
                [
                    (Unpaired, (Default, Default, true)),
                    (Pending, (Default, Default, true)),
                    (Needs, (Default, Default, true)),
                    (Failed, (Default, Default, true)),
                    (Paired, (Default, Default, true)),
                    (Default, (Default, Default, true)),
                ],
            ),
            (
                said(Took, Some(false)),
                [
                    (Unpaired, (Paired, Paired, true)),
                    (Pending, (Paired, Paired, true)),
                    (Needs, (Paired, Paired, true)),
                    (Failed, (Paired, Paired, true)),
                    (Paired, (Paired, Paired, true)),
                    (Default, (Paired, Paired, true)),
                ],
            ),
            (
                said(Took, None),
                [
                    (Unpaired, (Paired, Paired, true)),
                    (Pending, (Paired, Paired, true)),
                    (Needs, (Paired, Paired, true)),
                    (Failed, (Paired, Paired, true)),
                    (Paired, (Paired, Paired, true)),
                    (Default, (Default, Default, true)),
                ],
            ),
            (
                said(AuthNeeded, None),
                [
                    (Unpaired, (Needs, Needs, false)),
                    (Pending, (Needs, Needs, false)),
                    (Needs, (Needs, Needs, false)),
                    (Failed, (Needs, Needs, false)),
                    (Paired, (Paired, Paired, false)),
                    (Default, (Default, Default, false)),
                ],
            ),
            (
                said(AuthFailed, None),
                [
                    (Unpaired, (Needs, Needs, false)),
                    (Pending, (Needs, Needs, false)),
                    (Needs, (Needs, Needs, false)),
                    (Failed, (Needs, Needs, false)),
                    (Paired, (Needs, Needs, false)),
                    (Default, (Needs, Needs, false)),
                ],
            ),
            (
                said(Error, None),
                [
                    (Unpaired, (Failed, Failed, false)),
                    (Pending, (Failed, Failed, false)),
                    (Needs, (Failed, Failed, false)),
                    (Failed, (Failed, Failed, false)),
                    (Paired, (Failed, Paired, false)),
                    (Default, (Failed, Default, false)),
                ],
            ),
            (
                PairWord::Silent,
                [
                    (Unpaired, (Failed, Failed, false)),
                    (Pending, (Failed, Failed, false)),
                    (Needs, (Failed, Failed, false)),
                    (Failed, (Failed, Failed, false)),
                    (Paired, (Failed, Paired, false)),
                    (Default, (Failed, Default, false)),
                ],
            ),
        ];
        for (word, rows) in table {
            for (current, (told, status, bind)) in rows {
                let expected = Settled { told, status, bind };
                assert_eq!(decide_result(word, current), expected, "{word:?} {current}");
                if let PairWord::Said { outcome, .. } = word
                    && outcome != Took
                {
                    for default in [Some(true), Some(false)] {
                        assert_eq!(
                            decide_result(said(outcome, default), current),
                            expected,
                            "the default password counts only where credentials were taken"
                        );
                    }
                }
            }
        }
    }
}
