//! A channel to one server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use connectrpc::{
    Spec, StreamType,
    client::{self, ClientConfig},
};
use http::Uri;

use super::{
    CallOptions, Incoming, Outgoing, Roots,
    broken::failed,
    raw::{Raw, RawView},
    stream::Source,
    transport::Transport,
};
use crate::{Method, Protocol, Reply, RpcError, engine::Wire};

/// The URL in requests to servers on Unix sockets, as in gRPC.
const UNIX_URL: &str = "http://localhost";

/// Settings of a channel's connections.
#[derive(Debug, Clone)]
pub struct ChannelConfig {
    /// The certificate authorities to trust for `https`.
    pub roots: Roots,
    /// Time limit for TCP and TLS together.
    pub connect_timeout: Duration,
    /// Time limit of a unary call that sets none itself. Streams have no limit.
    pub call_timeout: Duration,
    /// Maximum size of a message from the server, in bytes.
    pub max_response: usize,
    /// Interval between the PINGs of an HTTP/2 connection; none disables PINGs.
    pub keepalive_interval: Option<Duration>,
    /// How long a PING may stay unanswered before the connection counts as lost.
    pub keepalive_timeout: Duration,
    /// The protocol of unary calls and server streams. All protocols except Connect use HTTP/2.
    pub protocol: Protocol,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            roots: Roots::System,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            max_response: 16 << 20,
            keepalive_interval: Some(Duration::from_secs(30)),
            keepalive_timeout: Duration::from_secs(10),
            protocol: Protocol::Connect,
        }
    }
}

/// Why a channel could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The text is not a URL, or not the URL of a server.
    #[error(
        "{url:?} is not the URL of a server: {reason}; give http://HOST[:PORT][/PREFIX] or https://..."
    )]
    Url {
        /// The given text.
        url: String,
        /// The reason why it was rejected.
        reason: String,
    },
    /// The file with the certificate authorities cannot be used.
    #[error("the CA file {} cannot be used: {reason}", path.display())]
    CaFile {
        /// The path of the file.
        path: PathBuf,
        /// The reason why it was rejected.
        reason: String,
    },
    /// The certificate authorities cannot be used.
    #[error("the CA certificates cannot be used: {reason}")]
    Ca {
        /// The reason why they were rejected.
        reason: String,
    },
    /// The system has no certificate authority to trust.
    #[error("no usable CA certificate; name a CA file, or install the system's CA certificates")]
    NoRoots,
}

/// A channel to one server. It is cheap to clone and connects on demand.
#[derive(Clone)]
pub struct Channel {
    unary: (Transport, ClientConfig),
    stream: (Transport, ClientConfig),
    call_timeout: Duration,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("url", self.unary.1.base_uri())
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// Creates a channel without dialing. The path of the URL is a prefix of every call's path.
    ///
    /// # Errors
    ///
    /// [`ChannelError`] if the URL or the certificate authorities cannot be used.
    pub fn new(url: &str, config: &ChannelConfig) -> Result<Self, ChannelError> {
        Self::over(parse(url)?, None, config)
    }

    /// Creates a channel to a server that listens on a Unix socket, in plain text, without dialing.
    ///
    /// # Errors
    ///
    /// Currently none. A path that is not a socket fails when it is dialed.
    pub fn unix(socket: &Path, config: &ChannelConfig) -> Result<Self, ChannelError> {
        Self::over(parse(UNIX_URL)?, Some(socket), config)
    }

    fn over(uri: Uri, socket: Option<&Path>, config: &ChannelConfig) -> Result<Self, ChannelError> {
        let tls = uri.scheme_str() == Some("https");
        let client_config = |protocol| {
            ClientConfig::new(uri.clone())
                .with_protocol(protocol)
                .with_default_max_message_size(config.max_response)
        };
        // Upstream uses gRPC for the control stream, and HTTP/1.1 cannot carry one.
        let stream = (
            Transport::http2(config, tls, socket)?,
            client_config(connectrpc::Protocol::Grpc),
        );
        let unary = match config.protocol {
            Protocol::Connect => (
                // Unary calls also pass proxies that forward HTTP/1.1 only.
                Transport::any(config, tls, socket)?,
                client_config(connectrpc::Protocol::Connect),
            ),
            Protocol::Grpc => stream.clone(),
            Protocol::GrpcWeb => (
                stream.0.clone(),
                client_config(connectrpc::Protocol::GrpcWeb),
            ),
        };
        Ok(Self {
            unary,
            stream,
            call_timeout: config.call_timeout,
        })
    }

    pub(crate) async fn unary<I: Wire, O: Wire>(
        &self,
        method: &Method,
        request: &I,
        options: CallOptions,
    ) -> Result<O, RpcError> {
        let reply = self.call(method, request, options).await?;
        Ok(reply.message)
    }

    /// Makes a unary call and returns the message with the headers and trailers of the response.
    ///
    /// # Errors
    ///
    /// The server's error, or UNAVAILABLE if there was no answer of one.
    pub async fn call<I: Wire, O: Wire>(
        &self,
        method: &Method,
        request: &I,
        mut options: CallOptions,
    ) -> Result<Reply<O>, RpcError> {
        if !options.is_unlimited {
            options.timeout = options.timeout.or(Some(self.call_timeout));
        }
        let (transport, config) = &self.unary;
        let spec = Spec::client(method.path(), StreamType::Unary);
        let response = client::call_unary::<_, _, RawView<'static>>(
            transport,
            config,
            spec,
            raw(request),
            engine_options(options),
        )
        .await
        .map_err(failed)?;
        let (headers, message, trailers) = response.into_parts();
        let message = O::decode(message.into_bytes()).map_err(|e| {
            RpcError::internal(format!("the server's message does not decode: {e}"))
        })?;
        Ok(Reply {
            message,
            headers,
            trailers,
        })
    }

    /// Opens a stream from the server.
    ///
    /// # Errors
    ///
    /// The server's error, or UNAVAILABLE if there was no answer of one.
    pub async fn server_stream<I: Wire, O: Wire>(
        &self,
        method: &Method,
        request: &I,
        options: CallOptions,
    ) -> Result<Incoming<O>, RpcError> {
        let (transport, config) = &self.unary;
        let spec = Spec::client(method.path(), StreamType::ServerStream);
        let stream = client::call_server_stream::<_, _, RawView<'static>>(
            transport,
            config,
            spec,
            raw(request),
            engine_options(options),
        )
        .await
        .map_err(failed)?;
        Ok(Incoming::new(Source::Server(Box::new(stream))))
    }

    /// Opens a stream in both directions, by gRPC.
    ///
    /// # Errors
    ///
    /// The server's error, or UNAVAILABLE if there was no answer of one.
    pub async fn bidi<I: Wire, O: Wire>(
        &self,
        method: &Method,
        options: CallOptions,
    ) -> Result<(Outgoing<I>, Incoming<O>), RpcError> {
        let (transport, config) = &self.stream;
        let spec = Spec::client(method.path(), StreamType::BidiStream);
        let stream = client::call_bidi_stream::<_, Raw, RawView<'static>>(
            transport,
            config,
            spec,
            engine_options(options),
        )
        .await
        .map_err(failed)?;
        let (send, receive) = stream.into_split();
        Ok((
            Outgoing::new(send),
            Incoming::new(Source::Bidi(Box::new(receive))),
        ))
    }
}

fn parse(url: &str) -> Result<Uri, ChannelError> {
    let wrong = |reason: String| ChannelError::Url {
        url: without_user(url),
        reason,
    };
    let uri: Uri = url
        // The path of the URL comes before method paths, which begin with a slash.
        .trim_end_matches('/')
        .parse()
        .map_err(|e: http::uri::InvalidUri| wrong(e.to_string()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("its scheme is neither http nor https".to_owned()));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(wrong("it names no host".to_owned()));
    }
    // A method's path is appended to the URL and could not follow a query.
    if uri.query().is_some() {
        return Err(wrong("it has a query".to_owned()));
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(wrong("it has a user".to_owned()));
    }
    Ok(uri)
}

/// The URL without a user and password, which an error must not print.
fn without_user(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://...@{rest}"),
        (None, Some((_, rest))) => format!("...@{rest}"),
        (_, None) => url.to_owned(),
    }
}

fn raw(message: &impl Wire) -> Raw {
    Raw(message.encode_to_vec().into())
}

fn engine_options(options: CallOptions) -> client::CallOptions {
    let headers = options
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    let out = client::CallOptions::default().with_headers(headers);
    match options.timeout {
        Some(timeout) => out.with_timeout(timeout),
        None => out,
    }
}
