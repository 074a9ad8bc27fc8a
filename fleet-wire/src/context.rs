//! What a handler knows of its call, and what it answers.

use std::{fmt, net::SocketAddr, pin::Pin, time::Instant};

use futures::Stream;
use http::{
    Extensions, HeaderMap,
    header::{AsHeaderName, HeaderName, HeaderValue},
};

use crate::RpcError;

/// A stream of messages, in or out. An inbound stream goes on after an error that concerns one message only (it did not
/// decode, or broke a bound); after an error of the transport it ends.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, RpcError>> + Send + 'static>>;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The other end of the socket; a proxy's if there is one.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// The protocol a call came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Connect, binary or JSON.
    Connect,
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
}

/// What came with a call beside its message.
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) path: String,
    pub(crate) protocol: Protocol,
    pub(crate) headers: HeaderMap,
    pub(crate) deadline: Option<Instant>,
    pub(crate) extensions: Extensions,
}

/// The principal that authentication found, as it travels in the extensions.
#[derive(Clone)]
pub(crate) struct Principal<P>(pub(crate) P);

impl Context {
    /// Makes a context without a connection, for calling handlers directly.
    pub fn detached(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            protocol: Protocol::Connect,
            headers: HeaderMap::new(),
            deadline: None,
            extensions: Extensions::new(),
        }
    }

    /// Hands over a principal, as authentication does.
    #[must_use]
    pub fn with_principal<P: Clone + Send + Sync + 'static>(mut self, principal: P) -> Self {
        self.extensions.insert(Principal(principal));
        self
    }

    /// Adds an extension, as a layer in front of the services does.
    #[must_use]
    pub fn with_extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// Adds a request header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// The path of the request, `/<package>.<Service>/<Method>`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The protocol of the call.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The request headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// One request header, if it is there and text.
    pub fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// When the caller gives up, if it said so; the call is cut then.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The other end of the connection, if the call came by one of ours.
    pub fn peer(&self) -> Option<Peer> {
        self.extensions.get().copied()
    }

    /// The principal, if authentication found one and its type is `P`.
    pub fn principal<P: Send + Sync + 'static>(&self) -> Option<&P> {
        self.extensions.get::<Principal<P>>().map(|p| &p.0)
    }

    /// Whatever else a layer in front put there.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.extensions.get()
    }
}

/// What a handler answers: a message or a stream, and response headers.
#[derive(Clone)]
pub struct Reply<T> {
    /// The message, or the stream of them.
    pub message: T,
    /// Sent before the message.
    pub headers: HeaderMap,
}

impl<T> Reply<T> {
    /// Answers without headers.
    pub fn new(message: T) -> Self {
        Self {
            message,
            headers: HeaderMap::new(),
        }
    }

    /// Adds a response header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

impl<T: Send + 'static> Reply<BoxStream<T>> {
    /// Answers a stream.
    pub fn stream(messages: impl Stream<Item = Result<T, RpcError>> + Send + 'static) -> Self {
        Self::new(Box::pin(messages))
    }
}

impl<T> From<T> for Reply<T> {
    fn from(message: T) -> Self {
        Self::new(message)
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}
