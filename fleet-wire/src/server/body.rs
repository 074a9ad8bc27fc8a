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
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use tokio::time::{Instant, Sleep};

use super::budget::{Charging, Envelopes, Meter};

/// An error of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of any origin.
pub struct Body {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    /// A value that is dropped with the body. Its drop marks the end of the call.
    held: Option<Box<dyn Send>>,
    /// Whether a frame was read.
    begun: bool,
    /// The part of a frame that was not passed on yet.
    rest: Bytes,
}

/// The largest frame that is passed on: what an HTTP/2 stream buffers for a slow reader.
const PIECE: usize = 16 << 10;

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
            begun: false,
            rest: Bytes::new(),
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

    /// Keeps a value, such as a permit, until the body is sent or given up, which is the end of the call.
    #[must_use]
    pub fn holding(mut self, held: impl Send + 'static) -> Self {
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
        self.begun = true;
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(data) if data.len() > PIECE => self.rest = data,
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let piece = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    /// A body that keeps a value is not at its end after its last frame. hyper drops a body that says so while that frame
    /// is still in memory, and asks others for one more frame: over HTTP/1.1 when it is nearly sent, and over HTTP/2 as soon
    /// as h2 has taken it, which is why frames are small. Without this, callers that do not read could have any number of
    /// answers in memory, because none of them would count as a call.
    fn is_end_stream(&self) -> bool {
        let is_read = self.inner.is_end_stream() && self.rest.is_empty();
        is_read && !(self.begun && self.held.is_some())
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
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
    #[error("no memory for the request body")]
    NoMemory,
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

/// The request body as the engine reads it. It is charged before it is passed on. With a timer, it must arrive steadily.
pub(super) struct RequestBody {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    clock: Option<Clock>,
    charge: Option<Charge>,
}

struct Clock {
    pause: Pin<Box<Sleep>>,
    end: Instant,
    stalled: Stalled,
}

/// How the memory of a body is counted.
pub(super) struct Charge {
    charging: Charging,
    /// The largest message.
    limit: usize,
    counting: Counting,
    /// A frame that waits for its memory, and what the body holds then.
    waiting: Option<(Option<Frame<Bytes>>, usize)>,
}

enum Counting {
    /// One request: its bytes, and whether it is compressed as a whole or as its only message.
    Whole {
        bytes: usize,
        compressed: bool,
        ended: bool,
    },
    /// The messages of a stream. The engine reads on when it has passed a message to the handler.
    Messages { envelopes: Envelopes, ended: bool },
}

impl Charge {
    /// A request that is read as a whole.
    pub(super) fn whole(meter: Meter, limit: usize, compressed: bool) -> Self {
        let counting = Counting::Whole {
            bytes: 0,
            compressed,
            ended: false,
        };
        Self::new(meter, limit, counting)
    }

    /// A stream of messages.
    pub(super) fn messages(meter: Meter, limit: usize) -> Self {
        let counting = Counting::Messages {
            envelopes: Envelopes::default(),
            ended: false,
        };
        Self::new(meter, limit, counting)
    }

    fn new(meter: Meter, limit: usize, counting: Counting) -> Self {
        Self {
            charging: Charging::new(meter),
            limit,
            counting,
            waiting: None,
        }
    }

    /// Called before the next part is read.
    fn read_on(&mut self) {
        if let Counting::Messages { ended, .. } = &mut self.counting
            && std::mem::take(ended)
        {
            self.charging.clear();
        }
    }

    /// The bytes that the body takes with this part, or at its end. A message takes its own size again when it is
    /// decoded, and a compressed one up to its limit before.
    fn total(&mut self, part: Option<&[u8]>) -> usize {
        let unpacked = 2 * self.limit;
        match &mut self.counting {
            Counting::Whole {
                bytes,
                compressed,
                ended,
            } => match part {
                Some(part) => {
                    *bytes += part.len();
                    *bytes
                }
                None => {
                    *ended = true;
                    *bytes + if *compressed { unpacked } else { *bytes }
                }
            },
            Counting::Messages { envelopes, ended } => {
                let part = part.unwrap_or_default();
                let before = envelopes.begun;
                let messages = envelopes.follow(part);
                *ended = messages.messages > 0;
                let arrived = before + part.len();
                match (*ended, messages.compressed) {
                    (true, true) => arrived + unpacked,
                    (true, false) => 2 * arrived,
                    (false, _) => arrived,
                }
            }
        }
    }

    fn is_ended(&self) -> bool {
        !matches!(self.counting, Counting::Whole { ended: false, .. })
    }

    /// Takes the memory for a part, or for the end, and returns it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some((_, bytes)) = &self.waiting else {
            return Poll::Ready(None);
        };
        let has_memory = ready!(self.charging.poll(*bytes, cx));
        let part = self.waiting.take().and_then(|(part, _)| part);
        Poll::Ready(match has_memory {
            true => part.map(Ok),
            false => Some(Err(BodyError::NoMemory)),
        })
    }
}

impl RequestBody {
    pub(super) fn empty() -> Self {
        Self {
            inner: Empty::new().map_err(|e| match e {}).boxed_unsync(),
            clock: None,
            charge: None,
        }
    }

    /// Wraps a stream of messages, which may pause without limit.
    pub(super) fn open(body: Body, charge: Charge) -> Self {
        Self {
            inner: body.inner,
            clock: None,
            charge: Some(charge),
        }
    }

    /// Wraps a body that is read as a whole.
    pub(super) fn timed(body: Body, stalled: Stalled, charge: Charge) -> Self {
        let now = Instant::now();
        let clock = Clock {
            pause: Box::pin(tokio::time::sleep(STALL)),
            end: now + WHOLE,
            stalled,
        };
        Self {
            inner: body.inner,
            clock: Some(clock),
            charge: Some(charge),
        }
    }

    fn poll_inner(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // Data is read before the timer: a late poll must not discard what has arrived.
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            if let Some(clock) = &mut self.clock {
                let next = (Instant::now() + STALL).min(clock.end);
                clock.pause.as_mut().reset(next);
            }
            return Poll::Ready(frame.map(|f| f.map_err(BodyError::Transport)));
        }
        let Some(clock) = &mut self.clock else {
            return Poll::Pending;
        };
        ready!(clock.pause.as_mut().poll(cx));
        // The engine answers with an error of its own, which the service replaces if this is set.
        clock.stalled.0.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(BodyError::Stalled)))
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
        if this
            .charge
            .as_ref()
            .is_some_and(|charge| charge.waiting.is_some())
        {
            let Some(charge) = &mut this.charge else {
                return Poll::Ready(None);
            };
            return charge.poll(cx);
        }
        if let Some(charge) = &mut this.charge {
            charge.read_on();
        }
        let part = match ready!(this.poll_inner(cx)) {
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(part)) => Some(part),
            None => None,
        };
        let Some(charge) = &mut this.charge else {
            return Poll::Ready(part.map(Ok));
        };
        let bytes = charge.total(part.as_ref().and_then(|part| part.data_ref().map(|b| &**b)));
        charge.waiting = Some((part, bytes));
        charge.poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        // The end of a request is charged too, so that it must be read.
        self.charge.as_ref().is_none_or(Charge::is_ended) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_keeps_a_value_is_not_at_its_end_before_it_is_read_on() {
        let held = Arc::new(());
        let mut body = Body::from("an answer").holding(held.clone());
        assert_eq!(body.size_hint().exact(), Some(9));
        let frame = body.frame().await.expect("a frame").expect("data");
        assert_eq!(frame.into_data().expect("data"), "an answer");
        assert!(
            !body.is_end_stream(),
            "it would be dropped before it is sent"
        );
        assert!(body.frame().await.is_none());
        assert_eq!(Arc::strong_count(&held), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(Body::empty().holding(held).is_end_stream());
        let mut body = Body::from("an answer");
        body.frame().await.expect("a frame").expect("data");
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn a_long_frame_is_passed_on_in_pieces() {
        let whole = Bytes::from(vec![7; 2 * PIECE + 1]);
        let mut body = Body::from(whole.clone());
        let mut pieces = Vec::new();
        let mut left = whole.len() as u64;
        while let Some(frame) = body.frame().await {
            let piece = frame.expect("data").into_data().expect("data");
            left -= piece.len() as u64;
            assert_eq!(body.size_hint().exact(), Some(left));
            assert_eq!(body.is_end_stream(), left == 0);
            pieces.push(piece);
        }
        let lengths: Vec<usize> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [PIECE, PIECE, 1]);
        assert_eq!(pieces.concat(), whole);
    }
}
