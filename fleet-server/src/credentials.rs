//! Credentials for pairing: in memory only, wiped when dropped, never printed.

use std::fmt;

use fleet_wire::pairing::Credentials;
use zeroize::Zeroizing;

use crate::prober::PairLogin;

/// The user name and password of a pairing request; both are optional.
#[derive(Clone, Default)]
pub(crate) struct PairCredentials {
    username: Zeroizing<String>,
    password: Option<Zeroizing<String>>,
    try_defaults: bool,
}

impl PairCredentials {
    /// Takes the credentials out of a request. The decoder's own allocations are moved, so dropping wipes them.
    pub(crate) fn take(credentials: Option<Credentials>) -> Self {
        let Credentials {
            username,
            password,
            try_defaults,
        } = credentials.unwrap_or_default();
        Self {
            try_defaults,
            username: Zeroizing::new(username),
            password: password.map(Zeroizing::new),
        }
    }

    pub(crate) fn has_password(&self) -> bool {
        self.password
            .as_ref()
            .is_some_and(|password| !password.is_empty())
    }

    /// Whether the operator asked for the default credentials of the makes.
    pub(crate) fn tries_defaults(&self) -> bool {
        self.try_defaults
    }

    /// The login for the server's own dials; none without a password.
    pub(crate) fn login(&self) -> Option<PairLogin> {
        let password = self.password.clone().filter(|_| self.has_password())?;
        Some(PairLogin {
            username: self.username.clone(),
            password,
        })
    }

    /// The message for a node; none when the operator gave no credentials.
    pub(crate) fn to_wire(&self) -> Option<Credentials> {
        if self.username.is_empty() && self.password.is_none() && !self.try_defaults {
            return None;
        }
        Some(Credentials {
            username: self.username.to_string(),
            password: self.password.as_ref().map(|password| password.to_string()),
            try_defaults: self.try_defaults,
        })
    }
}

impl fmt::Debug for PairCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairCredentials(..)")
    }
}
