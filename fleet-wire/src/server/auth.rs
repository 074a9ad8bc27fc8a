//! The hook that admits calls. It sees the path, the headers and the connection of a call, never its body.

use std::{any::Any, panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use futures::future::FutureExt;
use http::{Extensions, HeaderMap};

use super::budget::Payer;
use crate::{Peer, RpcError, context::Principal, listener::ConnectionGuard};

/// The properties of a call that are known before its body is read.
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

    /// Returns the path `/<package>.<Service>/<Method>`. The method always exists.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The request headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the token of `authorization: Bearer`, if there is one. The scheme matches in any case.
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

    /// Returns the other end of the connection, if a listener of this crate accepted it.
    pub fn peer(&self) -> Option<Peer> {
        self.extensions.get().copied()
    }

    /// Returns the connection, if a listener of this crate accepted it.
    pub fn connection(&self) -> Option<&'a ConnectionGuard> {
        self.extensions.get()
    }
}

/// The decision about a call that is admitted.
#[derive(Debug, Clone)]
pub enum Admission<P> {
    /// The method is public. The call does not keep the connection alive.
    Public,
    /// The same, with a value that is dropped at the end of the call, such as a permit.
    PublicHolding(Arc<dyn Any + Send + Sync>),
    /// The caller is authenticated. Handlers read the principal with [`crate::Context::principal`].
    Known(P),
}

/// Decides which calls are admitted, and under which principal.
pub trait Authenticate: Send + Sync + 'static {
    /// The principal that handlers receive.
    type Principal: Clone + Send + Sync + 'static;

    /// Decides about a call before its body is read. Calls of health and reflection are checked too.
    ///
    /// # Errors
    ///
    /// The error that the caller receives when the call is refused.
    fn authenticate(
        &self,
        call: Call<'_>,
    ) -> impl Future<Output = Result<Admission<Self::Principal>, RpcError>> + Send;

    /// The party whose share of the memory for bodies the call uses; without a principal, the address of the peer.
    fn payer(&self, call: Call<'_>, principal: Option<&Self::Principal>) -> Payer {
        let _ = principal;
        Payer::of(call.peer().map(|peer| peer.address.ip()))
    }
}

/// A call that is admitted.
pub(super) struct Admitted {
    /// The principal, if there is one.
    pub(super) principal: Option<Extensions>,
    /// Dropped at the end of the call.
    pub(super) held: Option<Arc<dyn Any + Send + Sync>>,
    pub(super) payer: Payer,
}

type Verdict<'a> = Pin<Box<dyn Future<Output = Result<Admitted, RpcError>> + Send + 'a>>;

/// [`Authenticate`] with its type erased.
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
            let (principal, held) = match admission {
                Admission::Public => (None, None),
                Admission::PublicHolding(held) => (None, Some(held)),
                Admission::Known(principal) => (Some(principal), None),
            };
            let payer = self.payer(call, principal.as_ref());
            Ok(Admitted {
                principal: principal.map(|principal| {
                    let mut extensions = Extensions::new();
                    extensions.insert(Principal(principal));
                    extensions
                }),
                held,
                payer,
            })
        })
    }
}
