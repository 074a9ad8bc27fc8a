//! Mounts the server in an axum application: `axum [PORT]`
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{
    env,
    error::Error,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    middleware,
    routing::get,
};
use fleet_server::{Server, ServerConfig, SystemEnvironment};
use fleet_store::{MigrateMode, SqlStore};
use fleet_wire::Peer;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    serve(listener, async { drop(tokio::signal::ctrl_c().await) }).await
}

/// Serves until `stop` ends. The database is temporary: use a lasting path or a PostgreSQL URL in your service.
pub(crate) async fn serve(
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}", folder.path().join("fleet.db").display());
    let store = Arc::new(SqlStore::open(&url, MigrateMode::Migrate).await?);
    let server = Server::start(ServerConfig::default(), store, Arc::new(SystemEnvironment));
    let app = Router::new()
        .route("/hello", get(async || "hello\n"))
        .fallback_service(server.service())
        .layer(middleware::map_request(add_peer));
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    // The server drains before axum closes the connections, because nodes still send their last results.
    .with_graceful_shutdown(async {
        stop.await;
        server.drain().await;
    })
    .await?;
    Ok(())
}

/// Adds the client's address. Without it, all clients share one rate limit, and the audit log names no address.
async fn add_peer(ConnectInfo(address): ConnectInfo<SocketAddr>, mut request: Request) -> Request {
    let tls = false;
    request.extensions_mut().insert(Peer { address, tls });
    request
}
