//! States of scans, chunks and commands, and outcomes of targets. This file defines which states are
//! terminal and how outcomes rank. Transitions that need rows are in the store.

use std::{fmt, str::FromStr};

/// A text that is not the name of a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a known state")]
pub struct UnknownState(String);

impl UnknownState {
    /// Stores the text, escaped and shortened.
    pub fn new(text: &str) -> Self {
        Self(text.chars().take(64).flat_map(char::escape_debug).collect())
    }
}

/// Defines enums whose variants have one name each, for storage and the API.
macro_rules! named_states {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every state, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that storage and the API use.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownState;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|state| state.as_str() == text).ok_or_else(|| UnknownState::new(text))
            }
        }
    )*};
}

pub(crate) use named_states;

named_states! {
    /// The state of a scan.
    ScanState {
        /// The scan waits for its node.
        Queued = "queued",
        /// At least one command was issued.
        Running = "running",
        /// All targets were tried.
        Completed = "completed",
        /// Some targets were skipped, with a reason.
        Partial = "partial",
        /// The scan had no result.
        Failed = "failed",
        /// Ended by an operator.
        Canceled = "canceled",
        /// Its node did not connect in time.
        Expired = "expired",
    }
    /// The state of a chunk in the plan of a scan.
    ChunkState {
        /// The chunk waits to be issued, for the first time or again.
        Waiting = "waiting",
        /// A command of the chunk is in flight.
        Issued = "issued",
        /// The chunk has ended with a verdict.
        Done = "done",
    }
    /// The state of a command. Reports are accepted only while it is `Issued`.
    CommandState {
        /// In flight: from dispatch to ack, deadline or loss.
        Issued = "issued",
        /// Acknowledged by the node.
        Acked = "acked",
        /// The node reconnected without the command, or its session ended.
        Lost = "lost",
        /// The deadline passed.
        Expired = "expired",
        /// Its scan was canceled and the node was notified.
        Canceled = "canceled",
        /// The node was revoked, or the command had too many refused rows.
        Ended = "ended",
    }
    /// The priority of a scan in the queue of its node.
    Priority {
        /// A person waits for the result.
        Interactive = "interactive",
        /// A schedule started it.
        Scheduled = "scheduled",
    }
}

impl ScanState {
    /// Whether the state is final.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Completed | Self::Partial | Self::Failed | Self::Canceled | Self::Expired => true,
        }
    }
}

/// The best known outcome of a target, in rising order; one byte on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetOutcome {
    /// The node skipped the target, with a note. Any other outcome from another port or chunk outranks it.
    Skipped,
    /// No probe of the target finished.
    #[default]
    NotReached,
    /// Nothing answered.
    Silent,
    /// The host refused the connection.
    Refused,
    /// The target answered, but no driver recognized it.
    Unidentified,
    /// A driver identified the device.
    Identified,
}

impl TargetOutcome {
    /// Returns the byte on the wire.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::NotReached => 0,
            Self::Silent => 1,
            Self::Refused => 2,
            Self::Unidentified => 3,
            Self::Identified => 4,
            Self::Skipped => 5,
        }
    }

    /// Returns the outcome of a byte. An unknown byte counts as not reached.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Silent,
            2 => Self::Refused,
            3 => Self::Unidentified,
            4 => Self::Identified,
            5 => Self::Skipped,
            _ => Self::NotReached,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for state in ScanState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        assert!("gone".parse::<CommandState>().is_err());
    }

    #[test]
    fn outcomes_round_trip_and_the_better_one_is_greater() {
        for byte in 0..=5 {
            assert_eq!(TargetOutcome::from_byte(byte).to_byte(), byte);
        }
        assert_eq!(TargetOutcome::from_byte(200), TargetOutcome::NotReached);
        assert!(TargetOutcome::Identified > TargetOutcome::Refused);
        assert!(TargetOutcome::Refused > TargetOutcome::Silent);
    }
}
