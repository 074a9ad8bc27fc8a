//! Bodies: the one type for all responses and plain requests, and a request body that detects stalled clients.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use tokio::time::{Instant, Sleep};

/// An error of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of any origin.
pub struct Body {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    /// A value that is dropped with the body. Its drop marks the end of the call.
    held: Option<Box<dyn Send>>,
}

impl Body {
    /// Wraps any body.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self {
            inner: body.map_err(Into::into).boxed_unsync(),
            held: None,
        }
    }

    /// Creates an empty body.
    pub fn empty() -> Self {
        Self::new(Empty::new())
    }

    /// The body without the value that it keeps.
    pub(super) fn into_inner(self) -> UnsyncBoxBody<Bytes, BoxError> {
        self.inner
    }

    /// Keeps a value until the body is dropped, which is the end of the call.
    pub(super) fn holding(mut self, held: impl Send + 'static) -> Self {
        self.held = Some(Box::new(held));
        self
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::new(Full::new(bytes))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Longest pause between two parts of a request that is read as a whole.
const STALL: Duration = Duration::from_secs(20);
/// Time limit for reading a whole request: the largest report at 1 Mbit/s.
const WHOLE: Duration = Duration::from_secs(300);

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request body stalled")]
    Stalled,
    #[error("the connection failed")]
    Transport(#[source] BoxError),
}

/// Records whether reading a body was abandoned.
#[derive(Debug, Clone, Default)]
pub(super) struct Stalled(Arc<AtomicBool>);

impl Stalled {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The request body as the engine reads it. With a timer, it must arrive steadily.
pub(super) struct RequestBody {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    clock: Option<Clock>,
}

struct Clock {
    pause: Pin<Box<Sleep>>,
    end: Instant,
    stalled: Stalled,
}

impl RequestBody {
    pub(super) fn empty() -> Self {
        Self {
            inner: Empty::new().map_err(|e| match e {}).boxed_unsync(),
            clock: None,
        }
    }

    /// Wraps a stream of messages, which may pause without limit.
    pub(super) fn open(body: Body) -> Self {
        Self {
            inner: body.inner,
            clock: None,
        }
    }

    /// Wraps a body that is read as a whole.
    pub(super) fn timed(body: Body, stalled: Stalled) -> Self {
        let now = Instant::now();
        let clock = Clock {
            pause: Box::pin(tokio::time::sleep(STALL)),
            end: now + WHOLE,
            stalled,
        };
        Self {
            inner: body.inner,
            clock: Some(clock),
        }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        // Data is read before the timer: a late poll must not discard what has arrived.
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            if let Some(clock) = &mut this.clock {
                let next = (Instant::now() + STALL).min(clock.end);
                clock.pause.as_mut().reset(next);
            }
            return Poll::Ready(frame.map(|f| f.map_err(BodyError::Transport)));
        }
        let Some(clock) = &mut this.clock else {
            return Poll::Pending;
        };
        ready!(clock.pause.as_mut().poll(cx));
        // The engine answers with an error of its own, which the service replaces if this is set.
        clock.stalled.0.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(BodyError::Stalled)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
