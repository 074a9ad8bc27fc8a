//! Replies of devices' web servers: pages, login challenges, and the read-only API paths that require no login.

mod login;

use crate::site::{Device, Make};

/// The length of a complete request head, including its blank line. None if the head is incomplete.
pub(crate) fn head_length(request: &[u8]) -> Option<usize> {
    request
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// The longest accepted body, in bytes.
pub(crate) const LONGEST_BODY: usize = 4 * 1024;

/// One request with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// `GET` or `POST`.
    pub(crate) method: String,
    pub(crate) path: String,
    head: Vec<u8>,
    pub(crate) body: String,
}

impl Request {
    /// Parses a head and its body. None for unsupported methods.
    pub(crate) fn new(head: Vec<u8>, body: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(&head).ok()?.lines().next()?;
        let mut words = line.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let is_known = matches!(method.as_str(), "GET" | "HEAD" | "POST");
        is_known.then(|| Self {
            method,
            path,
            head,
            body: String::from_utf8_lossy(body).into_owned(),
        })
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_in(&self.head, name)
    }
}

/// The length of the body that follows a head.
pub(crate) fn body_length(head: &[u8]) -> usize {
    let length = header_in(head, "content-length").and_then(|length| length.parse().ok());
    length.unwrap_or(0).min(LONGEST_BODY)
}

/// Whether the peer may send another request on this connection (the default of HTTP/1.1).
pub(crate) fn keeps_alive(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    text.contains(" http/1.1\r\n") && !text.contains("connection: close")
}

/// The value of a header of a request.
fn header_in<'h>(head: &'h [u8], name: &str) -> Option<&'h str> {
    let lines = std::str::from_utf8(head).ok()?.lines().skip(1);
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    headers
        .find(|(header, _)| header.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// The whole response to a request.
pub(crate) fn reply(device: &Device, request: &Request) -> Vec<u8> {
    let answer = answer(device, request);
    let mut text = format!("HTTP/1.1 {}\r\n", answer.status);
    for (name, value) in &answer.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
    text.push_str(&answer.body);
    text.into_bytes()
}

struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
}

fn answer(device: &Device, request: &Request) -> Answer {
    let path = request.path.as_str();
    if let Some(answer) = login::session(device, request) {
        return answer;
    }
    match (device.make, path) {
        (Make::Antminer, _) => match request.header("authorization") {
            None => challenge(login::REALM),
            Some(authorization) => login::answer(device, path, authorization),
        },
        (Make::Braiins, "/graphql") if request.body.contains("modelName") => json(format!(
            r#"{{"data":{{"bosminer":{{"info":{{"modelName":"{}"}}}},"bos":{{"info":{{"version":{{"full":"2022-09-13-0-11012d53-{}-plus"}}}}}}}}}}"#,
            device.model, device.firmware
        )),
        (Make::Vnish, "/api/v1/info") => json(vnish_info(device)),
        (Make::Bitaxe | Make::NerdAxe, "/api/system/info") => json(axeos_info(device)),
        (Make::Proto, "/api/v1/pairing/info") => json(format!(
            r#"{{"mac":"{}","cb_sn":"{}"}}"#,
            device.mac.as_deref().unwrap_or_default(),
            device.serial.as_deref().unwrap_or_default()
        )),
        (Make::Proto, "/api/v1/system") => json(format!(
            r#"{{"system-info":{{"product_name":"Proto {0}","manufacturer":"Proto","model":"{0}","board":"C3","cb_sn":"{1}","os":{{"name":"ProtoOS","version":"{2}","variant":"release"}}}}}}"#,
            device.model,
            device.serial.as_deref().unwrap_or_default(),
            device.firmware
        )),
        (Make::Whatsminer, "/") => Answer {
            status: "307 Temporary Redirect",
            headers: vec![
                ("Location", format!("https://{}/", device.address)),
                ("Server", "nginx".to_owned()),
            ],
            body: String::new(),
        },
        (_, "/") => page(device),
        (_, _) => Answer {
            status: "404 Not Found",
            headers: vec![],
            body: "Not Found".to_owned(),
        },
    }
}

fn challenge(realm: &str) -> Answer {
    Answer {
        status: "401 Unauthorized",
        headers: vec![
            ("Server", "lighttpd/1.4.32".to_owned()),
            (
                "WWW-Authenticate",
                format!(
                    r#"Digest realm="{realm}", nonce="{}", algorithm=MD5, qop="auth""#,
                    login::NONCE
                ),
            ),
            ("Content-Type", "text/html".to_owned()),
        ],
        body: "<html><head><title>401 - Unauthorized</title></head><body></body></html>".to_owned(),
    }
}

fn json(body: String) -> Answer {
    Answer {
        status: "200 OK",
        headers: vec![("Content-Type", "application/json".to_owned())],
        body,
    }
}

fn page(device: &Device) -> Answer {
    let (title, extra, server) = match device.make {
        Make::Braiins => ("Braiins OS", r#"<div id="root"></div>"#, "lighttpd"),
        Make::LuxOs => ("Luxor Firmware", "", "LuxOS"),
        Make::Vnish => ("AnthillOS", r#"<div id="root"></div>"#, "nginx"),
        Make::Avalon => ("Avalon Device", "", "lighttpd/1.4.54"),
        Make::SealMiner => (
            "Dashboard",
            r#"<link rel="stylesheet" href="/assets/css/amazeui.min.css">"#,
            "nginx",
        ),
        Make::Epic => ("Miner Web Dashboard", "", ""),
        Make::Bitaxe => ("AxeOS", "", ""),
        Make::NerdAxe => ("NerdQAxe Dashboard", "", ""),
        Make::Proto => ("Dashboard", r#"<div id="root"></div>"#, "miner-api-server"),
        Make::Auradine => ("Miner UI", "", ""),
        Make::Printer => (
            "HP LaserJet Pro M404dn",
            "",
            "HP HTTP Server; HP LaserJet Pro; Serial",
        ),
        Make::Router => (
            "LuCI",
            r#"<meta http-equiv="refresh" content="0; URL=/cgi-bin/luci/">"#,
            "",
        ),
        Make::Antminer | Make::Whatsminer | Make::Marathon | Make::PlainCgminer => {
            ("Login", "<form></form>", "nginx")
        }
    };
    let mut headers = vec![("Content-Type", "text/html; charset=utf-8".to_owned())];
    if !server.is_empty() {
        headers.push(("Server", server.to_owned()));
    }
    Answer {
        status: "200 OK",
        headers,
        body: format!(
            "<!doctype html><html><head><title>{title}</title>{extra}</head><body></body></html>"
        ),
    }
}

/// VNish writes `N/A` for an unknown serial.
fn vnish_info(device: &Device) -> String {
    format!(
        r#"{{"miner":"{0}","model":"s19","fw_name":"Vnish","fw_version":"{1}","platform":"aml","system":{{"os":"GNU/Linux","network_status":{{"mac":"{2}","dhcp":true,"ip":"{3}","hostname":"Antminer"}},"uptime":"1:55"}},"serial":"{4}"}}"#,
        device.model,
        device.firmware,
        device.mac.as_deref().unwrap_or("00:00:00:00:00:00"),
        device.address,
        device.serial.as_deref().unwrap_or("N/A")
    )
}

/// Bitaxes report their chip and board. The NerdAxe family reports its model.
fn axeos_info(device: &Device) -> String {
    let mac = device.mac.as_deref().unwrap_or("00:00:00:00:00:00");
    let names = if device.make == Make::NerdAxe {
        format!(r#""ASICModel":"BM1368","deviceModel":"{}""#, device.model)
    } else {
        let (chip, board) = device.model.split_once(' ').unwrap_or_default();
        format!(r#""ASICModel":"{chip}","boardVersion":"{board}""#)
    };
    format!(
        r#"{{"power":2.65,"voltage":5175,"hashRate":1000,"macAddr":"{mac}","hostname":"bitaxe",{names},"version":"{}","idfVersion":"v5.4"}}"#,
        device.firmware
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_once_its_head_is_complete() {
        assert_eq!(head_length(b"GET / HTTP/1.1\r\nHost: x\r\n"), None);
        let head = b"GET /api/system/info HTTP/1.1\r\nHost: x\r\n\r\nrest";
        assert_eq!(head_length(head), Some(head.len() - 4));
        let request = Request::new(head.to_vec(), b"").expect("a request");
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("GET", "/api/system/info")
        );
        assert_eq!(request.header("Host"), Some("x"));
        assert!(keeps_alive(head));
        assert!(!keeps_alive(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
        assert!(!keeps_alive(b"GET / HTTP/1.0\r\n\r\n"));
        assert_eq!(Request::new(b"PUT / HTTP/1.1\r\n\r\n".to_vec(), b""), None);
        assert_eq!(
            body_length(b"POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\n"),
            12
        );
    }
}
