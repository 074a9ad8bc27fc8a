//! The final check before a packet leaves: which endpoints may be dialed.

use std::{fmt, sync::Arc};

use fleet_core::{AddressPolicy, Endpoint};

type Rule = dyn Fn(Endpoint) -> Result<(), String> + Send + Sync;

/// Checks every dial, including reconnections. Cheap to clone.
///
/// By default it allows what [`AddressPolicy::default`] allows: private networks.
#[derive(Clone)]
pub struct Guard(Arc<Rule>);

impl Guard {
    /// Creates a guard from a rule that returns why an endpoint must not be dialed.
    pub fn new(rule: impl Fn(Endpoint) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(rule))
    }

    /// Allows the addresses that a policy admits, on every port.
    pub fn policy(policy: AddressPolicy) -> Self {
        Self::new(move |endpoint| {
            policy
                .admit(endpoint.ip)
                .map(|_| ())
                .map_err(|refused| refused.to_string())
        })
    }

    /// Checks whether an endpoint may be dialed.
    ///
    /// # Errors
    /// The reason why it may not.
    pub fn check(&self, endpoint: Endpoint) -> Result<(), String> {
        (self.0)(endpoint)
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self::policy(AddressPolicy::default())
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}
