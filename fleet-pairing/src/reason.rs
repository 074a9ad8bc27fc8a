//! Why two identifiers belong to one device. Operators see the reason beside an alias; storage keeps it as text.

use std::{fmt, str::FromStr};

use fleet_core::{DeviceIdentifier, UnknownState};

/// Why the identifier of a device changed, or why two records were merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentityReason {
    /// A device known by endpoint or serial reported a MAC.
    ShowedMac,
    /// A device known by its endpoint reported a serial.
    ShowedSerial,
    /// Two records of one site had the same endpoint.
    SameEndpoint,
    /// Its node was replaced, and the hash with the id of the revoked node matches endpoint and type.
    Replacement,
    /// The change predates stored reasons.
    Earlier,
}

impl IdentityReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::ShowedMac,
        Self::ShowedSerial,
        Self::SameEndpoint,
        Self::Replacement,
        Self::Earlier,
    ];

    /// The name under which it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ShowedMac => "showed a mac",
            Self::ShowedSerial => "showed a serial",
            Self::SameEndpoint => "same endpoint",
            Self::Replacement => "replacement node",
            Self::Earlier => "earlier",
        }
    }

    /// The reason as a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::ShowedMac => "showed its MAC at the address and port where it was known",
            Self::ShowedSerial => "showed its serial at the address and port where it was known",
            Self::SameEndpoint => "two records of one site had one address and port",
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
            DeviceIdentifier::Auto(_) => Self::SameEndpoint,
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
