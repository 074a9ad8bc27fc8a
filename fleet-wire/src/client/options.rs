//! Options of a single call.

use std::{fmt, time::Duration};

use http::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

/// Options of one call.
#[derive(Clone, Default)]
pub struct CallOptions {
    pub(super) headers: HeaderMap,
    pub(super) timeout: Option<Duration>,
    pub(super) is_unlimited: bool,
}

impl CallOptions {
    /// Creates options without credentials and with the channel's timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends `authorization: Bearer <token>`.
    ///
    /// # Errors
    ///
    /// [`InvalidHeaderValue`] if the token has characters that a header may not have.
    pub fn bearer(mut self, token: &str) -> Result<Self, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        self.headers.insert(http::header::AUTHORIZATION, value);
        Ok(self)
    }

    /// Adds a request header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Sets the time limit of the whole call; for a stream, from its start to its end. The limit is sent to the
    /// server.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Removes the channel's timeout from a unary call.
    #[must_use]
    pub fn without_timeout(mut self) -> Self {
        (self.timeout, self.is_unlimited) = (None, true);
        self
    }
}

impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `HeaderValue` prints sensitive values as `Sensitive`.
        f.debug_struct("CallOptions")
            .field("headers", &self.headers)
            .field("timeout", &self.timeout)
            .finish()
    }
}
