//! Tries credentials at a device: input, result, and the login methods that rules can use.
//!
//! Start with [`Login`] and [`Authenticated`]. A rule file defines a make's login method, the read-only request that
//! verifies it, and the location of MAC and serial in the response ([`LoginRule`]). The protocols are in
//! `login/digest.rs` and `login/token.rs`.

mod budget;
mod digest;
mod token;

use std::fmt;

pub use budget::LoginBudget;
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

/// A user name and a password. They are zeroed when dropped and never printed.
#[derive(Clone)]
pub struct Login {
    username: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl Login {
    /// Takes ownership of both strings.
    pub fn new(username: String, password: String) -> Self {
        Self {
            username: Zeroizing::new(username),
            password: Zeroizing::new(password),
        }
    }

    /// The user name, for the code that sends it.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password, for the code that sends it or a proof of it.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// Whether a device's factory-default password is active, and how that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultPassword {
    /// The device or its plugin reports it.
    Reported(bool),
    /// Concluded from the login that worked.
    Inferred(bool),
}

impl DefaultPassword {
    /// Whether it is active.
    pub fn is_active(self) -> bool {
        match self {
            Self::Reported(active) | Self::Inferred(active) => active,
        }
    }
}

/// The device's response to a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticated {
    /// The device accepted the login.
    Accepted {
        /// The identity that the device reports after the login. Missing fields are empty.
        device: Box<DeviceFacts>,
        /// Whether the default password is active. None if unknown.
        default_password: Option<DefaultPassword>,
    },
    /// The device requires no login. No password was sent or verified.
    Open,
    /// The device requires a login, but none was given.
    Wanted,
    /// The device refused the login.
    Refused,
    /// The driver has no way to log in.
    Unsupported,
    /// No read-only request can verify a password on these devices. No password was sent.
    Unprovable,
}

/// Tries a login by the rule that identified a device.
///
/// # Errors
/// [`DriverError`] if the reply violates the protocol or is missing.
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

/// An accepted login, with the facts from the verifying response.
fn accepted(
    known: &LoginRule,
    response: &Response,
    login: &Login,
) -> Result<Authenticated, DriverError> {
    let device = shown(&known.shown, response)?;
    let default_password = known.is_default(login).map(DefaultPassword::Inferred);
    Ok(Authenticated::Accepted {
        device: Box::new(device),
        default_password,
    })
}

/// The facts about the device in the verifying response.
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
