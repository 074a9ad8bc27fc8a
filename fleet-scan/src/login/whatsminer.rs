//! Login by API 2 of Whatsminers (TCP 4028). A read command is encrypted with a key that is derived from the password,
//! and only a device with the same password can read it and encrypt its answer.
//!
//! The exchange follows the maker's documents of API 1.3.8 and 2.0.5 and three public clients
//! ([decision 0062](../../../docs/decisions/0062-password-proofs.md)). The password itself is not sent. [`judge`]
//! decides the result.

use aes::{
    Aes256,
    cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Authenticated, IsExpected, Login, accepted, identify, md5crypt};
use crate::{
    driver::DriverError,
    fingerprint::{Fingerprints, LoginRule, Protocol},
    json,
    probe::Probe,
};

/// Bytes of a block of the cipher.
const BLOCK: usize = 16;

/// Longest salt and time of a token. Published ones have at most eight and ten characters.
const LONGEST_PART: usize = 32;

/// Codes of the API (document of API 2.0.5).
mod code {
    pub(super) const INVALID_COMMAND: i64 = 14;
    pub(super) const INVALID_JSON: i64 = 23;
    pub(super) const PERMISSION_DENIED: i64 = 45;
    pub(super) const OK: i64 = 131;
    pub(super) const COMMAND_ERROR: i64 = 132;
    pub(super) const TOKEN_WRONG: i64 = 135;
    pub(super) const TOO_MANY_TOKENS: i64 = 136;
}

/// Tries a password once. Without a login, returns that the device requires one if it supports such logins.
pub(super) async fn authenticate(
    probe: &mut Probe<'_>,
    rules: &Fingerprints,
    name: &str,
    known: &LoginRule,
    (command, login): (&str, Option<&Login>),
    is_expected: &IsExpected<'_>,
) -> Result<Authenticated, DriverError> {
    identify(probe, rules, name, Protocol::Cgminer, is_expected).await?;
    let token = match token(&ask(probe, br#"{"cmd":"get_token"}"#).await?) {
        Ok(token) => token,
        Err(NoToken::Unknown) => return Ok(Authenticated::Unprovable),
        Err(NoToken::Later(why)) => return Err(DriverError::Protocol(why.to_owned())),
    };
    let Some(login) = login else {
        return Ok(Authenticated::Wanted);
    };
    let key = md5crypt::hash(login.password().as_bytes(), token.salt.as_bytes());
    let signed = Zeroizing::new(format!("{}{}", *key, token.time));
    let sign = md5crypt::hash(signed.as_bytes(), token.new_salt.as_bytes());
    let cipher = Cipher::new(&key);
    let inner = Zeroizing::new(format!(r#"{{"cmd":"{command}","token":"{}"}}"#, *sign));
    let request = format!(r#"{{"enc":1,"data":"{}"}}"#, cipher.seal(inner.as_bytes()));
    let reply = ask(probe, request.as_bytes()).await?;
    match judge(&reply, &cipher) {
        Verdict::Accepted(value) => accepted(known, &known.shown, &value, login),
        Verdict::Refused => Ok(Authenticated::Refused),
        Verdict::Unprovable => Ok(Authenticated::Unprovable),
        Verdict::Undecided(why) => Err(DriverError::Protocol(why.to_owned())),
    }
}

/// Sends one request on a connection of its own, because devices close after an answer.
async fn ask(probe: &mut Probe<'_>, request: &[u8]) -> Result<Value, DriverError> {
    probe.close();
    let reply = probe.ask(request, json::is_complete).await;
    probe.close();
    json::parse(&reply?.bytes)
        .filter(Value::is_object)
        .ok_or_else(|| DriverError::Protocol("the answer is not JSON".to_owned()))
}

/// The values from which a device and its client derive their keys.
#[derive(Debug)]
struct Token {
    time: String,
    salt: String,
    new_salt: String,
}

/// Why there is no token.
#[derive(Debug, PartialEq, Eq)]
enum NoToken {
    /// The firmware has no encrypted commands.
    Unknown,
    /// A later attempt may succeed.
    Later(&'static str),
}

fn token(reply: &Value) -> Result<Token, NoToken> {
    let message = reply.get("Msg").unwrap_or(&Value::Null);
    let text = message.as_str().unwrap_or_default();
    if code_of(reply) == Some(code::TOO_MANY_TOKENS) || text.contains("over max") {
        return Err(NoToken::Later(TOO_MANY));
    }
    let part = |name: &str| Some(message.get(name)?.as_str()?.to_owned());
    let (Some(time), Some(salt), Some(new_salt)) = (part("time"), part("salt"), part("newsalt"))
    else {
        return Err(NoToken::Unknown);
    };
    let is_plain = |text: &String| {
        (1..=LONGEST_PART).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/'))
    };
    if [&time, &salt, &new_salt].into_iter().all(is_plain) {
        Ok(Token {
            time,
            salt,
            new_salt,
        })
    } else {
        Err(NoToken::Later("the token of the device is malformed"))
    }
}

const TOO_MANY: &str =
    "the device has no free token: tokens expire after 30 min, so try again later";

fn code_of(reply: &Value) -> Option<i64> {
    let code = reply.get("Code")?;
    code.as_i64().or_else(|| code.as_str()?.parse().ok())
}

/// AES-256 in ECB mode, as the API prescribes it.
struct Cipher(Aes256);

impl Cipher {
    fn new(key: &str) -> Self {
        let key = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(key.as_bytes())));
        Self(Aes256::new(&(*key).into()))
    }

    /// Encrypts text, padded with zero bytes, as Base64.
    fn seal(&self, plain: &[u8]) -> String {
        let mut bytes = plain.to_vec();
        bytes.resize(plain.len().next_multiple_of(BLOCK), 0);
        for block in bytes.chunks_exact_mut(BLOCK) {
            let mut one = [0; BLOCK];
            one.copy_from_slice(block);
            let mut one = one.into();
            self.0.encrypt_block(&mut one);
            block.copy_from_slice(&one);
        }
        STANDARD.encode(bytes)
    }

    /// Decrypts an answer of the API. None if it was encrypted with another key, and thus with another password.
    fn open(&self, sealed: &str) -> Option<Value> {
        let sealed: Vec<u8> = sealed
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        let mut bytes = Zeroizing::new(STANDARD.decode(sealed).ok()?);
        if !bytes.len().is_multiple_of(BLOCK) {
            return None;
        }
        for block in bytes.chunks_exact_mut(BLOCK) {
            let mut one = [0; BLOCK];
            one.copy_from_slice(block);
            let mut one = one.into();
            self.0.decrypt_block(&mut one);
            block.copy_from_slice(&one);
        }
        // The padding is of zero bytes or of control characters (PKCS#7), and JSON contains neither.
        let end = bytes.iter().rposition(|byte| *byte > 0x10)? + 1;
        let text = std::str::from_utf8(&bytes[..end]).ok()?;
        let value = text
            .starts_with('{')
            .then(|| json::parse(text.as_bytes()))??;
        value.get("STATUS").is_some().then_some(value)
    }
}

/// The meaning of the answer to an encrypted command.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The device has the same password. This is its answer.
    Accepted(Value),
    /// The device has another password.
    Refused,
    /// The firmware does not encrypt reads, so an answer verifies nothing.
    Unprovable,
    /// The answer does not depend on the password.
    Undecided(&'static str),
}

fn judge(reply: &Value, cipher: &Cipher) -> Verdict {
    let sealed = reply.get("enc").and_then(Value::as_str);
    let Some(sealed) = sealed else {
        return match code_of(reply) {
            // A device with another password cannot read the command.
            Some(code::TOKEN_WRONG | code::INVALID_JSON) => Verdict::Refused,
            // An answer that is not encrypted could come from any device.
            Some(code::OK | code::INVALID_COMMAND | code::COMMAND_ERROR) => Verdict::Unprovable,
            other => undecided(other),
        };
    };
    let Some(inner) = cipher.open(sealed) else {
        return Verdict::Refused;
    };
    match code_of(&inner) {
        Some(code::OK) => Verdict::Accepted(inner),
        other => undecided(other),
    }
}

fn undecided(code: Option<i64>) -> Verdict {
    Verdict::Undecided(match code {
        Some(code::PERMISSION_DENIED) => {
            "the device denies access to its API: change its default password and enable the API with WhatsMinerTool"
        }
        Some(code::TOKEN_WRONG) => "the token of the device expired: try again",
        Some(code::TOO_MANY_TOKENS) => TOO_MANY,
        _ => {
            "the device did not answer the encrypted command, so the password is neither right nor wrong"
        }
    })
}

/// Entry point for fuzzing. The bytes are an answer of the device, or both answers, separated by the byte `0xff`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut answers = bytes.splitn(2, |byte| *byte == 0xff);
    let first = answers.next().and_then(json::parse).unwrap_or(Value::Null);
    if let Ok(token) = token(&first) {
        assert!(
            [&token.time, &token.salt, &token.new_salt]
                .iter()
                .all(|part| part.len() <= LONGEST_PART)
        );
        let key = md5crypt::hash(b"correct horse", token.salt.as_bytes());
        assert_eq!(key.len(), 22);
    }
    let cipher = Cipher::new("x5JSSQzqF0lEACIGSL0Ld1");
    let second = answers.next().and_then(json::parse).unwrap_or(first);
    // Nobody but the owner of the key can make an answer that is accepted, so no input of a fuzzer does.
    assert!(!matches!(judge(&second, &cipher), Verdict::Accepted(_)));
    let text = String::from_utf8_lossy(bytes);
    let sealed = format!(
        r#"{{"STATUS":"S","Code":131,"Msg":{}}}"#,
        Value::from(&*text)
    );
    let reply = serde_json::json!({ "enc": cipher.seal(sealed.as_bytes()) });
    assert!(
        matches!(judge(&reply, &cipher), Verdict::Accepted(_)),
        "{sealed}"
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn cipher() -> Cipher {
        Cipher::new("x5JSSQzqF0lEACIGSL0Ld1")
    }

    #[test]
    fn only_an_answer_under_the_key_of_the_password_is_accepted() {
        let other = Cipher::new("oJ4iwz90R8yqDCofhsYzE.");
        let good = r#"{"STATUS":"S","Code":131,"Msg":{"mac":"02:00:5E:00:00:01"}}"#;
        let expired = r#"{"STATUS":"E","Code":135,"Msg":"check token err"}"#;
        let sealed = |cipher: &Cipher, text: &str| json!({ "enc": cipher.seal(text.as_bytes()) });
        for (reply, expected) in [
            (sealed(&cipher(), good), "Accepted"),
            (
                sealed(&cipher(), &format!("{good}\u{5}\u{5}\u{5}\u{5}\u{5}")),
                "Accepted",
            ),
            (sealed(&other, good), "Refused"),
            (sealed(&cipher(), expired), "Undecided"),
            (
                sealed(&cipher(), r#"{"cmd":"get_miner_info","token":"x"}"#),
                "Refused",
            ),
            (json!({ "enc": "" }), "Refused"),
            (json!({ "enc": "not base64" }), "Refused"),
            (
                json!({ "STATUS": "E", "Code": 135, "Msg": "check token err" }),
                "Refused",
            ),
            (
                json!({ "STATUS": "E", "Code": 23, "Msg": "json cmd err" }),
                "Refused",
            ),
            (
                json!({ "STATUS": "S", "Code": 131, "Msg": {} }),
                "Unprovable",
            ),
            (
                json!({ "STATUS": "E", "Code": 14, "Msg": "invalid cmd" }),
                "Unprovable",
            ),
            (
                json!({ "STATUS": "E", "Code": 45, "Msg": "can't access write cmd" }),
                "Undecided",
            ),
            (json!({ "STATUS": "E", "Code": 136 }), "Undecided"),
            (json!({}), "Undecided"),
        ] {
            let verdict = format!("{:?}", judge(&reply, &cipher()));
            assert!(verdict.starts_with(expected), "{reply}: {verdict}");
        }
    }

    /// Expected value: `openssl enc -aes-256-ecb -nopad -K SHA256(KEY)` of the zero-padded text.
    #[test]
    fn commands_are_encrypted_as_openssl_does() {
        assert_eq!(
            cipher().seal(br#"{"cmd":"get_miner_info","token":"t"}"#),
            "1M/Kf3NEmH68ohNCNRv/GUMMf1CMet7v/UhlFHq9/gOIYdR/Y5ZAMFuLvmzxwED5"
        );
    }

    #[test]
    fn a_token_is_used_only_if_its_parts_are_plain() {
        let good = json!({"time":"5626","salt":"BQ5hoXV9","newsalt":"jbzkfQls"});
        for (reply, expected) in [
            (json!({"STATUS":"S","Code":134,"Msg":good}), None),
            (
                json!({"STATUS":"E","Code":14,"Msg":"invalid cmd"}),
                Some(NoToken::Unknown),
            ),
            (json!({"Code":136}), Some(NoToken::Later(TOO_MANY))),
            (
                json!({"STATUS":"E","Code":132,"Msg":"over max connect"}),
                Some(NoToken::Later(TOO_MANY)),
            ),
            (
                json!({"Msg":{"time":"1","salt":"a$b","newsalt":"c"}}),
                Some(NoToken::Later("the token of the device is malformed")),
            ),
            (
                json!({"Msg":{"time":"","salt":"a","newsalt":"c"}}),
                Some(NoToken::Later("the token of the device is malformed")),
            ),
            (
                json!({"Msg":{"time":1,"salt":"a","newsalt":"c"}}),
                Some(NoToken::Unknown),
            ),
            (Value::Null, Some(NoToken::Unknown)),
        ] {
            assert_eq!(token(&reply).err(), expected, "{reply}");
        }
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("whatsminer-login"))]

        #[test]
        fn no_answer_is_accepted_without_the_key(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            fuzz(&bytes);
        }
    }
}
