//! Request bodies that a response did not need. An HTTP/1.1 client sends its whole request before it reads the response.
//! If the rest is not read, the connection must close, and a client that keeps it in its pool loses its next call.
//!
//! [`UnreadBodies::settle`] reads a short rest. For a long or slow one it announces the end of the connection.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::Body as _;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};

use super::body::{Body, BoxError};
use crate::Peer;

/// Bytes of a rest that are read. A connection costs more to open than these cost to receive.
const REST: usize = 64 << 10;
/// Time for reading a rest.
const WITHIN: Duration = Duration::from_secs(1);
/// Rests of one source that are read at a time. The callers may be unauthenticated.
const OF_A_SOURCE: usize = 16;
/// Rests of all sources that are read at a time.
const OF_ALL: usize = 1_024;

type Inner = UnsyncBoxBody<Bytes, BoxError>;

/// Takes back the body that a handler drops before its end.
#[derive(Clone, Default)]
struct Returned(Arc<Mutex<Option<Inner>>>);

impl Returned {
    fn lock(&self) -> MutexGuard<'_, Option<Inner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that returns itself if it is dropped before its end.
struct Lent {
    body: Option<Inner>,
    ended: bool,
    returned: Returned,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return std::task::Poll::Ready(None);
        };
        let frame = std::task::ready!(std::pin::Pin::new(body).poll_frame(cx));
        this.ended |= !matches!(frame, Some(Ok(_)));
        std::task::Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body
            .as_ref()
            .map_or_else(http_body::SizeHint::default, http_body::Body::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && !self.ended
            && !body.is_end_stream()
        {
            *self.returned.lock() = Some(body);
        }
    }
}

/// The rests that are being read, by source.
#[derive(Debug, Default)]
pub(super) struct UnreadBodies(Mutex<BTreeMap<IpAddr, usize>>);

/// What is known about the body of a request while it is served.
pub(super) struct Loan {
    returned: Returned,
    source: Option<IpAddr>,
    /// The client waits for `100 Continue` and has sent nothing of the body.
    held_back: bool,
}

impl UnreadBodies {
    /// Watches the body of an HTTP/1.1 request. HTTP/2 ends a stream without harm to others.
    pub(super) fn lend(request: Request<Body>) -> (Request<Body>, Option<Loan>) {
        if request.version() >= Version::HTTP_2 || request.body().is_end_stream() {
            return (request, None);
        }
        let returned = Returned::default();
        let loan = Loan {
            returned: returned.clone(),
            source: request
                .extensions()
                .get::<Peer>()
                .map(|peer| peer.address.ip().to_canonical()),
            held_back: request.headers().contains_key(header::EXPECT),
        };
        let request = request.map(|body| {
            Body::new(Lent {
                body: Some(body.into_inner()),
                ended: false,
                returned,
            })
        });
        (request, Some(loan))
    }

    /// Reads the rest of a request whose body was dropped, or announces that the connection closes.
    pub(super) async fn settle<B>(&self, loan: Option<Loan>, response: &mut Response<B>) {
        let Some(loan) = loan else { return };
        let Some(rest) = loan.returned.lock().take() else {
            return;
        };
        if !loan.held_back && self.discard(loan.source, rest).await {
            return;
        }
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }

    /// Whether the rest ended within its bounds.
    async fn discard(&self, source: Option<IpAddr>, mut rest: Inner) -> bool {
        let Some(_permit) = self.permit(source) else {
            return false;
        };
        let read = async {
            let mut left = REST;
            while let Some(frame) = rest.frame().await {
                let Ok(frame) = frame else { return false };
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(rest) = left.checked_sub(length) else {
                    return false;
                };
                left = rest;
            }
            true
        };
        tokio::time::timeout(WITHIN, read).await.unwrap_or(false)
    }

    fn permit(&self, source: Option<IpAddr>) -> Option<Permit<'_>> {
        let source = source.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let mut reading = self.lock();
        let all: usize = reading.values().sum();
        let of_source = reading.get(&source).copied().unwrap_or_default();
        if all >= OF_ALL || of_source >= OF_A_SOURCE {
            return None;
        }
        reading.insert(source, of_source + 1);
        Some(Permit { all: self, source })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Permit<'a> {
    all: &'a UnreadBodies,
    source: IpAddr,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut reading = self.all.lock();
        if let Some(count) = reading.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                reading.remove(&self.source);
            }
        }
    }
}
