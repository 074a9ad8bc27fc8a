//! ID tokens: signatures are verified here, by the crate `jsonwebtoken` with the cryptography of `ring`. The rules for
//! claims are pure and in [`fleet_core::sso`].

use fleet_core::sso::TokenClaims;
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, EncodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    decode, decode_header,
    errors::{Error, ErrorKind},
    jwk::{Jwk, PublicKeyUse},
    signature,
};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Map, Value};

use super::{EMAIL_VERIFIED, document::Keys};

/// The most groups that are read from a token.
const GROUPS_MOST: usize = 1_000;

/// Why the signature of a token could not be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unverified {
    /// Newer keys may contain the key.
    #[error("the ID token is signed with a key that the provider does not publish")]
    UnknownKey,
    #[error("the ID token is signed with an algorithm that is not accepted")]
    Algorithm,
    #[error("the signature of the ID token is not valid")]
    Signature,
    #[error("the ID token cannot be read")]
    Syntax,
}

/// The claims whose names the administrator can choose.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimNames<'a> {
    /// The claim with the groups.
    pub(super) groups: &'a str,
    /// The claim that says whether the e-mail is verified.
    pub(super) verified: &'a str,
}

/// Verifies the signature of a token and reads its claims.
pub(super) fn verify(
    token: &str,
    keys: &Keys,
    names: ClaimNames<'_>,
) -> Result<TokenClaims, Unverified> {
    // It fails if it was called before.
    let _ = PROVIDER.install_default();
    let header = decode_header(token).map_err(|error| {
        // `none` is no algorithm of the crate.
        if matches!(error.kind(), ErrorKind::Json(_)) {
            Unverified::Algorithm
        } else {
            Unverified::Syntax
        }
    })?;
    if !is_accepted(header.alg) || header.crit.is_some() {
        return Err(Unverified::Algorithm);
    }
    let key = find(&header, keys).ok_or(Unverified::UnknownKey)?;
    let mut validation = Validation::new(header.alg);
    // These rules are checked with the clock of the server, by `TokenClaims::check`.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let verified = decode::<Map<String, Value>>(token, &key, &validation);
    let claims = verified.map_err(|error| {
        if matches!(error.kind(), ErrorKind::InvalidSignature) {
            Unverified::Signature
        } else {
            Unverified::Syntax
        }
    })?;
    read(&claims.claims, names).ok_or(Unverified::Syntax)
}

/// Algorithms with public keys. Those with a shared secret would let everybody sign who knows the client secret.
fn is_accepted(algorithm: Algorithm) -> bool {
    rsa(algorithm).is_some() || curve(algorithm).is_some()
}

/// The key that a token names. A token that names none is signed with the only key of its kind.
fn find(header: &Header, keys: &Keys) -> Option<DecodingKey> {
    let mut suitable = keys.keys.iter().filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
        let signs = jwk
            .common
            .public_key_use
            .as_ref()
            .is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let named = header.kid.is_none() || header.kid == jwk.common.key_id;
        // A key for one algorithm verifies no other one.
        let same = key
            .get("alg")
            .and_then(Value::as_str)
            .is_none_or(|name| name.parse::<Algorithm>().is_ok_and(|alg| alg == header.alg));
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let fits = decoding.family() == header.alg.family();
        (signs && named && same && fits).then_some(decoding)
    });
    let first = suitable.next()?;
    if header.kid.is_none() && suitable.next().is_some() {
        return None;
    }
    Some(first)
}

fn read(claims: &Map<String, Value>, names: ClaimNames<'_>) -> Option<TokenClaims> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
    let seconds = |name: &str| {
        let value = claims.get(name)?;
        // RFC 7519 allows fractions of a second.
        value.as_i64().or_else(|| Some(value.as_f64()? as i64))
    };
    let not_before = match claims.get("nbf") {
        Some(_) => Some(seconds("nbf")?),
        None => None,
    };
    Some(TokenClaims {
        issuer: text("iss")?,
        subject: text("sub")?,
        audiences: texts(claims.get("aud")?)?,
        authorized_party: text("azp"),
        nonce: text("nonce"),
        expires_at: seconds("exp")?,
        issued_at: seconds("iat")?,
        not_before,
        email: text("email"),
        email_verified: is_verified(claims, names.verified),
        groups: groups(claims, names.groups),
    })
}

/// Whether a claim says that the e-mail is verified. Some providers send it as text. Claims with other names may be
/// numbers: Entra ID sends `xms_edov` as 1.
fn is_verified(claims: &Map<String, Value>, name: &str) -> bool {
    let is_named = name != EMAIL_VERIFIED;
    match claims.get(name) {
        Some(Value::Bool(verified)) => *verified,
        Some(Value::String(verified)) => verified == "true" || (is_named && verified == "1"),
        Some(Value::Number(verified)) => is_named && verified.as_i64() == Some(1),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
    }
}

/// One text or a list of texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    if let Some(one) = value.as_str() {
        return Some(vec![one.to_owned()]);
    }
    let texts = value.as_array()?.iter();
    texts
        .take(GROUPS_MOST)
        .map(|text| text.as_str().map(str::to_owned))
        .collect()
}

/// The values of a claim. A name with dots, such as `realm_access.roles`, may be a path.
fn groups(claims: &Map<String, Value>, name: &str) -> Vec<String> {
    let path = || {
        let (first, rest) = name.split_once('.')?;
        rest.split('.')
            .try_fold(claims.get(first)?, |value, part| value.get(part))
    };
    let found = claims.get(name).or_else(path);
    found.and_then(texts).unwrap_or_default()
}

/// The cryptography for `jsonwebtoken`. Its own choices would bring a second set of algorithms into the programs.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::InvalidAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if !is_accepted(*algorithm) || key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(RingVerifier {
        algorithm: *algorithm,
        key: key.clone(),
    }))
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl signature::Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let parameters = rsa(self.algorithm).ok_or_else(signature::Error::new)?;
                // ring wants the numbers without leading zeros, which some providers send.
                let key = RsaPublicKeyComponents {
                    n: trimmed(n),
                    e: trimmed(e),
                };
                key.verify(parameters, message, signature)
            }
            DecodingKeyKind::SecretOrDer(point) => {
                let algorithm = curve(self.algorithm).ok_or_else(signature::Error::new)?;
                UnparsedPublicKey::new(algorithm, point).verify(message, signature)
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}

fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    let known = [
        (Algorithm::RS256, &RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::RS384, &RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::RS512, &RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::PS256, &RSA_PSS_2048_8192_SHA256),
        (Algorithm::PS384, &RSA_PSS_2048_8192_SHA384),
        (Algorithm::PS512, &RSA_PSS_2048_8192_SHA512),
    ];
    let found = known.into_iter().find(|(of, _)| *of == algorithm);
    found.map(|(_, parameters)| parameters)
}

fn curve(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    let known: [(Algorithm, &'static dyn VerificationAlgorithm); 3] = [
        (Algorithm::ES256, &ECDSA_P256_SHA256_FIXED),
        (Algorithm::ES384, &ECDSA_P384_SHA384_FIXED),
        (Algorithm::EdDSA, &ED25519),
    ];
    let found = known.into_iter().find(|(of, _)| *of == algorithm);
    found.map(|(_, algorithm)| algorithm)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use ed25519_dalek::{Signer, SigningKey};
    use serde_json::json;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn keys(change: &[(&str, Value)]) -> Keys {
        let point = BASE64_URL_SAFE_NO_PAD.encode(key().verifying_key().as_bytes());
        let mut jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": point, "kid": "k1", "use": "sig", "alg": "EdDSA"});
        for (name, value) in change {
            jwk[name] = value.clone();
        }
        let unknown = json!({"kty": "NEW", "kid": "k0"});
        Keys {
            keys: vec![unknown, jwk],
        }
    }

    fn claims() -> Value {
        json!({
            "iss": "https://id.test", "sub": "7", "aud": "fleet", "exp": 2_000_000_000, "iat": 1_700_000_000.5,
            "nonce": "n", "email": "ann@acme.test", "email_verified": true,
            "groups": ["a", "b"], "realm_access": {"roles": ["c"]},
        })
    }

    fn token(header: Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = key().sign(message.as_bytes()).to_bytes();
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    fn header() -> Value {
        json!({"alg": "EdDSA", "kid": "k1"})
    }

    fn named(groups: &str) -> ClaimNames<'_> {
        ClaimNames {
            groups,
            verified: EMAIL_VERIFIED,
        }
    }

    #[test]
    fn a_signed_token_is_read() {
        let read =
            verify(&token(header(), &claims()), &keys(&[]), named("groups")).expect("is valid");
        let expected = TokenClaims {
            issuer: "https://id.test".into(),
            subject: "7".into(),
            audiences: vec!["fleet".into()],
            authorized_party: None,
            nonce: Some("n".into()),
            expires_at: 2_000_000_000,
            issued_at: 1_700_000_000,
            not_before: None,
            email: Some("ann@acme.test".into()),
            email_verified: true,
            groups: vec!["a".into(), "b".into()],
        };
        assert_eq!(read, expected);
        let unnamed = token(json!({"alg": "EdDSA"}), &claims());
        let read =
            verify(&unnamed, &keys(&[]), named("realm_access.roles")).expect("is the only key");
        assert_eq!(read.groups, ["c"]);
        assert!(
            verify(&unnamed, &keys(&[]), named("absent")).is_ok_and(|read| read.groups.is_empty())
        );
    }

    #[test]
    fn a_token_that_the_provider_did_not_sign_is_refused() {
        let valid = token(header(), &claims());
        let (message, _) = valid.rsplit_once('.').expect("a signature");
        let unsigned = format!(
            "{}.{}.",
            BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            BASE64_URL_SAFE_NO_PAD.encode(claims().to_string()),
        );
        let other = BASE64_URL_SAFE_NO_PAD.encode([0; 64]);
        for (token, keys, expected) in [
            (
                format!("{message}.{other}"),
                keys(&[]),
                Unverified::Signature,
            ),
            (format!("{message}."), keys(&[]), Unverified::Signature),
            (unsigned, keys(&[]), Unverified::Algorithm),
            (
                token(json!({"alg": "HS256", "kid": "k1"}), &claims()),
                keys(&[]),
                Unverified::Algorithm,
            ),
            (
                token(
                    json!({"alg": "EdDSA", "kid": "k1", "crit": ["x"]}),
                    &claims(),
                ),
                keys(&[]),
                Unverified::Algorithm,
            ),
            (
                token(json!({"alg": "ES256", "kid": "k1"}), &claims()),
                keys(&[]),
                Unverified::UnknownKey,
            ),
            (
                token(json!({"alg": "EdDSA", "kid": "k2"}), &claims()),
                keys(&[]),
                Unverified::UnknownKey,
            ),
            (
                valid.clone(),
                keys(&[("use", json!("enc"))]),
                Unverified::UnknownKey,
            ),
            (
                valid.clone(),
                keys(&[("alg", json!("RS256"))]),
                Unverified::UnknownKey,
            ),
            (
                token(header(), &json!({"sub": "7"})),
                keys(&[]),
                Unverified::Syntax,
            ),
            ("a.b".to_owned(), keys(&[]), Unverified::Syntax),
            (String::new(), keys(&[]), Unverified::Syntax),
        ] {
            assert_eq!(
                verify(&token, &keys, named("groups")),
                Err(expected),
                "{token}"
            );
        }
    }

    #[test]
    fn an_e_mail_counts_as_verified_only_if_the_provider_says_so() {
        let verified = |of: &'static str, sent: &[(&str, Value)]| {
            let mut claims = claims();
            claims["email_verified"] = Value::Null;
            for (name, value) in sent {
                claims[*name] = value.clone();
            }
            let names = ClaimNames {
                verified: of,
                ..named("groups")
            };
            let read = verify(&token(header(), &claims), &keys(&[]), names);
            read.expect("is signed").email_verified
        };
        for (value, standard, other) in [
            (json!(true), true, true),
            (json!("true"), true, true),
            (json!(1), false, true),
            (json!("1"), false, true),
            (json!(false), false, false),
            (json!("false"), false, false),
            (json!("yes"), false, false),
            (json!(0), false, false),
            (json!(2), false, false),
            (json!(1.5), false, false),
            (json!([true]), false, false),
            (json!({"true": true}), false, false),
            (Value::Null, false, false),
        ] {
            let claim = [("email_verified", value.clone())];
            assert_eq!(verified(EMAIL_VERIFIED, &claim), standard, "{value}");
            let claim = [("xms_edov", value.clone())];
            assert_eq!(verified("xms_edov", &claim), other, "{value}");
            // A claim that nobody named is not read, and the named one replaces the standard one.
            assert!(!verified(EMAIL_VERIFIED, &claim), "{value}");
            let both = [("xms_edov", value.clone()), ("email_verified", json!(true))];
            assert_eq!(verified("xms_edov", &both), other, "{value}");
        }
    }
}
