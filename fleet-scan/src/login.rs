//! What a device is tried with, and what comes of trying.

pub(crate) mod antminer;

use std::fmt;

use fleet_core::DeviceFacts;
use zeroize::Zeroizing;

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

/// What a device said to a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticated {
    /// It let in.
    Accepted {
        /// What it says of itself behind its login; fields that it does not tell are empty.
        device: Box<DeviceFacts>,
        /// Whether the password it was delivered with is active; none when that cannot be told.
        default_password: Option<bool>,
    },
    /// It wants a login, and there was none.
    Wanted,
    /// It refused the login.
    Refused,
    /// The driver has no way to log in.
    Unsupported,
}
