//! The two state machines of enrollment: the invitation and the node. A step returns the next state or an
//! error. Rows, codes and keys are in the store.

use std::{fmt, str::FromStr};

/// The state of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InvitationState {
    /// Its code can be used.
    Pending,
    /// A node used the code and waits for the operator.
    AwaitingConfirmation,
    /// The operator confirmed the node.
    Confirmed,
    /// Withdrawn, or its node was revoked.
    Canceled,
    /// Its lifetime of one hour has passed.
    Expired,
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeState {
    /// Registered, waits for the operator.
    Pending,
    /// Can be asked to scan.
    Confirmed,
    /// Removed. Enrolling again requires a new code.
    Revoked,
}

/// An event of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvitationStep {
    /// A node registered with the code.
    Register,
    /// The operator confirmed the node.
    Confirm,
    /// The operator withdrew the code.
    Cancel,
    /// The node bound to it was revoked.
    Revoke,
    /// Its lifetime has passed.
    Expire,
}

/// A step that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an invitation that is {state} cannot take the step {step:?}")]
pub struct StepRefused {
    /// The state it is in.
    pub state: InvitationState,
    /// The refused step.
    pub step: InvitationStep,
}

impl InvitationState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::AwaitingConfirmation,
        Self::Confirmed,
        Self::Canceled,
        Self::Expired,
    ];

    /// The next state.
    ///
    /// # Errors
    ///
    /// [`StepRefused`] if the state does not allow the step. Terminal states allow no step.
    pub fn step(self, step: InvitationStep) -> Result<Self, StepRefused> {
        use InvitationState as S;
        use InvitationStep as T;
        match (self, step) {
            (S::Pending, T::Register) => Ok(S::AwaitingConfirmation),
            (S::AwaitingConfirmation, T::Confirm) => Ok(S::Confirmed),
            (S::Pending, T::Cancel) | (S::Pending | S::AwaitingConfirmation, T::Revoke) => {
                Ok(S::Canceled)
            }
            (S::Pending | S::AwaitingConfirmation, T::Expire) => Ok(S::Expired),
            (
                S::Pending | S::AwaitingConfirmation | S::Confirmed | S::Canceled | S::Expired,
                T::Register | T::Confirm | T::Cancel | T::Revoke | T::Expire,
            ) => Err(StepRefused { state: self, step }),
        }
    }

    /// The name that storage and the API use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::AwaitingConfirmation => "awaiting_confirmation",
            Self::Confirmed => "confirmed",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
        }
    }
}

impl NodeState {
    /// The name that storage and the API use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for InvitationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for InvitationState {
    type Err = crate::UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| crate::UnknownState::new(text))
    }
}

impl FromStr for NodeState {
    type Err = crate::UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Confirmed, Self::Revoked]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| crate::UnknownState::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_moves_only_forward() {
        use InvitationState as S;
        use InvitationStep as T;
        let steps = [T::Register, T::Confirm, T::Cancel, T::Revoke, T::Expire];
        let allowed: Vec<_> = S::ALL
            .into_iter()
            .flat_map(|state| steps.map(|step| (state, step, state.step(step).ok())))
            .filter_map(|(state, step, next)| next.map(|next| (state, step, next)))
            .collect();
        assert_eq!(
            allowed,
            [
                (S::Pending, T::Register, S::AwaitingConfirmation),
                (S::Pending, T::Cancel, S::Canceled),
                (S::Pending, T::Revoke, S::Canceled),
                (S::Pending, T::Expire, S::Expired),
                (S::AwaitingConfirmation, T::Confirm, S::Confirmed),
                (S::AwaitingConfirmation, T::Revoke, S::Canceled),
                (S::AwaitingConfirmation, T::Expire, S::Expired),
            ]
        );
    }
}
