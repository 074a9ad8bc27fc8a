//! Applies the result of a pairing attempt to the status of a device.

use fleet_core::{NodeId, PairOutcome, PairingStatus, RejectReason};

use crate::Binding;

/// A node's result for one target, or the lack of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairReply {
    /// The node sent a result.
    Result {
        /// The outcome of the attempt.
        outcome: PairOutcome,
        /// Whether the password that the device was delivered with is active; none if the node does not know.
        default_password: Option<bool>,
        /// Whether the device needs no login.
        open: bool,
    },
    /// The command ended without a result.
    Missing,
}

/// The effect of a result on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The status that the operator sees for this attempt.
    pub reported: PairingStatus,
    /// The status of the device from now on.
    pub status: PairingStatus,
    /// Whether the device is bound to the node in the same transaction.
    pub bind: bool,
}

/// Decides the effect of one result. A paired device stays paired unless it refuses the credentials. A result that
/// reports missing credentials was sent before the device was paired. Any other failure does not show that the
/// working credentials are wrong.
pub fn decide_result(reply: PairReply, current: PairingStatus) -> Settled {
    use PairingStatus::{AuthenticationNeeded, DefaultPassword, Failed, Open, Paired};
    let plain = |status| Settled {
        reported: status,
        status,
        bind: false,
    };
    match reply {
        PairReply::Result {
            outcome: PairOutcome::Paired,
            open: true,
            ..
        } => Settled {
            bind: true,
            ..plain(Open)
        },
        PairReply::Result {
            outcome: PairOutcome::Paired,
            default_password,
            open: false,
        } => {
            let status = match default_password {
                Some(true) => DefaultPassword,
                // A node that does not know must not hide that the factory password is active.
                None if current == DefaultPassword => DefaultPassword,
                Some(false) | None => Paired,
            };
            Settled {
                bind: true,
                ..plain(status)
            }
        }
        PairReply::Result {
            outcome: PairOutcome::AuthNeeded,
            ..
        } if current.is_paired() => plain(current),
        PairReply::Result {
            outcome: PairOutcome::AuthNeeded | PairOutcome::AuthFailed,
            ..
        } => plain(AuthenticationNeeded),
        PairReply::Result {
            outcome: PairOutcome::Error,
            ..
        }
        | PairReply::Missing => Settled {
            status: if current.is_paired() { current } else { Failed },
            ..plain(Failed)
        },
    }
}

/// Checks whether a node may still report a result for a device that it was asked to pair. The device may have been
/// bound elsewhere, or found by another node, since the command was sent.
///
/// # Errors
///
/// [`RejectReason`] states why the result is refused.
pub fn may_settle(
    node: NodeId,
    binding: Binding,
    owner: Option<NodeId>,
    owner_live: bool,
) -> Result<(), RejectReason> {
    match (binding, owner) {
        (Binding::Server, _) => Err(RejectReason::PairedByServer),
        (Binding::Node(bound), _) if bound == node => Ok(()),
        (Binding::Node(_), _) => Err(RejectReason::BoundToOtherNode),
        (Binding::Free, None) => Err(RejectReason::Unattributed),
        (Binding::Free, Some(owner)) if owner == node => Ok(()),
        (Binding::Free, Some(_)) if owner_live => Err(RejectReason::OwnedByOtherNode),
        (Binding::Free, Some(_)) => Err(RejectReason::OwnedByRevokedNode),
    }
}

#[cfg(test)]
mod tests {
    use PairOutcome::{AuthFailed, AuthNeeded, Error, Paired as Took};
    use PairingStatus::{
        AuthenticationNeeded as Needs, DefaultPassword as Default, Failed, Open, Paired, Pending,
        Unpaired,
    };

    use super::*;

    fn result(outcome: PairOutcome, default_password: Option<bool>) -> PairReply {
        PairReply::Result {
            outcome,
            default_password,
            open: false,
        }
    }

    fn opened(default_password: Option<bool>) -> PairReply {
        PairReply::Result {
            outcome: Took,
            default_password,
            open: true,
        }
    }

    /// Covers every result with every status of the device, and checks the reported status, the new status and the
    /// binding.
    #[test]
    fn every_word_over_every_status() {
        type Row = (PairingStatus, PairingStatus, bool);
        let table: [(PairReply, [(PairingStatus, Row); 7]); 8] = [
            (
                result(Took, Some(true)),
                [
                    (Unpaired, (Default, Default, true)),
                    (Pending, (Default, Default, true)),
                    (Needs, (Default, Default, true)),
                    (Failed, (Default, Default, true)),
                    (Paired, (Default, Default, true)),
                    (Default, (Default, Default, true)),
                    (Open, (Default, Default, true)),
                ],
            ),
            (
                result(Took, Some(false)),
                [
                    (Unpaired, (Paired, Paired, true)),
                    (Pending, (Paired, Paired, true)),
                    (Needs, (Paired, Paired, true)),
                    (Failed, (Paired, Paired, true)),
                    (Paired, (Paired, Paired, true)),
                    (Default, (Paired, Paired, true)),
                    (Open, (Paired, Paired, true)),
                ],
            ),
            (
                result(Took, None),
                [
                    (Unpaired, (Paired, Paired, true)),
                    (Pending, (Paired, Paired, true)),
                    (Needs, (Paired, Paired, true)),
                    (Failed, (Paired, Paired, true)),
                    (Paired, (Paired, Paired, true)),
                    (Default, (Default, Default, true)),
                    (Open, (Paired, Paired, true)),
                ],
            ),
            (
                opened(Some(true)),
                [Unpaired, Pending, Needs, Failed, Paired, Default, Open]
                    .map(|status| (status, (Open, Open, true))),
            ),
            (
                result(AuthNeeded, None),
                [
                    (Unpaired, (Needs, Needs, false)),
                    (Pending, (Needs, Needs, false)),
                    (Needs, (Needs, Needs, false)),
                    (Failed, (Needs, Needs, false)),
                    (Paired, (Paired, Paired, false)),
                    (Default, (Default, Default, false)),
                    (Open, (Open, Open, false)),
                ],
            ),
            (
                result(AuthFailed, None),
                [
                    (Unpaired, (Needs, Needs, false)),
                    (Pending, (Needs, Needs, false)),
                    (Needs, (Needs, Needs, false)),
                    (Failed, (Needs, Needs, false)),
                    (Paired, (Needs, Needs, false)),
                    (Default, (Needs, Needs, false)),
                    (Open, (Needs, Needs, false)),
                ],
            ),
            (
                result(Error, None),
                [
                    (Unpaired, (Failed, Failed, false)),
                    (Pending, (Failed, Failed, false)),
                    (Needs, (Failed, Failed, false)),
                    (Failed, (Failed, Failed, false)),
                    (Paired, (Failed, Paired, false)),
                    (Default, (Failed, Default, false)),
                    (Open, (Failed, Open, false)),
                ],
            ),
            (
                PairReply::Missing,
                [
                    (Unpaired, (Failed, Failed, false)),
                    (Pending, (Failed, Failed, false)),
                    (Needs, (Failed, Failed, false)),
                    (Failed, (Failed, Failed, false)),
                    (Paired, (Failed, Paired, false)),
                    (Default, (Failed, Default, false)),
                    (Open, (Failed, Open, false)),
                ],
            ),
        ];
        for (reply, rows) in table {
            for (current, (reported, status, bind)) in rows {
                let expected = Settled {
                    reported,
                    status,
                    bind,
                };
                assert_eq!(
                    decide_result(reply, current),
                    expected,
                    "{reply:?} {current}"
                );
                if let PairReply::Result { outcome, .. } = reply
                    && outcome != Took
                {
                    for default in [Some(true), Some(false)] {
                        assert_eq!(
                            decide_result(result(outcome, default), current),
                            expected,
                            "the default password counts only where credentials were taken"
                        );
                    }
                }
            }
        }
    }
}
