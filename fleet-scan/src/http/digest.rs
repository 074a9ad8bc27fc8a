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
}

/// The answer to a challenge.
#[derive(Debug)]
pub(crate) struct ChallengeAnswer {
    /// The header line.
    pub(crate) line: Zeroizing<String>,
    /// The server's proof that it knows the password, if it sends one (`rspauth`, RFC 7616, 3.5).
    mutual: Zeroizing<String>,
}

impl ChallengeAnswer {
    /// Whether an `Authentication-Info` header contradicts the password. A device that accepts a password which it does
    /// not know is not the device of that password. Many devices send no proof.
    pub(crate) fn is_contradicted_by(&self, info: &str) -> bool {
        let mut sent = parameters(info)
            .into_iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("rspauth"));
        sent.any(|(_, proof)| !proof.eq_ignore_ascii_case(&self.mutual))
    }
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
        };
        let mut has_auth = false;
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => challenge.realm = value,
                "nonce" => challenge.nonce = value,
                "opaque" => challenge.opaque = Some(value),
                "qop" => {
                    has_auth = value
                        .split(',')
                        .any(|one| one.trim().eq_ignore_ascii_case("auth"));
                }
                "algorithm" if !value.eq_ignore_ascii_case("md5") => return None,
                _ => {}
            }
        }
        // A quote or line break in the challenge would let the device add header lines to our
        // request.
        // Without `qop="auth"` the proof has no nonce of ours, so a device could choose one for which it has a table of
        // passwords.
        let answerable = has_auth && !challenge.nonce.is_empty() && is_plain(&challenge.nonce);
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
    ) -> Result<ChallengeAnswer, DriverError> {
        let Self {
            realm,
            nonce,
            opaque,
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
        // Each client nonce is used once, so the count stays 1.
        let client = format!("{client:016x}");
        line.push_str(&format!(", qop=auth, nc=00000001, cnonce=\"{client}\""));
        let prove = |request: &str| {
            let text = format!("{}:{nonce}:00000001:{client}:auth:{request}", *secret);
            hex(&Zeroizing::new(text))
        };
        let proof = prove(&request);
        let mutual = Zeroizing::new(prove(&hex(&format!(":{path}"))));
        line.push_str(&format!(", response=\"{proof}\", algorithm=MD5"));
        if let Some(opaque) = opaque.as_ref().filter(|opaque| is_plain(opaque)) {
            line.push_str(&format!(", opaque=\"{opaque}\""));
        }
        line.push_str("\r\n");
        Ok(ChallengeAnswer {
            line: Zeroizing::new(line),
            mutual,
        })
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
    if let Ok(answer) = challenge.answer(&login, "GET", "/", 7) {
        let inner = answer.line.strip_suffix("\r\n").unwrap_or("\n");
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
        let answer = challenge
            .answer(&login, "GET", "/dir/index.html", client)
            .expect("an answer");
        let line = &answer.line;
        let secret = hex("Mufasa:testrealm@host.com:Circle Of Life");
        assert_eq!(secret, "939e7578ed9e3c518a452acee763bce9");
        let proof = hex(&format!(
            "{secret}:dcd98b7102dd2f0e8b11d0f600bfb0c093:00000001:{client:016x}:auth:{}",
            "39aff3a2bab6126f332b942af96d3366"
        ));
        assert!(
            line.contains(&format!("response=\"{proof}\"")),
            "{}",
            **line
        );
        assert!(line.contains("opaque=\"5ccc069c403ebaf9f0171e9517f40e41\""));
        assert!(!line.contains("Circle"), "the password itself is not sent");
        let mutual = hex(&format!(
            "{secret}:dcd98b7102dd2f0e8b11d0f600bfb0c093:00000001:{client:016x}:auth:{}",
            hex(":/dir/index.html")
        ));
        assert!(!answer.is_contradicted_by(&format!("rspauth=\"{mutual}\", qop=auth")));
        assert!(!answer.is_contradicted_by("nextnonce=\"1\""));
        assert!(answer.is_contradicted_by(&format!("qop=auth, rspauth=\"{proof}\"")));
    }

    #[test]
    fn other_challenges_are_not_answered() {
        for header in [
            r#"Basic realm="antMiner Configuration""#,
            r#"Digest realm="antMiner Configuration""#,
            r#"Digest realm="antMiner", nonce="1""#,
            r#"Digest realm="antMiner", nonce="1", qop="auth-int""#,
            r#"Digest realm="antMiner", nonce="1", qop="auth", algorithm=SHA-256"#,
            "Digest realm=\"antMiner\", nonce=\"1\u{1}\", qop=\"auth\"",
            "Digest",
            "",
        ] {
            assert_eq!(Challenge::parse(header), None, "{header}");
        }
        let bare = Challenge::parse("digest nonce=abc , realm=antMiner, qop=auth");
        let bare = bare.expect("a challenge");
        assert_eq!((bare.realm(), &*bare.nonce), ("antMiner", "abc"));
    }

    #[test]
    fn no_header_injection_is_possible() {
        let challenge = Challenge::parse(r#"Digest realm="antMiner", nonce="1", qop="auth""#)
            .expect("a challenge");
        for username in ["a\"b", "a\r\nX: y", "a\\"] {
            let login = Login::new(username.to_owned(), "secret".to_owned());
            assert!(challenge.answer(&login, "GET", "/", 1).is_err());
        }
    }
}
