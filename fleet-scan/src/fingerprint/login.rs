//! The login section of a rule file: data for `login.rs`. Pure.

use regex::Regex;
use zeroize::Zeroizing;

use crate::login::Login;

/// How to log in to the devices of a make.
#[derive(Debug, Clone)]
pub(crate) struct LoginRule {
    pub(crate) kind: KnownLogin,
    /// Factory-default user names and passwords.
    pub(crate) defaults: Vec<(String, String)>,
    pub(crate) shown: Shown,
}

impl LoginRule {
    /// Whether the accepted login is a factory default. None if no default is known.
    pub(crate) fn is_default(&self, login: &Login) -> Option<bool> {
        let is = |(username, password): &(String, String)| {
            (username.is_empty() || username == login.username()) && password == login.password()
        };
        (!self.defaults.is_empty()).then(|| self.defaults.iter().any(is))
    }

    /// Its name in the table of makes.
    pub(crate) fn title(&self) -> &'static str {
        match &self.kind {
            KnownLogin::Open => "open",
            KnownLogin::Unprovable => "cannot be proved",
            KnownLogin::Digest(_) => "digest",
            KnownLogin::Token(token) if token.is_cookie() => "cookie",
            KnownLogin::Token(_) => "token",
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
    /// The location of the token in the answer, or `cookie` for the first cookie.
    pub(crate) token: String,
    /// The header line that carries `{token}`.
    pub(crate) header: String,
    /// `METHOD /path` of the request that verifies the login.
    pub(crate) proof: String,
    /// `METHOD /path` that ends the session.
    pub(crate) logout: Option<String>,
}

/// The encoding of a login body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyType {
    Json,
    Form,
}

/// The location of each fact in the verifying response, as paths into its JSON.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// A path that must exist.
    pub(crate) must: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) mac: Option<String>,
    pub(crate) serial: Option<String>,
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

impl BodyType {
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Json => "Content-Type: application/json\r\n",
            Self::Form => "Content-Type: application/x-www-form-urlencoded\r\n",
        }
    }
}

impl TokenRule {
    pub(crate) fn is_cookie(&self) -> bool {
        self.token == "cookie"
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
    let quoted = Zeroizing::new(serde_json::Value::from(text).to_string());
    Zeroizing::new(
        quoted
            .trim_start_matches('"')
            .strip_suffix('"')
            .unwrap_or_default()
            .to_owned(),
    )
}

fn percent(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::new());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
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
}
