//! Trying credentials at a device: what is tried, what comes of it, and the kinds of login that rules can name.
//!
//! [`Login`] and [`Authenticated`] first. A rule file says which kind of login a make has, which read-only request
//! proves it, and where the proof holds MAC and serial ([`LoginRule`]); `login/digest.rs` and `login/token.rs` are the
//! protocols.

mod digest;
mod token;

use std::fmt;

use fleet_core::{DeviceFacts, Serial};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    driver::DriverError,
    fingerprint::{Fingerprints, KnownLogin, LoginRule, Shown, mac},
    http::Response,
    probe::Probe,
    text,
};

/// A user name and a password: wiped from memory when dropped, never printed.
#[derive(Clone)]
pub struct Login {
    username: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl Login {
    /// Takes both over.
    pub fn new(username: String, password: String) -> Self {
        Self {
            username: Zeroizing::new(username),
            password: Zeroizing::new(password),
        }
    }

    /// The user name, for the one place that sends it.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password, for the one place that sends what proves its knowledge.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// How a device took a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticated {
    /// It accepted the login.
    Accepted {
        /// What it says of itself behind its login; fields that it does not tell are empty.
        device: Box<DeviceFacts>,
        /// Whether the default password is active; none when that is unknown.
        default_password: Option<bool>,
    },
    /// It needs no login to be read. No password was sent, and none is proved.
    Open,
    /// It wants a login, and there was none.
    Wanted,
    /// It refused the login.
    Refused,
    /// The driver has no way to log in.
    Unsupported,
    /// No read-only request proves a password at such devices. No password was sent.
    Unprovable,
}

/// Tries a login by the rule that identified a device.
///
/// # Errors
/// [`DriverError`] when the device did not answer as its protocol demands.
pub(crate) async fn by_rule(
    probe: &mut Probe<'_>,
    rules: &Fingerprints,
    name: &str,
    known: &LoginRule,
    login: Option<&Login>,
) -> Result<Authenticated, DriverError> {
    match &known.kind {
        KnownLogin::Open => Ok(Authenticated::Open),
        KnownLogin::Unprovable => Ok(Authenticated::Unprovable),
        KnownLogin::Digest(digest) => digest::authenticate(probe, known, digest, login).await,
        KnownLogin::Token(token) => {
            token::authenticate(probe, rules, name, known, token, login).await
        }
    }
}

/// A login that was accepted, with what the proof shows.
fn accepted(
    known: &LoginRule,
    response: &Response,
    login: &Login,
) -> Result<Authenticated, DriverError> {
    let device = shown(&known.shown, response)?;
    let default_password = known.is_default(login);
    Ok(Authenticated::Accepted {
        device: Box::new(device),
        default_password,
    })
}

/// What a proof shows of the device.
fn shown(shown: &Shown, response: &Response) -> Result<DeviceFacts, DriverError> {
    let proof: Value = serde_json::from_slice(&response.body).map_err(|error| {
        DriverError::Protocol(format!("the answer behind the login is not JSON: {error}"))
    })?;
    let at = |path: &Option<String>| {
        let value = path
            .as_ref()
            .and_then(|path| proof.pointer(path))
            .and_then(Value::as_str);
        value.map(text::field).unwrap_or_default()
    };
    if let Some(path) = &shown.must
        && proof.pointer(path).is_none()
    {
        return Err(DriverError::Protocol(format!(
            "the answer behind the login has no {path}"
        )));
    }
    Ok(DeviceFacts {
        model: at(&shown.model),
        mac: mac(&at(&shown.mac)),
        serial: Serial::new(&at(&shown.serial)),
        ..DeviceFacts::default()
    })
}

fn whole(response: Option<Response>) -> Result<Response, DriverError> {
    response.ok_or_else(|| DriverError::Protocol("the answer is not HTTP".to_owned()))
}
