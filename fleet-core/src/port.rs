//! TCP ports in canonical decimal, 1 to 65535.

use std::{fmt, num::NonZeroU16, str::FromStr};

/// A TCP port that can be dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// Creates the port with this number; none for 0.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Returns the number, which is never 0.
    pub const fn number(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a port: write a decimal number from 1 to 65535 without protocol, such as 4028"
)]
pub struct InvalidPort(String);

impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || InvalidPort(text.chars().take(32).flat_map(char::escape_debug).collect());
        // `parse` alone would accept `+80` and `080`.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        let number = if digits {
            text.parse().map_err(|_| refused())?
        } else {
            0
        };
        Self::new(number).ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_decimals_are_ports() {
        for number in [1_u16, 80, 4028, 65_535] {
            assert_eq!(
                number.to_string().parse::<Port>().map(Port::number),
                Ok(number)
            );
        }
        for text in [
            "",
            "0",
            "00",
            "080",
            "+80",
            "-1",
            " 80",
            "80 ",
            "80/tcp",
            "65536",
            "70000",
            "0x50",
            "٨٠",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Port>().is_err(), "{text}");
        }
    }
}
