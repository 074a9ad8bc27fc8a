//! The metrics endpoint: `GET /metrics` in the OpenMetrics text format, on a listener of its own. Programs fill a
//! registry at each request; metrics of the process are added here. Start with [`service`].

use std::{
    convert::Infallible,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use prometheus_client::{encoding::text::encode, metrics::gauge::Gauge, registry::Registry};

use crate::{
    RpcError,
    listener::ListenerConfig,
    server::{Admission, Authenticate, Body, Call, HttpService, Services},
};

/// The content type of the OpenMetrics text format, version 1.0.0.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// Concurrent connections of the endpoint. A few collectors read it, one connection each.
const CONNECTIONS: usize = 32;

/// Returns a service whose only path is `/metrics`. It passes an empty registry to `fill` at each request. It admits no
/// RPC.
pub fn service<F, R>(fill: F) -> HttpService
where
    F: Fn(Registry) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Registry> + Send + 'static,
{
    let plain = tower::service_fn(move |request: Request<Body>| {
        let fill = fill.clone();
        // The body of a request is not read.
        let (parts, _) = request.into_parts();
        async move { Ok::<_, Infallible>(answer(&parts, fill).await) }
    });
    Services::new().plain(plain).build(NoCalls).0
}

/// Plain HTTP with few connections, for [`service`].
pub fn listener() -> ListenerConfig {
    ListenerConfig {
        max_connections: CONNECTIONS,
        reserved: 0,
        per_source: CONNECTIONS,
        anonymous_per_source: CONNECTIONS,
        exempt: Vec::new(),
        drain: std::time::Duration::from_millis(250),
        ..ListenerConfig::plaintext()
    }
}

async fn answer<R>(request: &Parts, fill: impl Fn(Registry) -> R) -> Response<Body>
where
    R: Future<Output = Registry>,
{
    let mut response = Response::new(Body::empty());
    if request.uri.path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = Body::from("only /metrics is served here\n");
        return response;
    }
    if !matches!(request.method, Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return response;
    }
    let mut registry = fill(Registry::default()).await;
    register_process(&mut registry);
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, OPEN_METRICS);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.body_mut() = Body::from(text);
    response
}

/// Metrics of this process under the names that all Prometheus clients use. Absent where the system does not tell.
fn register_process(registry: &mut Registry) {
    if let Some(bytes) = resident_bytes() {
        let help = "Resident memory size in bytes";
        register_gauge(registry, "process_resident_memory_bytes", help, bytes);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let open = i64::try_from(open.count()).unwrap_or(i64::MAX);
        let help = "Number of open file descriptors";
        register_gauge(registry, "process_open_fds", help, open);
    }
}

fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

/// Registers a gauge with one value.
pub fn register_gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

/// Refuses every call.
struct NoCalls;

impl Authenticate for NoCalls {
    type Principal = ();

    async fn authenticate(&self, _: Call<'_>) -> Result<Admission<()>, RpcError> {
        Err(RpcError::unimplemented(
            "this port serves only /metrics: call procedures on the port of --listen",
        ))
    }
}

/// Reads the address of a metrics endpoint: `ADDRESS:PORT`, or a port of loopback.
///
/// # Errors
///
/// A sentence with the value and the accepted forms.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        format!(
            "`{}` is not a port or an address with a port: use a port such as 9420, which is opened on loopback, or 10.0.0.5:9420",
            text.escape_debug().take(64).collect::<String>()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_opened_on_loopback() {
        for (text, expected) in [
            ("9420", Some("127.0.0.1:9420")),
            ("10.0.0.5:9420", Some("10.0.0.5:9420")),
            ("[::]:9420", Some("[::]:9420")),
            ("10.0.0.5", None),
            ("70000", None),
            ("metrics", None),
        ] {
            let read = address(text).map(|address| address.to_string());
            assert_eq!(read.as_deref().ok(), expected, "{text}: {read:?}");
        }
        let refused = address("metrics\n").expect_err("is refused");
        assert!(refused.contains("`metrics\\n`"), "{refused}");
    }
}
