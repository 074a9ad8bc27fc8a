//! What a single call may set.

use std::{fmt, time::Duration};

use http::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

/// Options of one call.
#[derive(Clone, Default)]
pub struct CallOptions {
    pub(super) headers: HeaderMap,
    pub(super) timeout: Option<Duration>,
}

impl CallOptions {
    /// Nothing set: no credential, the channel's timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends `authorization: Bearer <token>`.
    ///
    /// # Errors
    ///
    /// The token has characters that no header may have.
    pub fn bearer(mut self, token: &str) -> Result<Self, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        self.headers.insert(http::header::AUTHORIZATION, value);
        Ok(self)
    }

    /// Sends a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Gives the whole call this long; for a stream, from its start to its end. The server is told.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Sensitive header values print as such.
        f.debug_struct("CallOptions")
            .field("headers", &self.headers)
            .field("timeout", &self.timeout)
            .finish()
    }
}
