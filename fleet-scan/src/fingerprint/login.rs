//! The login section of a rule file: data for `login.rs`. Pure.

use std::fmt;

use fleet_core::Port;
use regex::Regex;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::login::Login;

/// How to log in to the devices of a make.
#[derive(Debug, Clone)]
pub(crate) struct LoginRule {
    pub(crate) kind: KnownLogin,
    /// Factory-default user names and passwords.
    pub(crate) defaults: Vec<(String, String)>,
    pub(crate) shown: Shown,
    /// The port of the login, if it is not that of the web page.
    pub(crate) port: Option<Port>,
    /// The logins of older releases, newest first. All of them return a token or a cookie.
    pub(crate) older: Vec<LoginRule>,
}

impl LoginRule {
    /// The logins that return a token or a cookie, newest release first.
    pub(crate) fn variants(&self) -> impl Iterator<Item = (&TokenRule, &Shown)> {
        let all = std::iter::once(self).chain(&self.older);
        all.filter_map(|rule| match &rule.kind {
            KnownLogin::Token(token) => Some((token, &rule.shown)),
            KnownLogin::Open
            | KnownLogin::Unprovable
            | KnownLogin::Digest(_)
            | KnownLogin::Encrypted(_) => None,
        })
    }

    /// Whether the accepted login is a factory default. None if no default is known.
    pub(crate) fn is_default(&self, login: &Login) -> Option<bool> {
        let is = |(username, password): &(String, String)| {
            (username.is_empty() || username == login.username()) && password == login.password()
        };
        (!self.defaults.is_empty()).then(|| self.defaults.iter().any(is))
    }

    /// The factory-default credentials, to try at a device.
    pub(crate) fn default_logins(&self) -> Vec<Login> {
        let defaults = self.defaults.iter();
        defaults
            .map(|(username, password)| Login::new(username.clone(), password.clone()))
            .collect()
    }

    /// Its name in the table of makes.
    pub(crate) fn title(&self) -> &'static str {
        match &self.kind {
            KnownLogin::Open => "open",
            KnownLogin::Unprovable => "cannot be proved",
            KnownLogin::Digest(_) => "digest",
            KnownLogin::Encrypted(_) => "encrypted read",
            KnownLogin::Token(token) if token.cookie().is_some() => "cookie",
            KnownLogin::Token(_) if self.older.is_empty() => "token",
            KnownLogin::Token(_) => "token or cookie",
        }
    }
}

/// The login methods that the protocol code supports.
#[derive(Debug, Clone)]
pub(crate) enum KnownLogin {
    /// Reading the device requires no login.
    Open,
    /// No read-only request can verify a password.
    Unprovable,
    Digest(DigestRule),
    Token(TokenRule),
    /// The read command of the Whatsminer API 2 that is sent encrypted.
    Encrypted(String),
}

#[derive(Debug, Clone)]
pub(crate) struct DigestRule {
    pub(crate) realm: Regex,
    /// The path of the request that verifies the login.
    pub(crate) proof: String,
}

#[derive(Debug, Clone)]
pub(crate) struct TokenRule {
    /// `METHOD /path` of the login, with `{username}` and `{password}`.
    pub(crate) request: String,
    pub(crate) body: String,
    pub(crate) body_type: BodyType,
    /// Additional header lines of the login.
    pub(crate) extra: Vec<String>,
    /// The location of the token in the answer, `cookie` for the first cookie, or `cookie NAME`.
    pub(crate) token: String,
    /// The header line that carries `{token}`.
    pub(crate) header: String,
    /// `METHOD /path` of the request that verifies the login.
    pub(crate) proof: String,
    /// The GraphQL query of that request. Empty for others.
    pub(crate) proof_body: String,
    /// Whether some releases answer that request without a login. Then the answer to the login decides.
    pub(crate) is_open_proof: bool,
    /// `METHOD /path` that ends the session.
    pub(crate) logout: Option<String>,
}

/// The encoding of a login body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyType {
    Json,
    Form,
}

/// The location of each fact in the verifying response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// A path that must exist.
    pub(crate) must: Option<JsonPath>,
    pub(crate) model: Option<JsonPath>,
    pub(crate) mac: Option<JsonPath>,
    pub(crate) serial: Option<JsonPath>,
}

/// Which of MAC and serial a make's devices show.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShownIdentity {
    pub(crate) mac: bool,
    pub(crate) serial: bool,
    pub(crate) mac_behind_login: bool,
    pub(crate) serial_behind_login: bool,
}

impl Shown {
    /// Whether the verifying response contains no facts about the device.
    pub(crate) fn is_empty(&self) -> bool {
        self.mac.is_none() && self.serial.is_none()
    }
}

/// A path into JSON: keys and indexes after slashes. `*` stands for each entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonPath(String);

impl JsonPath {
    /// Entries of a list that are read.
    const ENTRIES: usize = 16;

    /// None if the text does not start with a slash, or has several `*`.
    pub(crate) fn new(written: &str) -> Option<Self> {
        let fits = written.starts_with('/') && written.len() <= 256;
        (fits && written.matches("/*").count() <= 1).then(|| Self(written.to_owned()))
    }

    /// The values at the path, in order.
    pub(crate) fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match self.0.split_once("/*") {
            None => value.pointer(&self.0).into_iter().collect(),
            Some((list, rest)) => {
                let entries = value.pointer(list).and_then(Value::as_array);
                let entries = entries.into_iter().flatten().take(Self::ENTRIES);
                entries.filter_map(|entry| entry.pointer(rest)).collect()
            }
        }
    }

    /// Whether there is a value at the path.
    pub(crate) fn is_in(&self, value: &Value) -> bool {
        !self.find(value).is_empty()
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BodyType {
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Json => "Content-Type: application/json\r\n",
            Self::Form => "Content-Type: application/x-www-form-urlencoded\r\n",
        }
    }
}

impl TokenRule {
    /// The name of the cookie that carries the session, or empty for any. None if the session has a token.
    pub(crate) fn cookie(&self) -> Option<&str> {
        let rest = self.token.strip_prefix("cookie")?;
        (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim())
    }

    /// The additional header lines, each with its line end.
    pub(crate) fn extra_lines(&self) -> String {
        let lines = self.extra.iter();
        lines.map(|line| format!("{line}\r\n")).collect()
    }

    /// Inserts the credentials into a template. They are escaped for their position, so they cannot end a value early.
    pub(crate) fn fill(&self, template: &str, login: &Login) -> Zeroizing<String> {
        let is_json = self.body_type == BodyType::Json && template.starts_with('{');
        // The path of a JSON login has placeholders too, and they need the escapes of a URL.
        let escape = |text: &str| if is_json { json(text) } else { percent(text) };
        // The user name may contain the other placeholder, so the template is split there first.
        let name = escape(login.username());
        let parts = template.split("{password}");
        let filled: Vec<_> = parts
            .map(|part| part.replace("{username}", &name))
            .collect();
        Zeroizing::new(filled.join(&escape(login.password())))
    }
}

fn json(text: &str) -> Zeroizing<String> {
    // A string cannot fail to be JSON.
    let quoted = Zeroizing::new(serde_json::to_string(text).unwrap_or_default());
    Zeroizing::new(
        quoted
            .trim_start_matches('"')
            .strip_suffix('"')
            .unwrap_or_default()
            .to_owned(),
    )
}

fn percent(text: &str) -> Zeroizing<String> {
    // One buffer of the largest size: a buffer that grows leaves copies behind.
    let mut out = Zeroizing::new(String::with_capacity(3 * text.len()));
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let digit = |half: u8| char::from(b"0123456789ABCDEF"[usize::from(half & 0xf)]);
            out.extend(['%', digit(byte >> 4), digit(byte)]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(body: &str, body_type: BodyType) -> TokenRule {
        TokenRule {
            request: "POST /login".to_owned(),
            body: body.to_owned(),
            body_type,
            extra: Vec::new(),
            token: "/token".to_owned(),
            header: String::new(),
            proof: String::new(),
            proof_body: String::new(),
            is_open_proof: false,
            logout: None,
        }
    }

    #[test]
    fn credentials_stay_inside_their_field() {
        for (body, body_type, username, password, expected) in [
            (
                r#"{"u":"{username}","p":"{password}"}"#,
                BodyType::Json,
                "a",
                "b\"c\\",
                r#"{"u":"a","p":"b\"c\\"}"#,
            ),
            (
                r#"{"p":"{password}"}"#,
                BodyType::Json,
                "a",
                "\"",
                r#"{"p":"\""}"#,
            ),
            (
                "u={username}&p={password}",
                BodyType::Form,
                "a&b",
                "c%d+ü",
                "u=a%26b&p=c%25d%2B%C3%BC",
            ),
            (
                "u={username}&p={password}",
                BodyType::Form,
                "{password}",
                "x",
                "u=%7Bpassword%7D&p=x",
            ),
            (
                r#"{"u":"{username}","p":"{password}"}"#,
                BodyType::Json,
                "{password}",
                "x",
                r#"{"u":"{password}","p":"x"}"#,
            ),
        ] {
            let login = Login::new(username.to_owned(), password.to_owned());
            assert_eq!(*rule(body, body_type).fill(body, &login), expected);
        }
    }
    #[test]
    fn a_path_reads_one_value_or_those_of_each_entry() {
        let value = serde_json::json!({"a": [{"b": 1}, {}, {"b": 2}], "c": {"d": 3}, "e/f": 4});
        for (path, expected) in [
            ("/c/d", "[3]"),
            ("/a/0/b", "[1]"),
            ("/a/*/b", "[1,2]"),
            ("/e~1f", "[4]"),
            ("/c/*/b", "[]"),
            ("/x", "[]"),
        ] {
            let path = JsonPath::new(path).expect("a path");
            let found: Value = path.find(&value).into_iter().cloned().collect();
            assert_eq!(found.to_string(), expected, "{path}");
        }
        assert_eq!(JsonPath::new("a"), None);
        assert_eq!(JsonPath::new("/a/*/b/*"), None);
    }
}
