//! Formats of the secrets of operators and nodes, and of the challenge that a node signs. The caller provides random
//! bytes. Only hashes are stored.

use std::{fmt, ops::RangeInclusive};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::NodeId;

/// The kind of a secret. Its prefix names the kind, for people and for scanners of leaked secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretKind {
    /// `fnc_`: an enrollment code, 256 bits.
    EnrollmentCode,
    /// `fnk_`: a node's API key, 256 bits.
    NodeKey,
    /// `fok_`: an operator's API key, 256 bits.
    OperatorKey,
    /// `fns_`: a node's session token, 256 bits.
    NodeSession,
    /// `fos_`: an operator's browser session, 256 bits.
    OperatorSession,
}

impl SecretKind {
    /// Returns the prefix, including the underscore.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::EnrollmentCode => "fnc_",
            Self::NodeKey => "fnk_",
            Self::OperatorKey => "fok_",
            Self::NodeSession => "fns_",
            Self::OperatorSession => "fos_",
        }
    }
}

/// A secret in clear text. Wiped when dropped; its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// Base62 digits that hold 256 bits: ceil(256 / log2(62)).
const BODY_DIGITS: usize = 43;
/// Base62 digits that hold a CRC32: ceil(32 / log2(62)).
const TAIL_DIGITS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A text that is not a secret of the expected kind. The error never contains the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// The prefix, length or alphabet is wrong.
    #[error("not a `{0}...` secret: expected the prefix and 49 letters and digits")]
    Shape(&'static str),
    /// The checksum at the end does not match.
    #[error("this `{0}...` secret was copied incompletely or changed: its checksum does not match")]
    Checksum(&'static str),
}

impl Secret {
    /// Encodes 32 random bytes as a secret of this kind: prefix, 43 base62 digits, and 6 digits of CRC32 over
    /// everything before them.
    pub fn new(kind: SecretKind, random: &[u8; 32]) -> Self {
        // A string that grows leaves a copy of the secret in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(53));
        text.push_str(kind.prefix());
        push_base62(&mut text, random, BODY_DIGITS);
        let sum = crc32fast::hash(text.as_bytes());
        push_base62(&mut text, &sum.to_be_bytes(), TAIL_DIGITS);
        Self(text)
    }

    /// Parses a secret of this kind.
    ///
    /// # Errors
    ///
    /// [`InvalidSecret`] if prefix, length, alphabet or checksum are wrong. The server does not need this check,
    /// because an unknown secret has an unknown hash. Prompts use it to detect typing errors early.
    pub fn parse(kind: SecretKind, text: &str) -> Result<Self, InvalidSecret> {
        let prefix = kind.prefix();
        let digits = text
            .strip_prefix(prefix)
            .ok_or(InvalidSecret::Shape(prefix))?;
        if digits.len() != BODY_DIGITS + TAIL_DIGITS
            || !digits.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(InvalidSecret::Shape(prefix));
        }
        let (head, tail) = text.split_at(text.len() - TAIL_DIGITS);
        let mut expected = String::new();
        push_base62(
            &mut expected,
            &crc32fast::hash(head.as_bytes()).to_be_bytes(),
            TAIL_DIGITS,
        );
        // The checksum follows from the text, so its comparison reveals nothing.
        if expected == tail {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(InvalidSecret::Checksum(prefix))
        }
    }

    /// Returns the clear text, for the one place that displays it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the hash that is stored.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Appends `bytes`, a big-endian number, in base62 with leading zeros.
fn push_base62(text: &mut String, bytes: &[u8], digits: usize) {
    let mut number = Zeroizing::new(bytes.to_vec());
    let mut reversed = Zeroizing::new(Vec::with_capacity(digits));
    for _ in 0..digits {
        let mut remainder = 0_u16;
        for byte in number.iter_mut() {
            let value = remainder << 8 | u16::from(*byte);
            // The value is below 62 * 256, so the quotient fits a byte.
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        reversed.push(BASE62[usize::from(remainder)]);
    }
    text.extend(reversed.iter().rev().copied().map(char::from));
}

/// The SHA-256 of a secret, the only stored form. The secrets are random and need no salt.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Hashes a clear text.
    pub fn of(text: &str) -> Self {
        Self::of_bytes(text.as_bytes())
    }

    /// Hashes raw bytes, such as a challenge.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps a hash from storage.
    pub const fn from_stored(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes for storage.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for SecretHash {
    /// Compares in constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// The first bytes of everything that a node of this product signs for a server of this product.
const OWN_TAG: &[u8] = b"fleet-node-";
/// The length of a challenge on the wire.
const CHALLENGE_LENGTHS: RangeInclusive<usize> = 16..=64;

/// The first bytes of every challenge. An upstream node signs the raw challenge, so the challenge itself must
/// separate the domains. A signature for a handshake is then invalid for any other purpose.
pub const CHALLENGE_TAG: &[u8; 16] = b"fleet-node-auth1";
/// Tag and 32 random bytes; the wire allows 16 to 64.
pub const CHALLENGE_BYTES: usize = 48;

/// Builds a challenge from 32 random bytes.
pub fn challenge(random: &[u8; 32]) -> [u8; CHALLENGE_BYTES] {
    let mut bytes = [0; CHALLENGE_BYTES];
    bytes[..16].copy_from_slice(CHALLENGE_TAG);
    bytes[16..].copy_from_slice(random);
    bytes
}

/// Whether a challenge has the tag and enough randomness to be signed.
pub fn is_domain_separated(challenge: &[u8]) -> bool {
    challenge.len() == CHALLENGE_BYTES && challenge.starts_with(CHALLENGE_TAG)
}

/// Whether a node that is enrolled with an upstream server may sign a challenge. Such a challenge has no tag. One with
/// a tag of this product could have been relayed from another server, where the signature would open a session.
pub fn is_upstream_challenge(challenge: &[u8]) -> bool {
    CHALLENGE_LENGTHS.contains(&challenge.len()) && !challenge.starts_with(OWN_TAG)
}

/// The statement that a node of this product signs when it registers. It prevents the enrollment of another party's
/// key. It contains a tag of its own, the hash of the code, both public keys and the name.
pub fn registration_statement(
    code: &SecretHash,
    name: &str,
    identity_key: &[u8; 32],
    encryption_key: &[u8; 32],
) -> Vec<u8> {
    [
        // Only the last part has a variable length, so the parts cannot be confused.
        b"fleet-node-reg1\0".as_slice(),
        code.as_bytes(),
        identity_key,
        encryption_key,
        name.as_bytes(),
    ]
    .concat()
}

/// The statement that a confirmed node signs to fetch its API key. It contains a tag of its own, so no challenge and no
/// registration can be taken for it. The sequence only grows: an older request has no effect.
pub fn key_statement(node: NodeId, sequence: i64) -> Vec<u8> {
    [
        b"fleet-node-key1\0".as_slice(),
        &node.0.to_be_bytes(),
        &sequence.to_be_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [SecretKind; 5] = [
        SecretKind::EnrollmentCode,
        SecretKind::NodeKey,
        SecretKind::OperatorKey,
        SecretKind::NodeSession,
        SecretKind::OperatorSession,
    ];

    #[test]
    fn the_format_is_final() {
        // Computed by an independent implementation.
        for (byte, expected) in [
            (0, "fnc_00000000000000000000000000000000000000000004gW5WE"),
            (255, "fnc_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp11XjhFS"),
        ] {
            assert_eq!(
                Secret::new(SecretKind::EnrollmentCode, &[byte; 32]).expose(),
                expected
            );
        }
    }

    proptest! {
        #![proptest_config(crate::regressions!("secret"))]
        #[test]
        fn a_secret_reads_back_and_one_wrong_letter_is_noticed(random: [u8; 32], at in 4_usize..53, letter in "[0-9A-Za-z]") {
            for kind in KINDS {
                let secret = Secret::new(kind, &random);
                prop_assert_eq!(Secret::parse(kind, secret.expose()), Ok(secret.clone()));
                let mut changed = secret.expose().to_owned();
                changed.replace_range(at..=at, &letter);
                if changed != secret.expose() {
                    prop_assert!(Secret::parse(kind, &changed).is_err());
                }
            }
        }
    }

    #[test]
    fn different_bytes_are_different_secrets() {
        let mut seen = std::collections::BTreeSet::new();
        for bit in 0..256 {
            let mut random = [0; 32];
            random[bit / 8] = 1 << (bit % 8);
            assert!(
                seen.insert(
                    Secret::new(SecretKind::NodeKey, &random)
                        .expose()
                        .to_owned()
                )
            );
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::new(SecretKind::NodeKey, &[9; 32]);
        assert!(!format!("{secret:?}{:?}", secret.hash()).contains("fnk_"));
    }

    #[test]
    fn only_a_tagged_challenge_is_signed() {
        assert!(is_domain_separated(&challenge(&[1; 32])));
        assert!(!is_domain_separated(&[1; 48]));
        assert!(!is_domain_separated(CHALLENGE_TAG));
        assert!(!is_domain_separated(
            &[challenge(&[1; 32]).as_slice(), b"x"].concat()
        ));
    }

    #[test]
    fn a_challenge_for_upstream_has_its_length_and_no_tag_of_ours() {
        let registration = registration_statement(&SecretHash::of("x"), "n", &[1; 32], &[2; 32]);
        // An upstream node signs any challenge of this length, so the length of this statement must differ.
        let key = key_statement(NodeId(7), 9);
        assert!(!is_domain_separated(&key) && key != registration);
        for (challenge, expected) in [
            ([7; 15].as_slice(), false),
            (&[7; 16], true),
            (&[7; 64], true),
            (&[7; 65], false),
            (&challenge(&[1; 32]), false),
            (CHALLENGE_TAG, false),
            (&registration[..64], false),
            (&key, false),
        ] {
            assert_eq!(is_upstream_challenge(challenge), expected, "{challenge:?}");
        }
    }
}
