//! Seals working credentials: the server stores them, but only this node can read them.
//!
//! HPKE (RFC 9180) in base mode with X25519, HKDF-SHA256 and ChaCha20-Poly1305, to the node's own encryption key. A
//! sealed value is the 32-byte ephemeral key, then the ciphertext with its tag. The private key is in the node's state.

use fleet_core::limits;
use hpke::{
    Deserializable, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256,
};
use zeroize::Zeroizing;

type Kem = X25519HkdfSha256;
type PublicKey = <Kem as hpke::Kem>::PublicKey;

/// Separates sealed credentials from other uses of the key.
const PURPOSE: &[u8] = b"fleet device credentials 1";
/// Bytes of the ephemeral key at the start of a sealed value.
const EPHEMERAL: usize = 32;

/// Why a value cannot be sealed or opened. Reveals nothing about the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The sealed value would exceed the limit of a report.
    #[error("too long to be sealed: the limit is {} bytes", limits::SEALED_BYTES - 48)]
    TooLong,
    /// The key is invalid, or the value was sealed to another key or modified.
    #[error("not sealed to this key")]
    NotOurs,
}

/// The part of the credentials in a sealed value. One part is not accepted as the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialPart {
    /// The user name.
    Username,
    /// The password.
    Password,
}

impl CredentialPart {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Username => b"username",
            Self::Password => b"password",
        }
    }
}

/// Seals a text to a public encryption key.
///
/// # Errors
///
/// [`SealError::TooLong`]; [`SealError::NotOurs`] if the key is of low order.
pub fn seal(key: &[u8; 32], half: CredentialPart, text: &str) -> Result<Vec<u8>, SealError> {
    let key = PublicKey::from_bytes(key).map_err(|_| SealError::NotOurs)?;
    let (ephemeral, mut sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeS::Base,
        &key,
        PURPOSE,
        text.as_bytes(),
        half.label(),
    )
    .map_err(|_| SealError::NotOurs)?;
    let mut whole = ephemeral.to_bytes().to_vec();
    whole.append(&mut sealed);
    if whole.len() > limits::SEALED_BYTES {
        return Err(SealError::TooLong);
    }
    Ok(whole)
}

/// Separates the node's API key from other uses of the key.
const API_KEY: &[u8] = b"fleet node api key 1";

/// Opens an API key that the server sealed for the request that signed `statement`.
///
/// # Errors
///
/// [`SealError::NotOurs`].
pub(crate) fn open_api_key(
    key: &[u8; 32],
    statement: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<String>, SealError> {
    unseal(key, API_KEY, statement, sealed)
}

/// Opens a value from [`seal`] with the private encryption key.
///
/// # Errors
///
/// [`SealError::NotOurs`].
pub fn open(
    key: &[u8; 32],
    half: CredentialPart,
    sealed: &[u8],
) -> Result<Zeroizing<String>, SealError> {
    unseal(key, PURPOSE, half.label(), sealed)
}

fn unseal(
    key: &[u8; 32],
    purpose: &[u8],
    about: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<String>, SealError> {
    let not_ours = |_| SealError::NotOurs;
    let (ephemeral, sealed) = sealed
        .split_at_checked(EPHEMERAL)
        .ok_or(SealError::NotOurs)?;
    let key = <Kem as hpke::Kem>::PrivateKey::from_bytes(key).map_err(not_ours)?;
    let ephemeral = <Kem as hpke::Kem>::EncappedKey::from_bytes(ephemeral).map_err(not_ours)?;
    let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeR::Base,
        &key,
        &ephemeral,
        purpose,
        sealed,
        about,
    )
    .map_err(not_ours)?;
    String::from_utf8(opened)
        .map(Zeroizing::new)
        .map_err(|_| SealError::NotOurs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(private: &[u8; 32]) -> [u8; 32] {
        x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*private)).to_bytes()
    }

    #[test]
    fn only_the_nodes_key_opens_a_sealed_value() {
        let (ours, theirs) = ([7; 32], [8; 32]);
        let long = "p".repeat(1_024);
        for text in ["", "root", "pass wörd", &long] {
            let sealed = seal(&public(&ours), CredentialPart::Password, text).expect("sealed");
            assert!(sealed.len() <= limits::SEALED_BYTES);
            assert_eq!(sealed.len(), text.len() + 48);
            let opened = open(&ours, CredentialPart::Password, &sealed).expect("opened");
            assert_eq!(opened.as_str(), text);
            assert_eq!(
                open(&theirs, CredentialPart::Password, &sealed),
                Err(SealError::NotOurs)
            );
            assert_eq!(
                open(&ours, CredentialPart::Username, &sealed),
                Err(SealError::NotOurs)
            );
            for at in [0, EPHEMERAL, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert_eq!(
                    open(&ours, CredentialPart::Password, &changed),
                    Err(SealError::NotOurs)
                );
            }
            assert_ne!(
                seal(&public(&ours), CredentialPart::Password, text).expect("sealed"),
                sealed,
                "the same text is sealed differently every time"
            );
        }
        assert_eq!(
            open(&ours, CredentialPart::Password, &[0; 20]),
            Err(SealError::NotOurs)
        );
    }

    #[test]
    fn values_too_long_for_a_report_are_rejected() {
        let key = public(&[7; 32]);
        let most = limits::SEALED_BYTES - 48;
        assert!(seal(&key, CredentialPart::Password, &"p".repeat(most)).is_ok());
        assert_eq!(
            seal(&key, CredentialPart::Password, &"p".repeat(most + 1)),
            Err(SealError::TooLong)
        );
        assert_eq!(
            seal(&[0; 32], CredentialPart::Password, "p"),
            Err(SealError::NotOurs)
        );
    }
}
