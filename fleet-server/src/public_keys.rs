//! Checks of the public keys that a node registers: canonical encodings of points that are not of low order. A lenient
//! decoder would accept two encodings of one key, and a point of low order has no secret.

use ed25519_dalek::VerifyingKey;
use fleet_wire::RpcError;

/// A public key of 32 bytes.
pub(crate) fn bytes32(bytes: &[u8], field: &str) -> Result<[u8; 32], RpcError> {
    bytes.try_into().map_err(|_| {
        RpcError::invalid_argument(format!(
            "{field} has {} bytes: it must have 32",
            bytes.len()
        ))
        .with_reason("INVALID_FIELD")
        .with_fact("field", field)
    })
}

/// An ed25519 public key. Points of small order are refused: any signature would verify with them.
pub(crate) fn identity_key(bytes: &[u8]) -> Result<VerifyingKey, RpcError> {
    let bytes = bytes32(bytes, "identity_pubkey")?;
    // The highest bit is the sign of x, not a part of y.
    let mut y = bytes;
    y[31] &= 0x7f;
    let key = VerifyingKey::from_bytes(&bytes)
        .ok()
        .filter(|key| is_reduced(&y) && !key.is_weak());
    key.ok_or_else(|| {
        RpcError::invalid_argument(
            "identity_pubkey is not a usable ed25519 public key: generate a new key pair",
        )
        .with_reason("INVALID_FIELD")
        .with_fact("field", "identity_pubkey")
    })
}

/// An X25519 public key that yields a shared secret (RFC 7748, 6.1: points of low order yield zeros).
pub(crate) fn encryption_key(bytes: &[u8]) -> Result<[u8; 32], RpcError> {
    let bytes = bytes32(bytes, "encryption_pubkey")?;
    let secret = x25519_dalek::StaticSecret::from([1; 32]);
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(bytes));
    if is_reduced(&bytes) && shared.was_contributory() {
        return Ok(bytes);
    }
    Err(RpcError::invalid_argument(
        "encryption_pubkey is not a usable X25519 public key: generate a new key pair",
    )
    .with_reason("INVALID_FIELD")
    .with_fact("field", "encryption_pubkey"))
}

/// Whether a little-endian number is below 2^255 - 19, the prime of both curves.
fn is_reduced(number: &[u8; 32]) -> bool {
    const PRIME: [u8; 32] = {
        let mut prime = [0xff; 32];
        prime[0] = 0xed;
        prime[31] = 0x7f;
        prime
    };
    number.iter().rev().lt(PRIME.iter().rev())
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    /// Points of low order of Curve25519 in every encoding, also above the prime and with the highest bit set (D. J.
    /// Bernstein, "Curve25519: which public keys are unsafe?").
    const MONTGOMERY: [&str; 12] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "cdeb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
        "4c9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
        "d9ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "daffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "dbffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ];

    /// Points of low order of ed25519: the eight canonical encodings, then the six that are not (K. Chalkias,
    /// F. Garillot, V. Nikolaenko, "Taming the many EdDSAs", table 1).
    const EDWARDS: [&str; 14] = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ];

    fn bytes(hex: &str) -> [u8; 32] {
        let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
        assert!(rest.is_empty());
        let byte = |pair: &[u8; 2]| {
            let text = str::from_utf8(pair).expect("ascii");
            u8::from_str_radix(text, 16).expect("hex")
        };
        let bytes: Vec<_> = pairs.iter().map(byte).collect();
        bytes.try_into().expect("32 bytes")
    }

    /// The nineteen numbers from the prime to 2^255 - 1.
    fn unreduced() -> impl Iterator<Item = [u8; 32]> {
        (0xed..=0xff).map(|low| {
            let mut number = [0xff; 32];
            number[0] = low;
            number[31] = 0x7f;
            number
        })
    }

    #[test]
    fn every_encoding_of_a_low_order_point_is_refused() {
        for hex in MONTGOMERY {
            let refused = encryption_key(&bytes(hex)).expect_err(hex);
            assert!(refused.message.contains("encryption_pubkey"), "{refused}");
            let mut with_high_bit = bytes(hex);
            with_high_bit[31] |= 0x80;
            assert!(encryption_key(&with_high_bit).is_err(), "{hex}");
        }
        for hex in EDWARDS {
            let refused = identity_key(&bytes(hex)).expect_err(hex);
            assert!(refused.message.contains("identity_pubkey"), "{refused}");
        }
    }

    #[test]
    fn a_non_canonical_encoding_is_refused() {
        for number in unreduced() {
            assert!(encryption_key(&number).is_err(), "{number:?}");
            for sign in [0, 0x80] {
                let mut encoded = number;
                encoded[31] |= sign;
                assert!(identity_key(&encoded).is_err(), "{encoded:?}");
            }
        }
        // X25519 ignores the highest bit of a key, so setting it gives a second encoding of the same key.
        let mut doubled = [9; 32];
        assert!(encryption_key(&doubled).is_ok());
        doubled[31] |= 0x80;
        assert!(encryption_key(&doubled).is_err());
    }

    #[test]
    fn generated_keys_are_accepted_and_bytes_off_the_curve_are_not() {
        for seed in 0..=255 {
            let public = SigningKey::from_bytes(&[seed; 32]).verifying_key();
            assert_eq!(identity_key(public.as_bytes()).ok(), Some(public));
            let secret = x25519_dalek::StaticSecret::from([seed; 32]);
            let public = x25519_dalek::PublicKey::from(&secret);
            assert_eq!(
                encryption_key(public.as_bytes()).ok(),
                Some(*public.as_bytes())
            );
        }
        // No point of the curve has y = 2.
        let mut off_curve = [0; 32];
        off_curve[0] = 2;
        assert!(identity_key(&off_curve).is_err());
        assert!(
            identity_key(&[0; 31])
                .expect_err("is short")
                .message
                .contains("31")
        );
    }
}
