//! The server and the client under test of Connect's conformance suite: the suite's service on this project's listener
//! and dispatch, and with the argument `client`, the suite's calls by this project's client. The runner
//! (`connectconformance --mode server` or `client`) starts it, writes to its standard input, and reads from its standard
//! output. `tests/python/test_conformance.py` runs it.

mod any;
mod client;
mod messages;
mod service;

use std::{convert::Infallible, io::Write};

use anyhow::{Context as _, Result};
use fleet_wire::{
    Message, RpcError,
    listener::{self, ListenerConfig, TlsIdentity},
    server::{Admission, Authenticate, Call, Services},
};
use hyper::body::Incoming;
use messages::{ServerCompatRequest, ServerCompatResponse};
use service::{Conformance, Query};
use tokio::{
    io::{AsyncReadExt, Stdin},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Admits every call.
struct Anybody;

impl Authenticate for Anybody {
    type Principal = ();

    async fn authenticate(&self, _: Call<'_>) -> Result<Admission<()>, RpcError> {
        Ok(Admission::Known(()))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => serve().await,
        Some("client") => client::run().await,
        Some(other) => anyhow::bail!("unknown argument {other:?}: give none, or `client`"),
    }
}

async fn serve() -> Result<()> {
    let mut input = tokio::io::stdin();
    let request = read(&mut input).await?;
    let mut config = ListenerConfig::plaintext();
    let mut pem_cert = bytes::Bytes::new();
    if request.use_tls {
        let creds = request.server_creds.context("TLS without a certificate")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let identity = TlsIdentity::from_pem(&text(&creds.cert), &text(&creds.key))?;
        config = ListenerConfig::tls(identity);
        pem_cert = creds.cert;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    write(&ServerCompatResponse {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr()?.port().into(),
        pem_cert,
    })?;

    let (service, _health) = Services::new()
        .mount(Conformance)
        .bare_errors()
        .build(Anybody);
    let service = tower::service_fn(move |mut request: http::Request<Incoming>| {
        if request.method() == http::Method::GET {
            let query = request.uri().query().unwrap_or_default().to_owned();
            request.extensions_mut().insert(Query(query));
        }
        let service = service.clone();
        async move {
            let Ok(response) = service.oneshot(request).await;
            Ok::<_, Infallible>(response)
        }
    });
    // The runner ends the process when it is done.
    listener::serve(listener, service, &config, CancellationToken::new()).await;
    Ok(())
}

/// Reads a message behind its length.
async fn read(input: &mut Stdin) -> Result<ServerCompatRequest> {
    let length = usize::try_from(input.read_u32().await?)?;
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes).await?;
    Ok(ServerCompatRequest::decode(&*bytes)?)
}

/// Writes a message behind its length.
fn write(response: &impl Message) -> Result<()> {
    let bytes = response.encode_to_vec();
    let mut output = std::io::stdout().lock();
    output.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
    output.write_all(&bytes)?;
    Ok(output.flush()?)
}
