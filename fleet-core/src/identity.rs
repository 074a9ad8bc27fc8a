//! Identifiers of devices, from MAC, serial or endpoint, and the fingerprint of a node's identity key.
//! `fleet-pairing` decides which record an identifier belongs to.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::{Endpoint, Mac, NodeId, text::is_unsafe};

/// A serial number that identifies a device: 1 to 248 visible characters, not a placeholder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
    /// Parses and trims a serial. Returns none for a placeholder (empty, `N/A`, `unknown`, only zeros and dashes) and
    /// for a text that does not fit an identifier. Invisible characters are rejected too, because two serials that
    /// look the same must be equal.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let nothing = text.chars().all(|c| matches!(c, '0' | '-' | ' ' | ':'))
            || matches!(
                lower.as_str(),
                "n/a" | "na" | "none" | "null" | "unknown" | "undefined"
            );
        // An identifier has at most 255 characters on the wire, seven of them `serial:`.
        let fits = text.chars().count() <= 248 && !text.chars().any(is_blank_or_unsafe);
        (!nothing && fits).then(|| Self(text.to_owned()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character is unsafe, or a blank other than the space.
fn is_blank_or_unsafe(c: char) -> bool {
    is_unsafe(c) || (c.is_whitespace() && c != ' ')
}

/// The stable identity of a device within an organization, strongest kind first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceIdentifier {
    /// `mac:` and the upper-case colon form.
    Mac(Mac),
    /// `serial:` and the serial.
    Serial(Serial),
    /// `auto:` and 16 lower-case hex digits: a hash of endpoint and type.
    Auto([u8; 8]),
}

impl DeviceIdentifier {
    /// Whether it identifies the device itself and not its endpoint.
    pub fn is_strong(&self) -> bool {
        match self {
            Self::Mac(_) | Self::Serial(_) => true,
            Self::Auto(_) => false,
        }
    }

    /// Returns the strongest available identifier.
    pub fn derive(
        mac: Option<Mac>,
        serial: Option<&Serial>,
        node: NodeId,
        endpoint: Endpoint,
        driver: &str,
        model: &str,
    ) -> Self {
        match (mac.filter(|mac| !mac.is_placeholder()), serial) {
            (Some(mac), _) => Self::Mac(mac),
            (None, Some(serial)) => Self::Serial(serial.clone()),
            (None, None) => auto_identifier(node, endpoint, driver, model),
        }
    }
}

/// Returns the identifier of a device without MAC and serial. It is the first 8 bytes of SHA-256 over node id in
/// decimal, address, port, driver and model, joined by single NUL bytes. The node id separates two sites with the
/// same private range.
pub fn auto_identifier(
    node: NodeId,
    endpoint: Endpoint,
    driver: &str,
    model: &str,
) -> DeviceIdentifier {
    let Endpoint { ip, port } = endpoint;
    // The installed base computes the same hash. Reports
    // contain no NUL, so fields cannot run together.
    let text = format!("{node}\0{ip}\0{port}\0{driver}\0{model}");
    DeviceIdentifier::Auto(first_eight(text.as_bytes()))
}

fn first_eight(bytes: &[u8]) -> [u8; 8] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    [a, b, c, d, e, f, g, h]
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for DeviceIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "mac:{mac}"),
            Self::Serial(serial) => write!(f, "serial:{}", serial.0),
            Self::Auto(hash) => {
                f.write_str("auto:")?;
                write_hex(f, hash)
            }
        }
    }
}

/// A text that is not a canonical identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a device identifier: expected `mac:02:00:5E:10:00:01`, `serial:` and a serial, or `auto:` and 16 hex digits"
)]
pub struct InvalidIdentifier(String);

impl FromStr for DeviceIdentifier {
    type Err = InvalidIdentifier;

    /// Parses what [`fmt::Display`] writes. Other spellings of a MAC are accepted too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once(':') {
            Some(("mac", rest)) => rest
                .parse()
                .ok()
                .filter(|mac: &Mac| !mac.is_placeholder())
                .map(Self::Mac),
            Some(("serial", rest)) => Serial::new(rest).map(Self::Serial),
            Some(("auto", rest))
                if rest.len() == 16
                    // `from_str_radix` also accepts a plus sign.
                    && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
            {
                u64::from_str_radix(rest, 16)
                    .ok()
                    .map(|hash| Self::Auto(hash.to_be_bytes()))
            }
            _ => None,
        };
        parsed.ok_or_else(|| {
            InvalidIdentifier(text.chars().take(64).flat_map(char::escape_debug).collect())
        })
    }
}

/// The fingerprint that an operator compares at enrollment: lower-case hex of the first 8 bytes of SHA-256 over the
/// raw 32-byte identity public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// Computes the fingerprint of an ed25519 public key.
    pub fn of(identity_key: &[u8; 32]) -> Self {
        Self(first_eight(identity_key))
    }

    /// Computes the fingerprint of a node that has proved its possession of the identity key over both keys. A party
    /// between node and server can then exchange neither key, nor drop the proof: the operator would compare two
    /// different fingerprints.
    pub fn of_both(identity_key: &[u8; 32], encryption_key: &[u8; 32]) -> Self {
        let keys = [b"fleet-node-keys1".as_slice(), identity_key, encryption_key];
        Self(first_eight(&keys.concat()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Port, parse_literal};

    fn auto(node: i64, ip: &str, port: u16, driver: &str, model: &str) -> String {
        let endpoint = Endpoint {
            ip: parse_literal(ip).expect("a literal"),
            port: Port::new(port).expect("a port"),
        };
        auto_identifier(NodeId(node), endpoint, driver, model).to_string()
    }

    #[test]
    fn automatic_identifiers_have_the_published_vectors() {
        assert_eq!(
            auto(1, "10.0.0.7", 4028, "antminer", "S19"),
            "auto:bc7e693e1d31d8f6"
        );
        assert_eq!(
            auto(42, "192.168.1.20", 80, "asicrs", ""),
            "auto:f14f697b8f32b52d"
        );
    }

    #[test]
    fn two_sites_with_one_range_stay_apart() {
        assert_ne!(
            auto(1, "10.0.0.7", 80, "x", ""),
            auto(2, "10.0.0.7", 80, "x", "")
        );
    }

    #[test]
    fn identifiers_round_trip_through_their_text() {
        for text in [
            "mac:02:00:5E:10:00:0A",
            "serial:ABC 123",
            "serial:a:b",
            "auto:00ff00ff00ff00ff",
        ] {
            assert_eq!(
                text.parse::<DeviceIdentifier>().map(|id| id.to_string()),
                Ok(text.into()),
                "{text}"
            );
        }
        assert_eq!(
            "mac:0200.5e10.000a"
                .parse::<DeviceIdentifier>()
                .map(|id| id.to_string()),
            Ok("mac:02:00:5E:10:00:0A".into())
        );
    }

    #[test]
    fn texts_that_identify_nothing_are_refused() {
        for text in [
            "",
            "mac:",
            "mac:00:00:00:00:00:00",
            "mac:FF:FF:FF:FF:FF:FF",
            "serial:",
            "serial:N/A",
            "serial:0000",
            "serial:unknown",
            "serial:a\nb",
            "serial:S\u{200b}1",
            "serial:S\u{202e}1",
            "serial:S\u{a0}1",
            "auto:XYZ",
            "auto:00FF00FF00FF00FF",
            "uuid:1",
        ] {
            assert!(text.parse::<DeviceIdentifier>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_fingerprint_is_the_head_of_the_hash() {
        // SHA-256 of 32 zero bytes begins 66687aadf862bd77.
        assert_eq!(Fingerprint::of(&[0; 32]).to_string(), "66687aadf862bd77");
        // Computed by an independent implementation.
        assert_eq!(
            Fingerprint::of_both(&[0; 32], &[1; 32]).to_string(),
            "61d4e4fc32ec6872"
        );
    }
}
