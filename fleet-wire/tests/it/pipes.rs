//! A server on pipes instead of sockets, so that its time can be virtual; and HTTP/2 over them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use fleet_wire::listener::{self, Accept, Drained, ListenerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Alive, Scripted, heartbeat, services};

/// Hands out pipes, or failures.
struct Pipes(mpsc::UnboundedReceiver<io::Result<(DuplexStream, IpAddr)>>);

impl Accept for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        match self.0.recv().await {
            Some(Ok((pipe, from))) => Ok((pipe, (from, 1).into())),
            Some(Err(error)) => Err(error),
            None => std::future::pending().await,
        }
    }
}

/// A server on pipes.
pub(crate) struct Piped {
    pub(crate) connect: mpsc::UnboundedSender<io::Result<(DuplexStream, IpAddr)>>,
    pub(crate) config: ListenerConfig,
    pub(crate) alive: Alive,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<Drained>,
}

impl Piped {
    pub(crate) fn start(config: ListenerConfig) -> Self {
        let (connect, pipes) = mpsc::unbounded_channel();
        let scripted = Scripted::default();
        let (service, _) = services(&scripted);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn({
            let (config, shutdown) = (config.clone(), shutdown.clone());
            async move { listener::serve(Pipes(pipes), service, &config, shutdown).await }
        });
        Self {
            connect,
            config,
            alive: scripted.alive,
            shutdown,
            running,
        }
    }

    pub(crate) fn connect(&self) -> DuplexStream {
        self.connect_through(64 << 10)
    }

    /// Connects by a pipe that holds so many bytes.
    pub(crate) fn connect_through(&self, bytes: usize) -> DuplexStream {
        let (ours, theirs) = duplex(bytes);
        self.connect
            .send(Ok((theirs, [192, 0, 2, 1].into())))
            .expect("the server runs");
        ours
    }

    pub(crate) fn connect_from(&self, from: IpAddr) -> DuplexStream {
        let (ours, theirs) = duplex(64 << 10);
        self.connect
            .send(Ok((theirs, from)))
            .expect("the server runs");
        ours
    }
}

/// Speaks HTTP/2 over a pipe.
pub(crate) async fn http2(
    pipe: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> (h2::client::SendRequest<bytes::Bytes>, JoinHandle<()>) {
    let (client, connection) = h2::client::handshake(pipe).await.expect("speaks HTTP/2");
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    (client, connection)
}

pub(crate) async fn post(
    client: &mut h2::client::SendRequest<bytes::Bytes>,
    path: &str,
    token: Option<&str>,
) -> u16 {
    let mut request =
        http::Request::post(format!("http://x{path}")).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    *client = client.clone().ready().await.expect("open");
    let (response, mut body) = client
        .send_request(request.body(()).expect("a good request"), false)
        .expect("sent");
    let json = serde_json::to_vec(&heartbeat()).expect("has a JSON form");
    // Refused before the body: then the stream may be gone already.
    let _ = body.send_data(json.into(), true);
    response.await.expect("answered").status().as_u16()
}
