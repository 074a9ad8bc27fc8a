//! Tries credentials at a device: input, result, and the login methods that rules can use.
//!
//! Start with [`Login`] and [`Authenticated`]. A rule file defines a make's login method, the read-only request that
//! verifies it, and the location of MAC and serial in the response ([`LoginRule`]). The protocols are in
//! `login/digest.rs`, `login/token.rs` and `login/whatsminer.rs`.

mod budget;
mod digest;
mod md5crypt;
pub(crate) mod token;
pub(crate) mod whatsminer;

use std::fmt;

pub use budget::LoginBudget;
use fleet_core::{DeviceFacts, Serial};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    conversation,
    driver::{Answer, DriverError},
    fingerprint::{Fingerprints, JsonPath, KnownLogin, LoginRule, Protocol, Shown, mac},
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

    /// Whether both have the same password, and the same user name or one without.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let has_no_name = self.username.is_empty() || other.username.is_empty();
        (has_no_name || self.username == other.username) && self.password == other.password
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
    /// No read-only request can verify a password on the device, or none is published.
    Unprovable,
}

/// Checks the identity that a device shows before anything is sent to it. The error is the reason.
pub(crate) type IsExpected<'a> = dyn Fn(&DeviceFacts, Protocol) -> Result<(), String> + Sync + 'a;

/// Tries a login by the rule that identified a device. A device that is identified again at another port must be the
/// expected one there too.
///
/// # Errors
/// [`DriverError`] if the reply violates the protocol or is missing.
pub(crate) async fn by_rule(
    probe: &mut Probe<'_>,
    rules: &Fingerprints,
    name: &str,
    known: &LoginRule,
    login: Option<&Login>,
    is_expected: &IsExpected<'_>,
) -> Result<Authenticated, DriverError> {
    match &known.kind {
        KnownLogin::Open => Ok(Authenticated::Open),
        KnownLogin::Unprovable => Ok(Authenticated::Unprovable),
        KnownLogin::Digest(digest) => digest::authenticate(probe, known, digest, login).await,
        KnownLogin::Token(_) => {
            token::authenticate(probe, rules, name, known, login, is_expected).await
        }
        KnownLogin::Encrypted(command) => {
            whatsminer::authenticate(probe, rules, name, known, (command, login), is_expected).await
        }
    }
}

/// An accepted login, with the facts from the verifying response.
fn accepted(
    known: &LoginRule,
    shown: &Shown,
    proof: &Value,
    login: &Login,
) -> Result<Authenticated, DriverError> {
    let device = facts(shown, proof)?;
    let default_password = known.is_default(login).map(DefaultPassword::Inferred);
    Ok(Authenticated::Accepted {
        device: Box::new(device),
        default_password,
    })
}

/// The facts about the device in the verifying response.
fn facts(shown: &Shown, proof: &Value) -> Result<DeviceFacts, DriverError> {
    if let Some(must) = &shown.must
        && !must.is_in(proof)
    {
        return Err(DriverError::Protocol(format!(
            "the answer behind the login has no {must}"
        )));
    }
    let texts = |path: &Option<JsonPath>| -> Vec<String> {
        let found = path.iter().flat_map(|path| path.find(proof));
        found
            .filter_map(Value::as_str)
            .map(text::field)
            .filter(|text| !text.is_empty())
            .collect()
    };
    Ok(DeviceFacts {
        model: texts(&shown.model).into_iter().next().unwrap_or_default(),
        // The first that identifies, because another interface may come before that of the network.
        mac: texts(&shown.mac).iter().find_map(|text| mac(text)),
        serial: texts(&shown.serial)
            .iter()
            .find_map(|text| Serial::new(text)),
        ..DeviceFacts::default()
    })
}

fn json_of(response: &Response) -> Result<Value, DriverError> {
    serde_json::from_slice(&response.body).map_err(|error| {
        DriverError::Protocol(format!("the answer behind the login is not JSON: {error}"))
    })
}

/// Identifies the device at the port of its login again. It must be of the same make, and the expected one.
async fn identify(
    probe: &mut Probe<'_>,
    rules: &Fingerprints,
    name: &str,
    protocol: Protocol,
    is_expected: &IsExpected<'_>,
) -> Result<(), DriverError> {
    let answer = conversation::identify(probe, rules, protocol).await?;
    let Answer::Named(device) = answer else {
        return Err(not_such(protocol));
    };
    if probe.rule() != Some(name) {
        return Err(not_such(protocol));
    }
    is_expected(&device, protocol).map_err(DriverError::Protocol)
}

fn not_such(protocol: Protocol) -> DriverError {
    let server = match protocol {
        Protocol::Http => "web server",
        Protocol::Cgminer | Protocol::Epic | Protocol::Whatsminer | Protocol::Mdns => "API",
    };
    DriverError::Protocol(format!(
        "the {server} is not that of such a device: nothing was sent to it"
    ))
}

fn whole(response: Option<Response>) -> Result<Response, DriverError> {
    response.ok_or_else(|| DriverError::Protocol("the answer is not HTTP".to_owned()))
}
