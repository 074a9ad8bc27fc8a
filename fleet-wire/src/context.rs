//! The context that a handler receives with a call, and the reply that it returns.

use std::{fmt, net::SocketAddr, pin::Pin, time::Instant};

use futures::Stream;
use http::{
    Extensions, HeaderMap,
    header::{AsHeaderName, HeaderName, HeaderValue},
};

use crate::RpcError;

/// A stream of messages, inbound or outbound. An inbound stream continues after an error that concerns one message (a
/// decoding error or a broken bound). It ends after a transport error.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, RpcError>> + Send + 'static>>;

/// The remote end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The address of the socket's other end; behind a proxy, the address of the proxy.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// The protocol of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Connect, binary or JSON.
    Connect,
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
}

/// The data that came with a call beside its message.
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) path: String,
    pub(crate) protocol: Protocol,
    pub(crate) headers: HeaderMap,
    pub(crate) deadline: Option<Instant>,
    pub(crate) extensions: Extensions,
}

/// The authenticated principal, as it travels in the extensions.
#[derive(Clone)]
pub(crate) struct Principal<P>(pub(crate) P);

impl Context {
    /// Creates a context without a connection, for direct calls of handlers.
    pub fn detached(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            protocol: Protocol::Connect,
            headers: HeaderMap::new(),
            deadline: None,
            extensions: Extensions::new(),
        }
    }

    /// Sets the principal, as authentication does.
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

    /// Returns one request header if it is present and valid text.
    pub fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the deadline of the caller, if it sent one. The call is canceled at that time.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the other end of the connection, if the call came through a listener of this crate.
    pub fn peer(&self) -> Option<Peer> {
        self.extensions.get().copied()
    }

    /// Returns the principal, if authentication found one and its type is `P`.
    pub fn principal<P: Send + Sync + 'static>(&self) -> Option<&P> {
        self.extensions.get::<Principal<P>>().map(|p| &p.0)
    }

    /// Returns an extension that a layer in front of the services added.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.extensions.get()
    }
}

/// The reply of a handler: a message or a stream, with response headers and trailers.
#[derive(Clone)]
pub struct Reply<T> {
    /// The message, or the stream of messages.
    pub message: T,
    /// Headers that are sent before the message.
    pub headers: HeaderMap,
    /// Trailers that are sent after the message or the end of the stream.
    pub trailers: HeaderMap,
}

impl<T> Reply<T> {
    /// Creates a reply without headers and trailers.
    pub fn new(message: T) -> Self {
        Self {
            message,
            headers: HeaderMap::new(),
            trailers: HeaderMap::new(),
        }
    }

    /// Adds a response header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Replaces the message and keeps headers and trailers.
    pub fn map<U>(self, message: impl FnOnce(T) -> U) -> Reply<U> {
        Reply {
            message: message(self.message),
            headers: self.headers,
            trailers: self.trailers,
        }
    }

    /// Adds a response trailer.
    #[must_use]
    pub fn with_trailer(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.trailers.append(name, value);
        self
    }
}

impl<T: Send + 'static> Reply<BoxStream<T>> {
    /// Creates a reply with a stream.
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
            .field("trailers", &self.trailers)
            .finish_non_exhaustive()
    }
}
