//! Typed ids, in one list. Database ids are 64-bit integers. Scan and command ids are UUIDv7, made from a time and
//! random bytes that the caller provides.

use std::{fmt, str::FromStr};

use crate::Timestamp;

macro_rules! integer_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

integer_ids! {
    /// An organization: the tenant to which every other row belongs.
    OrgId;
    /// An operator: a person or a script with a credential.
    OperatorId;
    /// An API key of an operator or a node.
    KeyId;
    /// A browser session of an operator.
    BrowserSessionId;
    /// A fleet node.
    NodeId;
    /// A site: the networks in which its nodes stand. Within a site, an address means one host.
    SiteId;
    /// A target that a site excludes from scans.
    SiteExcludeId;
    /// An invitation for a node.
    PendingEnrollmentId;
    /// A session of a node, opened by a handshake.
    SessionId;
    /// A device in the inventory.
    DeviceId;
    /// A change of a device's identity that a report caused and an operator can revert.
    IdentityChangeId;
    /// A rule of alerts.
    AlertRuleId;
    /// A receiver of alerts: a webhook or an e-mail address.
    AlertChannelId;
}

/// A control stream of one server process. Ids are never reused within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// How many times the control stream of a node was claimed: the fencing token of its streams. It only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One start of a node's process: 16 random bytes that the node sends in every Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub [u8; 16]);

/// One start of a server's process: 16 random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub [u8; 16]);

/// A text that is not the canonical form of a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an id: expected a lower-case UUID such as 0199d2c0-5b1e-7c3a-9f00-1234567890ab"
)]
pub struct ParseUuidError(String);

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// Creates a UUIDv7 (RFC 9562) from the time and ten random bytes.
            pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
                // A clock before 1970 only costs the order of
                // the ids. The random bytes keep them apart.
                let millis = u64::try_from(now.as_millis()).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseUuidError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let refused = || ParseUuidError(text.chars().take(64).collect());
                // `try_parse` also accepts upper case, braces
                // and `urn:uuid:`. One id must have one text.
                let id = uuid::Uuid::try_parse(text).map(Self).map_err(|_| refused())?;
                if id.to_string() == text { Ok(id) } else { Err(refused()) }
            }
        }
    )*};
}

uuid_ids! {
    /// A scan that an operator requested.
    ScanId;
    /// A pairing that an operator requested of a node.
    PairingId;
    /// A scan that is repeated at set times.
    ScheduleId;
    /// One attempt of a chunk on a node, or one part of a pairing.
    CommandId;
    /// A message to one channel of alerts. It stays the same over all attempts.
    AlertDeliveryId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_text_of_an_id_is_read() {
        let id = ScanId::new(Timestamp::from_micros(1_700_000_000_000_000), [7; 10]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "x",
            &id.to_string().to_uppercase(),
            &id.to_string().replace('-', ""),
        ] {
            assert!(text.parse::<ScanId>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_made_later_sort_later() {
        let at = |ms: i64| CommandId::new(Timestamp::from_micros(ms * 1000), [0xff; 10]);
        assert!(at(1_700_000_000_000) < at(1_700_000_000_001));
    }
}
