//! The two halves of a stream on the client.

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

/// The messages from the server. Dropping this value cancels the call.
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

    /// Waits for the next message. `None` means that the server ended the stream normally. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The stream failed, or the server ended it with an error. Every later call returns the same error.
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

    /// Returns the response headers. A bidirectional stream has `None` until its first message arrives.
    pub fn headers(&self) -> Option<&HeaderMap> {
        match &self.source {
            Source::Server(stream) => Some(stream.headers()),
            Source::Bidi(stream) => stream.headers(),
        }
    }

    /// Returns the trailers, once the stream has ended.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        match &self.source {
            Source::Server(stream) => stream.trailers(),
            Source::Bidi(stream) => stream.trailers(),
        }
    }

    /// Converts the messages to a stream that ends after the first error.
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

/// Sends messages to the server. Dropping this value ends the outgoing half.
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

    /// Sends one message. Waits while the connection has no capacity.
    ///
    /// # Errors
    ///
    /// The stream has ended. [`Incoming::message`] returns the reason.
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
