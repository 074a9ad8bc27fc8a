//! Hardware addresses of six octets as device identities. Several spellings are accepted, and one is written.

use std::{fmt, str::FromStr};

/// A 6-octet hardware address. It is written in upper case with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Creates the address from its octets.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// Returns the octets in transmission order.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether firmware without an address of its own uses this one: all zeros, all ones, or a multicast address. No
    /// interface owns a multicast address (IEEE 802, lowest bit of the first octet).
    pub fn is_placeholder(self) -> bool {
        self.0 == [0; 6] || self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}")
    }
}

/// A text that is not a 6-octet hardware address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a 6-octet MAC address: write 02:00:5E:10:00:01, 02-00-5e-10-00-01, 0200.5e10.0001 or 02005e100001"
)]
pub struct InvalidMac(String);

impl FromStr for Mac {
    type Err = InvalidMac;

    /// Parses the colon, dash, dot and bare forms, in either case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || InvalidMac(text.chars().take(32).flat_map(char::escape_debug).collect());
        let (separator, group) = match text.len() {
            12 => (None, 12),
            14 => (Some(b'.'), 4),
            17 if text.contains(':') => (Some(b':'), 2),
            17 => (Some(b'-'), 2),
            _ => return Err(refused()),
        };
        let mut octets = [0_u8; 6];
        let mut nibbles = 0;
        for (at, byte) in text.bytes().enumerate() {
            let between = at % (group + 1) == group;
            match separator {
                Some(expected) if between && byte == expected => continue,
                Some(_) if between => return Err(refused()),
                _ => {}
            }
            let nibble = char::from(byte).to_digit(16).ok_or_else(refused)?;
            let octet = octets.get_mut(nibbles / 2).ok_or_else(refused)?;
            *octet = *octet << 4 | u8::try_from(nibble).map_err(|_| refused())?;
            nibbles += 1;
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_one_address_is_one_address() {
        for text in [
            "02:00:5E:10:00:0a",
            "02-00-5e-10-00-0A",
            "0200.5e10.000a",
            "02005E10000a",
        ] {
            assert_eq!(
                text.parse::<Mac>().map(|mac| mac.to_string()),
                Ok("02:00:5E:10:00:0A".into()),
                "{text}"
            );
        }
    }

    #[test]
    fn other_lengths_and_mixed_separators_are_refused() {
        for text in [
            "",
            "02:00:5E:10:00",
            "02:00:5E:10:00:0A:0B:0C",
            "02:00-5E:10-00:0A",
            "0200:5e10:000a",
            "02005E10000",
            "g2005E10000a",
            "02:00:5E:10:00:é",
            "02 00 5e 10 00 0a",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn placeholders_are_known() {
        for (text, expected) in [
            ("000000000000", true),
            ("ffffffffffff", true),
            ("01005e000001", true),
            ("02005e100001", false),
        ] {
            assert_eq!(
                text.parse::<Mac>().map(Mac::is_placeholder),
                Ok(expected),
                "{text}"
            );
        }
    }
}
