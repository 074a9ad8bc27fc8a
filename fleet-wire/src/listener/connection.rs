//! One connection: its protocol, its limits, and the three ways in which the server ends it.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Either, Empty};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::{
    config::{
        CLOSE_GRACE, CONNECTION_WINDOW, ERROR_RESETS, ESTABLISH, HEADER_LIST, HEADERS, HTTP1_IDLE,
        KEEPALIVE, KEEPALIVE_TIMEOUT, ListenerCounts, PENDING_RESETS, PLAIN_IDLE, PREFACE,
        SEND_BUFFER, SHARED_HEADER_LIST, SHARED_PEERS, SHARED_PENDING_RESETS, STREAM_WINDOW,
        STREAMS, count,
    },
    guard::Standing,
    metered::Metered,
    proxied,
    request::{RequestGuard, Streams},
    rewind::{Opening, Rewind},
    stall::StallGuard,
    table::Slot,
};
use crate::{Peer, server::BoxError};

/// Signals of the accept loop to all connections.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// Finish open requests and accept no new ones.
    pub(super) drain: CancellationToken,
    /// End now.
    pub(super) cut: CancellationToken,
}

/// An accepted connection, before its first byte.
pub(super) struct Connection {
    pub(super) address: SocketAddr,
    pub(super) slot: Slot,
    /// Whether a trusted proxy opened it for many peers.
    pub(super) shared: bool,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) plaintext: bool,
    pub(super) counts: Arc<ListenerCounts>,
    pub(super) ends: Ends,
}

impl Connection {
    /// Serves the connection to its end, or until it is cut.
    pub(super) async fn run<I, S, B>(self, io: I, service: S)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (cut, closed) = (self.ends.cut.clone(), self.slot.0.closed());
        // Dropping `open` closes the socket, and with it ends every call.
        tokio::select! {
            () = cut.cancelled() => {}
            () = closed => {}
            () = self.open(io, service) => {}
        }
    }

    async fn open<I, S, B>(&self, io: I, service: S)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let opened = Instant::now();
        let Some((address, io)) = self.client(io).await else {
            return;
        };
        let Some((opening, io)) = self.sniff(io).await else {
            return;
        };
        let peer = |tls| Peer { address, tls };
        match (opening, self.tls.clone()) {
            (Opening::Tls, Some(acceptor)) => {
                let handshake = timeout(PREFACE, acceptor.accept(io));
                let Ok(Ok(io)) = handshake.await else {
                    return count(&self.counts.tls_failed);
                };
                // The first bytes decide inside TLS too, because a client need not use ALPN.
                let Some((opening, io)) = self.sniff(io).await else {
                    return;
                };
                self.serve(opening, io, peer(true), opened, service).await;
            }
            (Opening::Tls, None) => count(&self.counts.tls_failed),
            (Opening::Http1 | Opening::Http2, _) if self.plaintext => {
                self.serve(opening, io, peer(false), opened, service).await
            }
            (Opening::Http1 | Opening::Http2, _) => {
                count(&self.counts.plaintext_refused);
                // The answer only explains the refusal, so
                // a peer that does not take it is no error.
                timeout(CLOSE_GRACE, turn_away(io))
                    .await
                    .unwrap_or(Ok(()))
                    .unwrap_or_default();
            }
        }
    }

    /// Returns the address of the client, which a trusted proxy may name.
    async fn client<I: AsyncRead + Unpin>(&self, io: I) -> Option<(SocketAddr, Rewind<I>)> {
        if !self.shared {
            return Some((self.address, Rewind::after(io, Vec::new())));
        }
        let named = tokio::select! {
            () = self.ends.drain.cancelled() => return None,
            named = timeout(PREFACE, proxied::read(io)) => named,
        };
        match named {
            Ok(Ok((address, io))) => Some((address.unwrap_or(self.address), io)),
            Ok(Err(error)) => {
                count(&self.counts.broken);
                tracing::debug!(%error, proxy = %self.address, "a connection of a trusted proxy broke");
                None
            }
            Err(_) => {
                count(&self.counts.silent);
                None
            }
        }
    }

    async fn sniff<I: AsyncRead + Unpin>(&self, io: I) -> Option<(Opening, Rewind<I>)> {
        let sniffed = tokio::select! {
            // There is no request yet.
            () = self.ends.drain.cancelled() => return None,
            sniffed = timeout(PREFACE, Rewind::sniff(io)) => sniffed,
        };
        match sniffed {
            Ok(Ok(sniffed)) => sniffed,
            Ok(Err(_)) => None,
            Err(_) => {
                count(&self.counts.silent);
                None
            }
        }
    }

    async fn serve<I, S, B>(&self, opening: Opening, io: I, peer: Peer, opened: Instant, service: S)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (shared, guard) = (self.shared, self.slot.0.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            // hyper has no setting for the number of headers of HTTP/2.
            // Otherwise the protocols' own limits apply.
            let is_long = shared && header_list(&request) > HEADER_LIST;
            let too_many = is_long || request.headers().len() > HEADERS;
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(guard.clone());
            let (service, guard) = (service.clone(), guard.clone());
            async move {
                request
                    .extensions_mut()
                    .insert(RequestGuard::current(&guard));
                if too_many {
                    return Ok(refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
                }
                let answer: Result<Response<B>, Infallible> = service.oneshot(request).await;
                answer.map(|response| response.map(Either::Left))
            }
        });
        let io = StallGuard::new(io, Arc::clone(&self.counts));
        if opening == Opening::Http2 {
            let peers = if self.shared { SHARED_PEERS } else { 1 };
            let counts = Arc::clone(&self.counts);
            let io = TokioIo::new(Metered::new(io, self.address, peers, counts));
            let limits = http2_limits(self.shared);
            self.drive(limits.serve_connection(io, service), opened)
                .await;
        } else {
            self.drive(
                http1_limits().serve_connection(TokioIo::new(io), service),
                opened,
            )
            .await;
        }
    }

    /// Polls the connection until it ends or must be closed.
    async fn drive<C>(&self, connection: C, opened: Instant)
    where
        C: GracefulConnection,
        C::Error: std::fmt::Display,
    {
        let mut connection = pin!(connection);
        let guard = &self.slot.0;
        let mut drained = pin!(self.ends.drain.cancelled());
        let mut bound = pin!(sleep_until(opened + ESTABLISH));
        let mut phase = Phase::Unproven;
        let mut requests = 0;
        loop {
            tokio::select! {
                end = connection.as_mut() => {
                    if let Err(error) = end {
                        count(&self.counts.broken);
                        tracing::debug!(%error, peer = %self.address, "a connection broke");
                    }
                    return;
                }
                // The phase also prevents that the completed future is polled again.
                () = drained.as_mut(), if !phase.is_ending() => {
                    connection.as_mut().graceful_shutdown();
                    phase = Phase::Draining;
                }
                () = bound.as_mut(), if phase != Phase::Proven && phase != Phase::Draining => {
                    if phase == Phase::Closing {
                        return;
                    }
                    let late = match guard.standing() {
                        Standing::Evicted => return,
                        Standing::Authenticated => {
                            // From now on only keep-alive PINGs and
                            // stalled writes can end the connection.
                            phase = Phase::Proven;
                            continue;
                        }
                        Standing::Plain
                            if guard.plain_requests() != requests || guard.active_calls() > 0 =>
                        {
                            requests = guard.plain_requests();
                            bound.as_mut().reset(Instant::now() + PLAIN_IDLE);
                            continue;
                        }
                        Standing::Plain => &self.counts.idle,
                        Standing::New => &self.counts.unestablished,
                    };
                    count(late);
                    connection.as_mut().graceful_shutdown();
                    bound.as_mut().reset(Instant::now() + CLOSE_GRACE);
                    phase = Phase::Closing;
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No authenticated call yet. The connection has time until the deadline.
    Unproven,
    /// May stay.
    Proven,
    /// Closed for lack of a call. Ends at the deadline.
    Closing,
    /// Finishing its open requests.
    Draining,
}

impl Phase {
    fn is_ending(self) -> bool {
        matches!(self, Self::Closing | Self::Draining)
    }
}

fn http1_limits() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP1_IDLE)
        .max_headers(HEADERS)
        .max_header_size(HEADER_LIST)
        .max_buf_size(STREAM_WINDOW as usize);
    http1
}

/// The size of a header list, with the request line, as HTTP/2 counts it (RFC 9113, section 6.5.2).
fn header_list(request: &Request<Incoming>) -> usize {
    const FIELD: usize = 32;
    let fields = request.headers().iter();
    let headers: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD)
        .sum();
    let target = request.uri().path_and_query();
    headers + target.map_or(0, |target| target.as_str().len())
}

fn http2_limits(shared: bool) -> http2::Builder<Streams> {
    let (header_list, pending_resets, error_resets) = if shared {
        // A limit on the life of the connection would count the errors of all peers.
        (SHARED_HEADER_LIST, SHARED_PENDING_RESETS, None)
    } else {
        (HEADER_LIST, PENDING_RESETS, Some(ERROR_RESETS))
    };
    let mut http2 = http2::Builder::new(Streams);
    http2
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(header_list as u32)
        .max_pending_accept_reset_streams(pending_resets)
        .max_local_error_reset_streams(error_resets)
        .keep_alive_interval(jittered(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    http2
}

/// The duration, a tenth more or less.
fn jittered(duration: Duration) -> Duration {
    // The jitter spreads load and needs no secret randomness.
    let random = RandomState::new().hash_one(0_u8) % 2_001;
    duration * 9 / 10 + duration / 10 * u32::try_from(random).unwrap_or(1_000) / 1_000
}

/// Answers plaintext on a TLS-only port with an error that a user can read.
async fn turn_away<I: AsyncWrite + Unpin>(mut io: I) -> io::Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 29\r\nconnection: close\r\n\r\nthis port speaks https only.\n";
    io.write_all(ANSWER).await?;
    io.shutdown().await
}

fn refused<B>(status: StatusCode) -> Response<Either<B, Empty<Bytes>>> {
    let mut response = Response::new(Either::Right(Empty::new()));
    *response.status_mut() = status;
    response
}
