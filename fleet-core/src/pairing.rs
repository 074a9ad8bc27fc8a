//! Pairing results of nodes and pairing states of devices. `fleet-pairing` decides the transitions.

use std::{fmt, str::FromStr};

use crate::{
    DeviceFacts, RawDeviceReport, RejectReason,
    scan::{UnknownState, named_states},
    text,
};

named_states! {
    /// The pairing state of a device, independent of its binding. The names are those of the installed
    /// base's enumeration without its prefix.
    PairingStatus {
        /// The device accepted the credentials.
        Paired = "PAIRED",
        /// The device was never paired, or was released.
        Unpaired = "UNPAIRED",
        /// The device requires credentials.
        AuthenticationNeeded = "AUTHENTICATION_NEEDED",
        /// An attempt is in progress.
        Pending = "PENDING",
        /// The last attempt failed.
        Failed = "FAILED",
        /// The device accepted its factory credentials.
        DefaultPassword = "DEFAULT_PASSWORD",
        /// The device needs no login to be read, so it was paired without one. The installed base has no such name.
        Open = "OPEN",
    }
    /// The result of one pairing attempt on a node.
    PairOutcome {
        /// The device accepted the credentials.
        Paired = "paired",
        /// The device requires credentials, and none were given.
        AuthNeeded = "auth_needed",
        /// The device refused the credentials.
        AuthFailed = "auth_failed",
        /// The attempt failed for another reason.
        Error = "error",
    }
}

impl PairingStatus {
    /// Whether the device accepted credentials, or needs none.
    pub fn is_paired(self) -> bool {
        match self {
            Self::Paired | Self::DefaultPassword | Self::Open => true,
            Self::Unpaired | Self::AuthenticationNeeded | Self::Pending | Self::Failed => false,
        }
    }
}

/// The unchecked fields of a node's pairing result.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawPairResult<'a> {
    /// 1..=255 characters: the identifier that the command used for the device.
    pub identifier: &'a str,
    /// None if it is missing or unknown.
    pub outcome: Option<PairOutcome>,
    /// None when the node does not know.
    pub default_password: Option<bool>,
    /// Whether the device needs no login.
    pub open: bool,
    /// At most 255 characters; may be empty.
    pub serial: &'a str,
    /// A MAC in any spelling, at most 64 characters; may be empty.
    pub mac: &'a str,
    /// At most 255 characters; may be empty.
    pub model: &'a str,
    /// At most 255 characters; may be empty.
    pub manufacturer: &'a str,
    /// At most 255 characters; may be empty.
    pub firmware: &'a str,
    /// At most 4,096 characters.
    pub error: &'a str,
}

/// A node's pairing result whose every field is well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairResult {
    /// The identifier that the command used for the device.
    pub identifier: String,
    /// The outcome of the attempt.
    pub outcome: PairOutcome,
    /// Whether the factory password is active; none if the node does not know.
    pub default_password: Option<bool>,
    /// Whether the device needs no login. Counts only for a paired device.
    pub open: bool,
    /// Facts that the device reports after login, without driver, scheme and evidence.
    pub facts: DeviceFacts,
    /// The text of the node. Escape it before display.
    pub error: String,
}

/// Why one result of a report was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PairRejectReason {
    /// The identifier is empty, too long, or has control characters.
    Identifier,
    /// The outcome is missing or unknown.
    Outcome,
    /// A text is too long or has control characters.
    Text,
    /// Sealed credentials are too long.
    Credentials,
    /// The device is not part of the command.
    NotAskedFor,
    /// The command already has another result for the device.
    AlreadyReported,
    /// The device was released or removed after the command was sent.
    Released,
    /// The record no longer belongs to the node.
    Record(RejectReason),
}

impl fmt::Display for PairRejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identifier => "bad identifier",
            Self::Outcome => "no known outcome",
            Self::Text => "bad text",
            Self::Credentials => "sealed credentials too long",
            Self::NotAskedFor => "not asked for",
            Self::AlreadyReported => "already reported with another outcome",
            Self::Released => "released since it was asked for",
            Self::Record(reason) => reason.as_str(),
        })
    }
}

impl PairResult {
    /// Checks every field of a pairing result.
    ///
    /// # Errors
    ///
    /// The first field that is not well-formed, as a [`PairRejectReason`].
    pub fn parse(raw: RawPairResult<'_>) -> Result<Self, PairRejectReason> {
        if raw.identifier.is_empty() || !text::fits(raw.identifier, 255) {
            return Err(PairRejectReason::Identifier);
        }
        // Errors of drivers have several lines. They are escaped where they are displayed.
        if raw.error.chars().take(4_097).count() > 4_096 {
            return Err(PairRejectReason::Text);
        }
        let outcome = raw.outcome.ok_or(PairRejectReason::Outcome)?;
        let facts = DeviceFacts::parse(&RawDeviceReport {
            serial: raw.serial,
            mac: raw.mac,
            model: raw.model,
            manufacturer: raw.manufacturer,
            firmware: raw.firmware,
            ..RawDeviceReport::default()
        })
        .map_err(|_| PairRejectReason::Text)?;
        Ok(Self {
            identifier: raw.identifier.to_owned(),
            outcome,
            default_password: raw.default_password,
            open: raw.open && outcome == PairOutcome::Paired,
            facts,
            error: raw.error.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_of_a_result_is_refused_by_its_own_reason() {
        let good = RawPairResult {
            identifier: "mac:02:00:5E:00:00:01",
            outcome: Some(PairOutcome::Paired),
            ..RawPairResult::default()
        };
        let (long, error) = ("x".repeat(256), "x".repeat(4_097));
        for (raw, expected) in [
            (good, None),
            (
                RawPairResult {
                    identifier: "",
                    ..good
                },
                Some(PairRejectReason::Identifier),
            ),
            (
                RawPairResult {
                    identifier: "a\u{7}",
                    ..good
                },
                Some(PairRejectReason::Identifier),
            ),
            (
                RawPairResult {
                    outcome: None,
                    ..good
                },
                Some(PairRejectReason::Outcome),
            ),
            (
                RawPairResult {
                    model: &long,
                    ..good
                },
                Some(PairRejectReason::Text),
            ),
            (
                RawPairResult {
                    error: &error,
                    ..good
                },
                Some(PairRejectReason::Text),
            ),
            (
                RawPairResult {
                    error: "two\nlines",
                    ..good
                },
                None,
            ),
        ] {
            assert_eq!(PairResult::parse(raw).err(), expected, "{raw:?}");
        }
    }

    #[test]
    fn the_names_of_statuses_are_those_of_the_installed_base_and_one_more() {
        let names: Vec<_> = PairingStatus::ALL.iter().map(|s| s.as_str()).collect();
        assert_eq!(
            names,
            [
                "PAIRED",
                "UNPAIRED",
                "AUTHENTICATION_NEEDED",
                "PENDING",
                "FAILED",
                "DEFAULT_PASSWORD",
                "OPEN"
            ]
        );
    }
}
