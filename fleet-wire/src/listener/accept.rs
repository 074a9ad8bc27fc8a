//! The accept loop.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use super::{
    ListenerConfig,
    config::{SUMMARY, Summary, count},
    connection::{Connection, Ends},
    table::{ConnectionTable, NoSlot},
};
use crate::server::BoxError;

/// Where connections come from: a TCP listener, or a simulated one.
pub trait Accept: Send {
    /// The transport of a connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for a connection. Cancel-safe.
    ///
    /// # Errors
    ///
    /// This connection failed, or none can be accepted now. The loop continues.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, address) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((stream, address))
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the end of the drain time, and were cut.
    pub cut: usize,
}

/// First pause after a failure to accept that persists. Doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// Longest such pause. One second without new connections is better than a loop that spins.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Number of unauthenticated peers to evict if nothing can be accepted. This frees their descriptors.
const ROOM: usize = 16;

/// Serves a port until `shutdown` is canceled. It then accepts no more connections and lets open requests end; streams
/// must watch the token themselves. After [`ListenerConfig::drain`] it cuts the remaining connections.
pub async fn serve<L, S, B>(
    mut listener: L,
    service: S,
    config: &ListenerConfig,
    shutdown: CancellationToken,
) -> Drained
where
    L: Accept,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let table = ConnectionTable::new(config);
    let connections = TaskTracker::new();
    let ends = Ends {
        drain: shutdown.clone(),
        cut: CancellationToken::new(),
    };
    let tls = config.tls.as_ref().map(super::TlsIdentity::acceptor);
    let mut pause = MIN_PAUSE;
    let mut before = Summary::of(&config.counts);
    let mut summary = tokio::time::interval(SUMMARY);
    // After a pause of the process, one summary is enough.
    summary.set_missed_tick_behavior(MissedTickBehavior::Delay);

    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            _ = summary.tick() => {
                let now = Summary::of(&config.counts);
                now.warn_since(&before);
                before = now;
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (io, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                count(&config.counts.accept_errors);
                if is_of_one_connection(&error) {
                    continue;
                }
                let evicted = table.make_room(ROOM);
                // At DEBUG, because it repeats while descriptors are
                // missing. The summary warns once per minute.
                tracing::debug!(%error, evicted, pause_ms = pause.as_millis(), "no connection can be accepted");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(MAX_PAUSE);
                continue;
            }
        };
        pause = MIN_PAUSE;
        count(&config.counts.accepted);
        let slot = match table.admit(address.ip()) {
            Ok(slot) => slot,
            Err(NoSlot::Full) => {
                count(&config.counts.full);
                continue;
            }
            Err(NoSlot::Crowded) => {
                count(&config.counts.crowded);
                continue;
            }
        };
        let connection = Connection {
            address,
            slot,
            shared: config
                .trusted_proxies
                .iter()
                .any(|network| network.contains(address.ip().to_canonical())),
            tls: tls.clone(),
            plaintext: config.plaintext,
            counts: Arc::clone(&config.counts),
            ends: ends.clone(),
        };
        connections.spawn(connection.run(io, service.clone()));
    }
    // New clients are refused at once and try another
    // server. Otherwise they would wait in the backlog.
    drop(listener);

    connections.close();
    if tokio::time::timeout(config.drain, connections.wait())
        .await
        .is_ok()
    {
        return Drained { cut: 0 };
    }
    // Counted before they end.
    let cut = table.total();
    ends.cut.cancel();
    connections.wait().await;
    Drained { cut }
}

/// Whether an error concerns the accepted connection only, and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected,
    };
    // Some systems report EINVAL from `set_nodelay` if the peer has closed already.
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected
    )
}
