//! Seals an API key to the encryption key of the node that fetches it: HPKE (RFC 9180) in base mode with X25519,
//! HKDF-SHA256 and ChaCha20-Poly1305. The node opens it in fleet-agent.

use fleet_core::Secret;
use fleet_wire::RpcError;
use hpke::{
    Deserializable, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256,
};

type Kem = X25519HkdfSha256;

/// Separates API keys from other uses of the node's key.
const PURPOSE: &[u8] = b"fleet node api key 1";

/// Seals a key for the request that signed `statement`. Returns the ephemeral key, then the ciphertext.
///
/// # Errors
///
/// INTERNAL when the encryption key is of low order, which the registration refuses.
pub(crate) fn seal(
    encryption_key: &[u8; 32],
    key: &Secret,
    statement: &[u8],
) -> Result<Vec<u8>, RpcError> {
    let unusable = |_| RpcError::internal("the node's encryption key is not usable");
    let to = <Kem as hpke::Kem>::PublicKey::from_bytes(encryption_key).map_err(unusable)?;
    let (ephemeral, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeS::Base,
        &to,
        PURPOSE,
        key.expose().as_bytes(),
        statement,
    )
    .map_err(unusable)?;
    Ok([ephemeral.to_bytes().as_slice(), &sealed].concat())
}
