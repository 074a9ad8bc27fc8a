//! HTTP for the client. This file implements TCP, Unix sockets and TLS; hyper provides pooling and both HTTP
//! versions.

use std::{
    error::Error,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use connectrpc::{
    ConnectError,
    client::{BoxFuture, ClientBody, ClientTransport},
};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection, HttpConnector},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tokio_rustls::TlsConnector;
use tower::Service;

use super::{ChannelConfig, ChannelError};

type BoxError = Box<dyn Error + Send + Sync>;

/// Sends requests over one pool of connections.
#[derive(Clone)]
pub(super) struct Transport(Client<Connector, ClientBody>);

impl Transport {
    /// Uses HTTP/1.1, or HTTP/2 where TLS negotiates it.
    pub(super) fn any(
        config: &ChannelConfig,
        tls: bool,
        socket: Option<&Path>,
    ) -> Result<Self, ChannelError> {
        let connector = Connector::new(config, tls, socket, &[b"h2", b"http/1.1"])?;
        Ok(Self(builder(config).build(connector)))
    }

    /// Uses HTTP/2 only; without TLS by prior knowledge.
    pub(super) fn http2(
        config: &ChannelConfig,
        tls: bool,
        socket: Option<&Path>,
    ) -> Result<Self, ChannelError> {
        let connector = Connector::new(config, tls, socket, &[b"h2"])?;
        Ok(Self(builder(config).http2_only(true).build(connector)))
    }
}

fn builder(config: &ChannelConfig) -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .http2_keep_alive_interval(config.keepalive_interval)
        .http2_keep_alive_timeout(config.keepalive_timeout)
        // A connection that died while it was idle would otherwise fail the next call.
        .http2_keep_alive_while_idle(true);
    builder
}

impl ClientTransport for Transport {
    type ResponseBody = Incoming;
    type Error = ConnectError;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Incoming>, ConnectError>> {
        let sent = self.0.request(request);
        Box::pin(async move {
            let response = sent
                .await
                .map_err(|e| ConnectError::unavailable(chain(&e)).with_source(e))?;
            // Redirects are not followed, because requests carry credentials.
            if response.status().is_redirection() {
                let to = response
                    .headers()
                    .get(http::header::LOCATION)
                    .and_then(|v| v.to_str().ok())
                    .unwrap_or("somewhere else");
                return Err(ConnectError::unknown(format!(
                    "the server redirects to {to}, and redirects are not followed: give the final URL"
                )));
            }
            Ok(response)
        })
    }
}

/// Formats an error with its causes and omits repeated texts.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Opens connections.
#[derive(Clone)]
struct Connector {
    tcp: HttpConnector,
    /// The socket to dial in place of the URL's host.
    socket: Option<Arc<Path>>,
    tls: Option<TlsConnector>,
    timeout: Duration,
}

impl Connector {
    fn new(
        config: &ChannelConfig,
        tls: bool,
        socket: Option<&Path>,
        alpn: &[&[u8]],
    ) -> Result<Self, ChannelError> {
        let mut tcp = HttpConnector::new();
        // The connector rejects the scheme https otherwise.
        tcp.enforce_http(false);
        // Nagle's algorithm delays small messages.
        tcp.set_nodelay(true);
        let tls = if tls {
            Some(TlsConnector::from(Arc::new(
                config.roots.client_config(alpn)?,
            )))
        } else {
            None
        };
        Ok(Self {
            tcp,
            socket: socket.map(Arc::from),
            tls,
            timeout: config.connect_timeout,
        })
    }
}

impl Service<Uri> for Connector {
    type Response = Io;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Io, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (tcp, tls, timeout) = (self.tcp.call(uri.clone()), self.tls.clone(), self.timeout);
        let socket = self.socket.clone();
        Box::pin(async move {
            let connect = async {
                if let Some(socket) = socket {
                    return Ok(Io::plain(UnixStream::connect(socket).await?));
                }
                let tcp = tcp.await?.into_inner();
                let Some(tls) = tls else {
                    return Ok(Io::plain(tcp));
                };
                // `ServerName` reads an IPv6 address without the brackets of a URL.
                let host = uri
                    .host()
                    .unwrap_or_default()
                    .trim_start_matches('[')
                    .trim_end_matches(']');
                let stream = tls
                    .connect(ServerName::try_from(host.to_owned())?, tcp)
                    .await?;
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                Ok(Io {
                    stream: TokioIo::new(Box::new(stream)),
                    http2,
                })
            };
            tokio::time::timeout(timeout, connect)
                .await
                .unwrap_or_else(|_| Err(format!("no connection within {timeout:?}").into()))
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open connection, encrypted or not.
struct Io {
    stream: TokioIo<Box<dyn Stream>>,
    http2: bool,
}

impl Io {
    fn plain(stream: impl Stream + 'static) -> Self {
        Self {
            stream: TokioIo::new(Box::new(stream)),
            http2: false,
        }
    }
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        if self.http2 {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
