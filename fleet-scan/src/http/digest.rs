//! The client side of digest authentication (RFC 7616, 3.4, with MD5, which devices use). It proves knowledge of a
//! password without sending it. Basic authentication is not supported. Pure.

use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

use crate::{driver::DriverError, login::Login};

/// A server's challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// Whether the proof must include a client nonce (`qop="auth"`).
    mutual: bool,
}

impl Challenge {
    /// Parses a `WWW-Authenticate` header. None unless it is a supported digest challenge.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("digest") {
            return None;
        }
        let mut challenge = Self {
            realm: String::new(),
            nonce: String::new(),
            opaque: None,
            mutual: false,
        };
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => challenge.realm = value,
                "nonce" => challenge.nonce = value,
                "opaque" => challenge.opaque = Some(value),
                "qop" => {
                    challenge.mutual = value
                        .split(',')
                        .any(|one| one.trim().eq_ignore_ascii_case("auth"));
                }
                "algorithm" if !value.eq_ignore_ascii_case("md5") => return None,
                _ => {}
            }
        }
        // A quote or line break in the challenge would let the device add header lines to our
        // request.
        let answerable = !challenge.nonce.is_empty() && is_plain(&challenge.nonce);
        (answerable && is_plain(&challenge.realm)).then_some(challenge)
    }

    pub(crate) fn realm(&self) -> &str {
        &self.realm
    }

    /// The header line that answers the challenge for a request. `client` is 64 random bits.
    pub(crate) fn answer(
        &self,
        login: &Login,
        method: &str,
        path: &str,
        client: u64,
    ) -> Result<Zeroizing<String>, DriverError> {
        let Self {
            realm,
            nonce,
            opaque,
            mutual,
        } = self;
        let username = login.username();
        if !is_plain(username) {
            let why = "the user name has characters that such a login cannot carry".to_owned();
            return Err(DriverError::Protocol(why));
        }
        let secret = Zeroizing::new(format!("{username}:{realm}:{}", login.password()));
        let secret = Zeroizing::new(hex(&secret));
        let request = hex(&format!("{method}:{path}"));
        let mut line = format!(
            "Authorization: Digest username=\"{username}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{path}\""
        );
        let proof = if *mutual {
            let client = format!("{client:016x}");
            // Each client nonce is used once, so the count stays 1.
            line.push_str(&format!(", qop=auth, nc=00000001, cnonce=\"{client}\""));
            hex(&format!(
                "{}:{nonce}:00000001:{client}:auth:{request}",
                *secret
            ))
        } else {
            hex(&format!("{}:{nonce}:{request}", *secret))
        };
        line.push_str(&format!(", response=\"{proof}\", algorithm=MD5"));
        if let Some(opaque) = opaque.as_ref().filter(|opaque| is_plain(opaque)) {
            line.push_str(&format!(", opaque=\"{opaque}\""));
        }
        line.push_str("\r\n");
        Ok(Zeroizing::new(line))
    }
}

/// Whether a text is safe between quotes in a header line.
fn is_plain(text: &str) -> bool {
    !text.contains(['"', '\\']) && !text.chars().any(char::is_control)
}

fn hex(text: &str) -> String {
    Md5::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// `name=value, name="value, with a comma"`.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_start_matches([',', ' ', '\t']).trim().to_owned();
        let (value, left) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name, value.trim().to_owned()));
        rest = left;
    }
    found
}

/// Checks that the answer to any challenge is one header line without the password.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let header = String::from_utf8_lossy(bytes);
    let Some(challenge) = Challenge::parse(&header) else {
        return;
    };
    let login = Login::new("root".to_owned(), "correct horse battery".to_owned());
    if let Ok(line) = challenge.answer(&login, "GET", "/", 7) {
        let inner = line.strip_suffix("\r\n").unwrap_or("\n");
        assert!(!inner.chars().any(char::is_control), "{inner:?}");
        assert!(!inner.contains("battery") || header.contains("battery"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 2617, 3.5.
    #[test]
    fn the_proof_is_that_of_the_standards_example() {
        let header = r#"Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41""#;
        let challenge = Challenge::parse(header).expect("a challenge");
        let login = Login::new("Mufasa".to_owned(), "Circle Of Life".to_owned());
        let client = 0x0a4f_113b_u64;
        let line = challenge
            .answer(&login, "GET", "/dir/index.html", client)
            .expect("an answer");
        let secret = hex("Mufasa:testrealm@host.com:Circle Of Life");
        assert_eq!(secret, "939e7578ed9e3c518a452acee763bce9");
        let proof = hex(&format!(
            "{secret}:dcd98b7102dd2f0e8b11d0f600bfb0c093:00000001:{client:016x}:auth:{}",
            "39aff3a2bab6126f332b942af96d3366"
        ));
        assert!(line.contains(&format!("response=\"{proof}\"")), "{}", *line);
        assert!(line.contains("opaque=\"5ccc069c403ebaf9f0171e9517f40e41\""));
        assert!(!line.contains("Circle"), "the password itself is not sent");
    }

    #[test]
    fn other_challenges_are_not_answered() {
        for header in [
            r#"Basic realm="antMiner Configuration""#,
            r#"Digest realm="antMiner Configuration""#,
            r#"Digest realm="antMiner", nonce="1", algorithm=SHA-256"#,
            "Digest realm=\"antMiner\", nonce=\"1\u{1}\"",
            "Digest",
            "",
        ] {
            assert_eq!(Challenge::parse(header), None, "{header}");
        }
        let bare = Challenge::parse("digest nonce=abc , realm=antMiner").expect("a challenge");
        assert_eq!(
            (bare.realm(), &*bare.nonce, bare.mutual),
            ("antMiner", "abc", false)
        );
    }

    #[test]
    fn no_header_injection_is_possible() {
        let challenge =
            Challenge::parse(r#"Digest realm="antMiner", nonce="1""#).expect("a challenge");
        for username in ["a\"b", "a\r\nX: y", "a\\"] {
            let login = Login::new(username.to_owned(), "secret".to_owned());
            assert!(challenge.answer(&login, "GET", "/", 1).is_err());
        }
    }
}
