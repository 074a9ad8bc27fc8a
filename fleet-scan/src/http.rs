//! The drivers for web servers (TCP 80; under TLS, TCP 443): ask the root page and the few paths that tell more
//! without a login.
//!
//! Responses are read in `http/response.rs`; which page names which make is `http/page.rs`, what an API says is a
//! file a make (`axe.rs`, `epic.rs`, `goldshell.rs`, `proto.rs`, `vnish.rs`). Certificates are not verified.

mod antminer;
mod axe;
mod digest;
mod epic;
mod goldshell;
mod page;
mod proto;
mod response;
mod vnish;

use std::net::IpAddr;

pub use epic::EpicDriver;
use fleet_core::{DeviceFacts, Mac, Port};
use page::{Make, Page};
use response::Response;
use serde_json::Value;

use crate::{
    driver::{Answer, BoxFuture, Driver, DriverError},
    login::{Authenticated, Login},
    probe::Probe,
    text,
};

/// Below the CGMiner API's (100).
const PRECEDENCE: u8 = 50;

/// Above plain HTTP's: who serves both says the same at both, and keeps the plain one to send browsers away.
const TLS_PRECEDENCE: u8 = 60;

/// The port of plain HTTP.
const PORT: u16 = 80;

/// The port of HTTP under TLS.
const TLS_PORT: u16 = 443;

/// Names devices by their web server, read-only and without a login.
#[derive(Debug, Clone)]
pub struct HttpDriver {
    ports: Vec<Port>,
}

impl HttpDriver {
    /// The driver of plain HTTP's own port.
    pub fn new() -> Self {
        Self::on(Port::new(PORT).into_iter().collect())
    }

    /// The driver of other ports, tried in this order.
    pub fn on(ports: Vec<Port>) -> Self {
        Self { ports }
    }
}

impl Default for HttpDriver {
    fn default() -> Self {
        Self::new()
    }
}

impl Driver for HttpDriver {
    fn name(&self) -> &str {
        "http"
    }

    fn default_ports(&self) -> Vec<Port> {
        self.ports.clone()
    }

    fn precedence(&self) -> u8 {
        PRECEDENCE
    }

    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(identify(probe))
    }

    fn login_port(&self, device: &DeviceFacts, at: Port) -> Option<Port> {
        if !antminer::is_one(device) {
            return None;
        }
        // Named by its web page, it logs in there; named by its API, at the web server's own port.
        if device.scheme == "http" {
            Some(at)
        } else {
            self.ports.first().copied()
        }
    }

    fn authenticate<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
        device: &'a DeviceFacts,
        login: Option<&'a Login>,
    ) -> BoxFuture<'a, Result<Authenticated, DriverError>> {
        Box::pin(async move {
            if antminer::is_one(device) {
                antminer::authenticate(probe, login).await
            } else {
                Ok(Authenticated::Unsupported)
            }
        })
    }
}

/// Names devices by their web server under TLS, read-only and without a login. Certificates are not verified: a
/// device signs its own, which proves nothing. It never logs in.
#[derive(Debug, Clone)]
pub struct HttpsDriver {
    ports: Vec<Port>,
}

impl HttpsDriver {
    /// The driver of HTTPS' own port.
    pub fn new() -> Self {
        Self::on(Port::new(TLS_PORT).into_iter().collect())
    }

    /// The driver of other ports, tried in this order.
    pub fn on(ports: Vec<Port>) -> Self {
        Self { ports }
    }
}

impl Default for HttpsDriver {
    fn default() -> Self {
        Self::new()
    }
}

impl Driver for HttpsDriver {
    fn name(&self) -> &str {
        "https"
    }

    fn default_ports(&self) -> Vec<Port> {
        self.ports.clone()
    }

    fn precedence(&self) -> u8 {
        TLS_PRECEDENCE
    }

    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(async move {
            probe.encrypt();
            identify(probe).await
        })
    }
}

async fn identify(probe: &mut Probe<'_>) -> Result<Answer, DriverError> {
    let Some(root) = get(probe, "/").await? else {
        return Ok(Answer::Foreign);
    };
    let said = page::words(&root);
    let named = match Page::of(&root) {
        Page::Named(Make::Vnish) => {
            let info = get_json(probe, vnish::INFO).await.ok().flatten();
            Some(vnish::identification(&info.unwrap_or_default()))
        }
        Page::Named(make) => Some(make.identification()),
        Page::AxeOs => {
            let info = get_json(probe, axe::INFO).await.ok().flatten();
            Some(axe::identification(&info.unwrap_or_default()))
        }
        // Who falls silent in between stays a stranger that said what its page says.
        Page::Shell => by_its_api(probe).await.ok().flatten(),
        Page::Other => None,
    };
    let Some(device) = named else {
        return Ok(Answer::Stranger { evidence: said });
    };
    let scheme = if probe.is_encrypted() {
        "https"
    } else {
        "http"
    };
    let evidence = match device.evidence.as_str() {
        "" => said,
        path => text::bounded(&format!("{path}, {said}"), text::EVIDENCE),
    };
    Ok(Answer::Named(Box::new(DeviceFacts {
        scheme: scheme.to_owned(),
        evidence,
        ..device
    })))
}

/// Many pages are a bare application shell; only what the application asks names the device.
async fn by_its_api(probe: &mut Probe<'_>) -> Result<Option<DeviceFacts>, DriverError> {
    if let Some(pairing) = get_json(probe, proto::PAIRING_INFO).await?
        && proto::is_pairing_info(&pairing)
    {
        let system = get_json(probe, proto::SYSTEM).await.ok().flatten();
        return Ok(Some(proto::identification(
            &pairing,
            &system.unwrap_or_default(),
        )));
    }
    if let Some(info) = get_json(probe, axe::INFO).await?
        && axe::is_info(&info)
    {
        return Ok(Some(axe::identification(&info)));
    }
    let status = get_json(probe, goldshell::STATUS).await?;
    Ok(status
        .filter(goldshell::is_status)
        .map(|status| goldshell::identification(&status)))
}

/// The response to a request for a path; none when what came back is not HTTP.
async fn get(probe: &mut Probe<'_>, path: &str) -> Result<Option<Response>, DriverError> {
    get_with(probe, path, "").await
}

/// The same with further header lines, each ended.
async fn get_with(
    probe: &mut Probe<'_>,
    path: &str,
    headers: &str,
) -> Result<Option<Response>, DriverError> {
    let endpoint = probe.endpoint();
    let implied = if probe.is_encrypted() { TLS_PORT } else { PORT };
    let host = match endpoint.ip {
        _ if endpoint.port.number() != implied => endpoint.to_string(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: fleet-scan/{}\r\nAccept: */*\r\n{headers}\r\n",
        env!("CARGO_PKG_VERSION")
    );
    let reply = probe.ask(request.as_bytes(), response::is_complete).await?;
    let response = response::parse(&reply.bytes);
    if response.as_ref().is_none_or(Response::closes) {
        probe.close();
    }
    Ok(response)
}

/// The JSON at a path; none when there is none.
async fn get_json(probe: &mut Probe<'_>, path: &str) -> Result<Option<Value>, DriverError> {
    let response = get(probe, path).await?;
    Ok(response
        .filter(|response| response.status == 200)
        .and_then(|response| serde_json::from_slice(&response.body).ok()))
}

fn text_of(object: &Value, field: &str) -> String {
    object
        .get(field)
        .and_then(Value::as_str)
        .map(text::field)
        .unwrap_or_default()
}

fn mac(text: &str) -> Option<Mac> {
    text.parse().ok().filter(|mac: &Mac| !mac.is_placeholder())
}

pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = response::is_complete(bytes);
    let Some(response) = response::parse(bytes) else {
        return;
    };
    let words = page::words(&response);
    assert!(words.chars().count() <= text::EVIDENCE && words.is_ascii());
    let _ = Page::of(&response);
}

pub(crate) fn fuzz_challenge(bytes: &[u8]) {
    digest::fuzz(bytes);
}

/// What every reader of a device's JSON makes of it: never a panic, nothing unbounded, always a driver's name.
pub(crate) fn fuzz_json(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let _ = (
        proto::is_pairing_info(&value),
        axe::is_info(&value),
        goldshell::is_status(&value),
        epic::is_summary(&value),
    );
    for device in [
        proto::identification(&value, &value),
        axe::identification(&value),
        goldshell::identification(&value),
        vnish::identification(&value),
        epic::identification(&value, &value),
    ] {
        assert!(!device.driver.is_empty());
        for text in [&device.model, &device.manufacturer, &device.firmware] {
            assert!(text.chars().count() <= 2 * text::FIELD, "{device:?}");
            assert!(!text.chars().any(char::is_control), "{device:?}");
        }
        assert!(device.mac.is_none_or(|mac| !mac.is_placeholder()));
    }
}
