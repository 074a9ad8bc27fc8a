//! What an operator wants devices to be tried with: in memory only, wiped when dropped, never printed.

use std::fmt;

use fleet_wire::pairing::Credentials;
use zeroize::Zeroizing;

use crate::PairLogin;

/// A user name and a password, or that there are none.
#[derive(Clone, Default)]
pub(crate) struct PairCredentials {
    username: Zeroizing<String>,
    password: Option<Zeroizing<String>>,
}

impl PairCredentials {
    /// Takes them out of a request; what the decoder allocated is what is wiped later.
    pub(crate) fn take(said: Option<Credentials>) -> Self {
        let Credentials { username, password } = said.unwrap_or_default();
        Self {
            username: Zeroizing::new(username),
            password: password.map(Zeroizing::new),
        }
    }

    /// Whether there is a password to try.
    pub(crate) fn has_password(&self) -> bool {
        self.password
            .as_ref()
            .is_some_and(|password| !password.is_empty())
    }

    /// As the server itself tries them; none when there is no password.
    pub(crate) fn login(&self) -> Option<PairLogin> {
        let password = self.password.clone().filter(|_| self.has_password())?;
        Some(PairLogin {
            username: self.username.clone(),
            password,
        })
    }

    /// As a node is told; none when the operator gave nothing.
    pub(crate) fn to_wire(&self) -> Option<Credentials> {
        if self.username.is_empty() && self.password.is_none() {
            return None;
        }
        Some(Credentials {
            username: self.username.to_string(),
            password: self.password.as_ref().map(|password| password.to_string()),
        })
    }
}

impl fmt::Debug for PairCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairCredentials(..)")
    }
}
