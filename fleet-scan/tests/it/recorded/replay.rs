//! Answers as the recorded device did, and keeps the requests.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// Where answers that were recorded at 80 and 443 are served.
pub(crate) const HTTP: u16 = 14_080;
pub(crate) const HTTPS: u16 = 14_443;

/// Commands that change nothing.
const READS: [&str; 10] = [
    "version",
    "devdetails",
    "devs",
    "stats",
    "status",
    "summary",
    "config",
    "get_version",
    "get_miner_info",
    "get.device.info",
];

/// Where Whatsminer API 3 is served, in frames of its own.
const WHATSMINER: u16 = 4433;

/// What a device answered, by port and request.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) head: BTreeMap<String, String>,
    answers: BTreeMap<(u16, String), String>,
}

impl Recording {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut recording = Self {
            head: BTreeMap::new(),
            answers: BTreeMap::new(),
        };
        let mut asked = None;
        for line in text.lines() {
            if let Some((key, value)) = line
                .strip_prefix("# ")
                .and_then(|line| line.split_once(": "))
            {
                recording.head.insert(key.to_owned(), value.to_owned());
            } else if let Some((port, what)) = line
                .strip_prefix("> ")
                .and_then(|line| line.split_once(' '))
            {
                let port = port
                    .parse()
                    .map_err(|_| format!("`{line}` names no port"))?;
                let key = (port, what.to_owned());
                recording.answers.insert(key.clone(), String::new());
                asked = Some(key);
            } else if let Some(answer) = asked
                .as_ref()
                .and_then(|key| recording.answers.get_mut(key))
            {
                answer.push_str(line);
                answer.push('\n');
            } else if !line.is_empty() {
                return Err(format!("`{line}` belongs to no answer"));
            }
        }
        Ok(recording)
    }

    /// Replaces a text in every answer.
    pub(crate) fn replace(&mut self, from: &str, to: &str) {
        for answer in self.answers.values_mut() {
            *answer = answer.replace(from, to);
        }
    }

    fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.answers.keys().map(|(port, _)| *port).collect();
        ports.dedup();
        ports
    }

    fn answer(&self, port: u16, asked: &str) -> Option<&str> {
        let exact = self.answers.get(&(port, asked.to_owned()));
        let any = || self.answers.get(&(port, "*".to_owned()));
        exact
            .or_else(any)
            .map(|answer| answer.trim_end_matches('\n'))
    }

    /// Whether a port speaks HTTP. ePIC serves it at the port of the CGMiner API.
    fn is_http(&self, port: u16) -> bool {
        self.answers.keys().any(|(other, asked)| {
            *other == port && (asked.starts_with('/') || asked.starts_with("POST "))
        })
    }

    /// Bytes as they go over the wire: the API ends with a NUL, HTTP lines with CRLF.
    fn reply(&self, port: u16, asked: &str) -> Vec<u8> {
        if !self.is_http(port) {
            let answer = self.answer(port, asked).unwrap_or_default();
            return match port {
                WHATSMINER => {
                    [&(answer.len() as u32).to_le_bytes()[..], answer.as_bytes()].concat()
                }
                _ if answer.is_empty() => Vec::new(),
                _ => format!("{answer}\0").into_bytes(),
            };
        }
        let text = self.answer(port, asked).unwrap_or("HTTP/1.1 404 Not Found");
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut body = body.as_bytes().to_vec();
        if head.to_ascii_lowercase().contains("content-encoding: gzip") {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&body).expect("memory");
            body = encoder.finish().expect("memory");
        }
        let head = head.replace('\n', "\r\n");
        let head = format!("{head}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body].concat()
    }
}

/// A device that answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Replaying {
    requests: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<io::Result<()>>,
}

impl Replaying {
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

pub(crate) async fn replay(address: Ipv4Addr, recording: Recording) -> Replaying {
    let recording = Arc::new(recording);
    let requests = Arc::new(Mutex::new(Vec::new()));
    let mut serving = JoinSet::new();
    for port in recording.ports() {
        let at = match port {
            80 => HTTP,
            443 => HTTPS,
            other => other,
        };
        let listener = TcpListener::bind((address, at)).await.expect("a free port");
        let (recording, requests) = (Arc::clone(&recording), Arc::clone(&requests));
        serving.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                let (recording, requests) = (Arc::clone(&recording), Arc::clone(&requests));
                tokio::spawn(async move {
                    match port {
                        443 => {
                            let stream = acceptor().accept(stream).await?;
                            serve(stream, port, &recording, &requests).await
                        }
                        _ => serve(stream, port, &recording, &requests).await,
                    }
                });
            }
        });
    }
    Replaying {
        requests,
        _serving: serving,
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    port: u16,
    recording: &Recording,
    requests: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        let mut block = [0; 1024];
        let count = stream.read(&mut block).await?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(&block[..count]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some(asked) = asked(&text) else {
            // Not a request of this port's protocol, or not whole yet. A device closes on the first.
            let is_other = !recording.is_http(port) && text.contains("\r\n\r\n");
            if is_other {
                return Ok(());
            }
            continue;
        };
        request.clear();
        requests.lock().expect("no panic").push(text);
        stream.write_all(&recording.reply(port, &asked)).await?;
        stream.flush().await?;
        if !recording.is_http(port) && port != WHATSMINER {
            return stream.shutdown().await;
        }
    }
}

/// What a whole request asks, as a recording writes it.
fn asked(request: &str) -> Option<String> {
    // A frame of Whatsminer API 3 begins with its length.
    if let Some(start) = request.find('{').filter(|start| *start <= 4) {
        let command: serde_json::Value = serde_json::from_str(&request[start..]).ok()?;
        let command = command.get("command").or_else(|| command.get("cmd"))?;
        return Some(command.as_str()?.to_owned());
    }
    let (head, body) = request.split_once("\r\n\r\n")?;
    let mut words = head.split(' ');
    match (words.next()?, words.next()?) {
        ("GET", path) => Some(path.to_owned()),
        (method, path) => {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            let is_whole = length
                .and_then(|length| length.parse().ok())
                .is_none_or(|length: usize| body.len() >= length);
            is_whole.then(|| format!("{method} {path} {body}"))
        }
    }
}

/// Whether a request changes nothing and proves no identity.
pub(crate) fn is_read_only(request: &str) -> bool {
    let Some(asked) = asked(request) else {
        return false;
    };
    let lower = request.to_ascii_lowercase();
    let is_anonymous = !lower.contains("\r\nauthorization:") && !lower.contains("\r\ncookie:");
    let is_read = asked.starts_with('/')
        || asked.starts_with(r#"POST /graphql {"query":"{"#)
        || asked == "POST /user/userpanel post=4";
    READS.contains(&asked.as_str()) || (is_anonymous && is_read)
}

/// With a certificate that nobody signed but itself.
fn acceptor() -> TlsAcceptor {
    let own = rcgen::generate_simple_self_signed(vec!["rig".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a key that fits");
    TlsAcceptor::from(Arc::new(config))
}
