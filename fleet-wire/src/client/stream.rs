//! The two ends of a stream, as a client holds them.

use std::{fmt, marker::PhantomData};

use connectrpc::{BidiRecvHalf, BidiSendHalf, ServerStream};
use futures::stream;
use http::HeaderMap;

use super::{
    broken::failed,
    raw::{Raw, RawView},
};
use crate::{BoxStream, RpcError, engine::Wire};

type ResponseBody = hyper::body::Incoming;

pub(super) enum Source {
    Server(Box<ServerStream<ResponseBody, RawView<'static>>>),
    Bidi(Box<BidiRecvHalf<ResponseBody, RawView<'static>>>),
}

/// The messages that come from the server. Dropping it cancels the call.
pub struct Incoming<T> {
    source: Source,
    message: PhantomData<fn() -> T>,
}

impl<T: Wire> Incoming<T> {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            message: PhantomData,
        }
    }

    /// Waits for the next message; `None` is the end that the server meant. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The stream failed, or the server ended it with an error; every later call says the same.
    pub async fn message(&mut self) -> Result<Option<T>, RpcError> {
        let message = match &mut self.source {
            Source::Server(stream) => stream.message::<Raw>().await,
            Source::Bidi(stream) => stream.message::<Raw>().await,
        };
        let Some(message) = message.map_err(failed)? else {
            return Ok(None);
        };
        T::decode(message.bytes().clone())
            .map(Some)
            .map_err(|e| RpcError::internal(format!("the server's message does not decode: {e}")))
    }

    /// The response headers; `None` until a stream both ways has brought its first message.
    pub fn headers(&self) -> Option<&HeaderMap> {
        match &self.source {
            Source::Server(stream) => Some(stream.headers()),
            Source::Bidi(stream) => stream.headers(),
        }
    }

    /// The same messages as a stream that ends after the first error.
    pub fn into_stream(self) -> BoxStream<T> {
        Box::pin(stream::unfold(Some(self), |incoming| async move {
            let mut incoming = incoming?;
            match incoming.message().await {
                Ok(message) => Some((Ok(message?), Some(incoming))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

impl<T> fmt::Debug for Incoming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// Sends messages to the server. Dropping it says that there will be no more.
pub struct Outgoing<T> {
    stream: BidiSendHalf<Raw>,
    message: PhantomData<fn(T)>,
}

impl<T: Wire> Outgoing<T> {
    pub(super) fn new(stream: BidiSendHalf<Raw>) -> Self {
        Self {
            stream,
            message: PhantomData,
        }
    }

    /// Sends one message; waits while the connection takes no more.
    ///
    /// # Errors
    ///
    /// The stream is over; why it is over says [`Incoming::message`].
    pub async fn send(&mut self, message: &T) -> Result<(), RpcError> {
        Ok(self
            .stream
            .send(Raw(message.encode_to_vec().into()))
            .await?)
    }
}

impl<T> fmt::Debug for Outgoing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").finish_non_exhaustive()
    }
}
