//! The driver for web servers (TCP 80): asks the root page and the few paths that tell more without a login.
//!
//! Responses are read in `http/response.rs`; which page names which make is `http/page.rs`. TLS is not spoken.

mod antminer;
mod digest;
mod page;
mod response;

use std::net::IpAddr;

use fleet_core::{Mac, Port, Serial};
use serde_json::Value;

use crate::driver::{Answer, BoxFuture, Driver, DriverError, Identification};
use crate::login::{Authenticated, Login};
use crate::probe::Probe;
use crate::text;

use page::Page;
use response::Response;

/// Below the CGMiner API's (100).
const PRECEDENCE: u8 = 50;

/// The port of plain HTTP.
const PORT: u16 = 80;

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

    fn login_port(&self, device: &Identification, at: Port) -> Option<Port> {
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
        device: &'a Identification,
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

async fn identify(probe: &mut Probe<'_>) -> Result<Answer, DriverError> {
    let Some(root) = get(probe, "/").await? else {
        return Ok(Answer::Foreign);
    };
    let evidence = page::words(&root);
    let identification = match Page::of(&root) {
        Page::Named(make) => Some(Identification {
            evidence: evidence.clone(),
            ..make.identification()
        }),
        Page::AxeOs => {
            let info = get_json(probe, "/api/system/info")
                .await
                .unwrap_or_default();
            Some(axe_os(&info, &evidence))
        }
        Page::PerhapsNerd => get_json(probe, "/api/system/info")
            .await
            .filter(is_axe_info)
            .map(|info| nerd_axe(&info, &evidence)),
        // A rig's page is a bare application shell; only its API names it.
        Page::Shell => match get_json(probe, "/api/v1/pairing/info")
            .await
            .filter(is_pairing_info)
        {
            Some(pairing) => {
                let system = get_json(probe, "/api/v1/system").await.unwrap_or_default();
                Some(proto(&pairing, &system))
            }
            None => None,
        },
        Page::Other => None,
    };
    Ok(match identification {
        Some(identification) => Answer::Named(Box::new(identification)),
        None => Answer::Stranger { evidence },
    })
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
    let host = match (endpoint.ip, endpoint.port.number()) {
        (IpAddr::V4(ip), PORT) => ip.to_string(),
        (IpAddr::V6(ip), PORT) => format!("[{ip}]"),
        _ => endpoint.to_string(),
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

/// The JSON at a path; none when there is none, for whatever reason.
async fn get_json(probe: &mut Probe<'_>, path: &str) -> Option<Value> {
    let response = get(probe, path)
        .await
        .ok()
        .flatten()
        .filter(|response| response.status == 200)?;
    serde_json::from_slice(&response.body).ok()
}

fn is_axe_info(info: &Value) -> bool {
    info.get("ASICModel").is_some()
}

fn axe_os(info: &Value, evidence: &str) -> Identification {
    let chip = text_of(info, "ASICModel");
    let said = text_of(info, "deviceModel");
    let model = match (said.as_str(), chip.as_str()) {
        ("", "BM1397") => "Bitaxe Max".to_owned(),
        ("", "BM1366") => "Bitaxe Ultra".to_owned(),
        ("", "BM1368") => "Bitaxe Supra".to_owned(),
        ("", "BM1370") => "Bitaxe Gamma".to_owned(),
        ("", _) => "Bitaxe".to_owned(),
        (said, _) if said.starts_with("Bitaxe") => said.to_owned(),
        (said, _) => format!("Bitaxe {said}"),
    };
    Identification {
        model,
        manufacturer: "Bitaxe".to_owned(),
        ..axe(info, evidence)
    }
}

fn nerd_axe(info: &Value, evidence: &str) -> Identification {
    Identification {
        model: text_of(info, "deviceModel"),
        manufacturer: "NerdAxe".to_owned(),
        ..axe(info, evidence)
    }
}

/// What every descendant of AxeOS says.
fn axe(info: &Value, evidence: &str) -> Identification {
    Identification {
        driver: "asicrs".to_owned(),
        scheme: "http".to_owned(),
        firmware: text_of(info, "version"),
        mac: mac(&text_of(info, "macAddr")),
        evidence: evidence.to_owned(),
        ..Identification::default()
    }
}

fn is_pairing_info(info: &Value) -> bool {
    mac(&text_of(info, "mac")).is_some() && info.get("cb_sn").is_some_and(Value::is_string)
}

/// A rig's system information is in an envelope in some versions.
fn proto(pairing: &Value, system: &Value) -> Identification {
    let system = system.get("system-info").unwrap_or(system);
    let maker = text_of(system, "manufacturer");
    let model = [text_of(system, "model"), text_of(system, "product_name")];
    Identification {
        driver: "proto".to_owned(),
        scheme: "http".to_owned(),
        model: model
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default(),
        manufacturer: if maker.is_empty() {
            "Proto".to_owned()
        } else {
            maker
        },
        firmware: system
            .get("os")
            .map(|os| text_of(os, "version"))
            .unwrap_or_default(),
        mac: mac(&text_of(pairing, "mac")),
        serial: Serial::new(&text_of(pairing, "cb_sn")),
        evidence: "/api/v1/pairing/info".to_owned(),
    }
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
    let _ = (Page::of(&response), page::words(&response));
    if let Ok(value) = serde_json::from_slice(&response.body) {
        let _ = (
            axe_os(&value, ""),
            nerd_axe(&value, ""),
            proto(&value, &value),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bitaxe_is_named_by_its_own_word_or_its_chip() {
        for (info, expected) in [
            (json!({"ASICModel": "BM1368"}), "Bitaxe Supra"),
            (
                json!({"ASICModel": "BM1370", "deviceModel": "Gamma"}),
                "Bitaxe Gamma",
            ),
            (json!({"deviceModel": "Bitaxe GT"}), "Bitaxe GT"),
            (json!({"ASICModel": "BM9999"}), "Bitaxe"),
            (json!(null), "Bitaxe"),
        ] {
            assert_eq!(axe_os(&info, "").model, expected, "{info}");
        }
    }

    #[test]
    fn a_rig_is_read_with_and_without_envelope() {
        let pairing = json!({"mac": "02:00:00:ad:66:39", "cb_sn": "B1"});
        let bare = json!({"model": "Rig", "manufacturer": "Proto", "os": {"version": "1.8.0"}});
        for system in [bare.clone(), json!({ "system-info": bare })] {
            let rig = proto(&pairing, &system);
            assert_eq!(
                (
                    rig.model.as_str(),
                    rig.firmware.as_str(),
                    rig.driver.as_str()
                ),
                ("Rig", "1.8.0", "proto")
            );
            assert_eq!(
                rig.mac.map(|mac| mac.to_string()).as_deref(),
                Some("02:00:00:AD:66:39")
            );
        }
        assert!(!is_pairing_info(
            &json!({"mac": "00:00:00:00:00:00", "cb_sn": "B1"})
        ));
        assert!(!is_pairing_info(&json!({"mac": "02:00:00:ad:66:39"})));
    }
}
