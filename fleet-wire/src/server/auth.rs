//! The hook that admits calls. It sees a call's path, headers and connection, never its body.

use std::{panic::AssertUnwindSafe, pin::Pin};

use futures::future::FutureExt;
use http::{Extensions, HeaderMap};

use crate::{Peer, RpcError, context::Principal, listener::ConnectionGuard};

/// What is known of a call before its body.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    path: &'a str,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> Call<'a> {
    pub(super) fn new(path: &'a str, headers: &'a HeaderMap, extensions: &'a Extensions) -> Self {
        Self {
            path,
            headers,
            extensions,
        }
    }

    /// `/<package>.<Service>/<Method>`; always a method that exists.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The request headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The token of `authorization: Bearer`, if there is one. The scheme is matched in any case.
    pub fn bearer(&self) -> Option<&'a str> {
        let value = self
            .headers
            .get(http::header::AUTHORIZATION)?
            .to_str()
            .ok()?;
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }

    /// The other end of the connection, if it is one of our listener's.
    pub fn peer(&self) -> Option<Peer> {
        self.extensions.get().copied()
    }

    /// The connection, if it is one of our listener's.
    pub fn connection(&self) -> Option<&'a ConnectionGuard> {
        self.extensions.get()
    }
}

/// The verdict on a call that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission<P> {
    /// The method needs nobody's name. Does not keep the connection alive.
    Public,
    /// The caller is known; handlers find the principal with [`crate::Context::principal`].
    Known(P),
}

/// Decides which calls go on, and as whom.
pub trait Authenticate: Send + Sync + 'static {
    /// What handlers learn of the caller.
    type Principal: Clone + Send + Sync + 'static;

    /// Looks at a call before its body is read. Health and reflection come through here too.
    ///
    /// # Errors
    ///
    /// What the caller is told instead of being served.
    fn authenticate(
        &self,
        call: Call<'_>,
    ) -> impl Future<Output = Result<Admission<Self::Principal>, RpcError>> + Send;
}

type Verdict<'a> = Pin<Box<dyn Future<Output = Result<Option<Extensions>, RpcError>> + Send + 'a>>;

/// [`Authenticate`] without its type: the principal comes as an extension, `None` is [`Admission::Public`].
pub(super) trait Gate: Send + Sync {
    fn admit<'a>(&'a self, call: Call<'a>) -> Verdict<'a>;
}

impl<A: Authenticate> Gate for A {
    fn admit<'a>(&'a self, call: Call<'a>) -> Verdict<'a> {
        Box::pin(async move {
            let admission = AssertUnwindSafe(self.authenticate(call))
                .catch_unwind()
                .await
                .unwrap_or_else(|_| {
                    tracing::error!(path = call.path, "authentication panicked");
                    Err(RpcError::internal("internal error"))
                })?;
            Ok(match admission {
                Admission::Public => None,
                Admission::Known(principal) => {
                    let mut extensions = Extensions::new();
                    extensions.insert(Principal(principal));
                    Some(extensions)
                }
            })
        })
    }
}
