//! Why two names are one device: what operators read beside an alias, and storage keeps as text.

use std::{fmt, str::FromStr};

use fleet_core::{DeviceIdentifier, UnknownState};

/// Why a device goes by another identifier than before, or why two records became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentityReason {
    /// It was known by its place or serial, and showed a MAC there.
    ShowedMac,
    /// It was known by its place, and showed a serial there.
    ShowedSerial,
    /// Two records of one node stood at one address and port.
    SamePlace,
    /// Its node was replaced, and the hash with the dead node's id matches place and type.
    Replacement,
    /// The change is older than the keeping of reasons.
    Earlier,
}

impl IdentityReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::ShowedMac,
        Self::ShowedSerial,
        Self::SamePlace,
        Self::Replacement,
        Self::Earlier,
    ];

    /// The name under which it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ShowedMac => "showed a mac",
            Self::ShowedSerial => "showed a serial",
            Self::SamePlace => "same place",
            Self::Replacement => "replacement node",
            Self::Earlier => "earlier",
        }
    }

    /// The reason in words for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::ShowedMac => "showed its MAC at the address and port where it was known",
            Self::ShowedSerial => "showed its serial at the address and port where it was known",
            Self::SamePlace => "two records of one node stood at one address and port",
            Self::Replacement => {
                "its node was replaced, and address, port, driver and model match the record of the revoked node"
            }
            Self::Earlier => "changed before reasons were kept",
        }
    }

    /// Why a record takes on an identifier that it shows now.
    pub(crate) fn of_upgrade(shown: &DeviceIdentifier) -> Self {
        match shown {
            DeviceIdentifier::Mac(_) => Self::ShowedMac,
            DeviceIdentifier::Serial(_) => Self::ShowedSerial,
            DeviceIdentifier::Auto(_) => Self::SamePlace,
        }
    }
}

impl fmt::Display for IdentityReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for IdentityReason {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| UnknownState::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_round_trip() {
        for reason in IdentityReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
    }
}
