//! Answers as the recorded device did, and keeps what it was asked.

use std::{
    collections::BTreeMap,
    io,
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

/// Where what was recorded at 80 and 443 is served.
pub(super) const HTTP: u16 = 14_080;
pub(super) const HTTPS: u16 = 14_443;

/// Commands of the CGMiner API that change nothing.
const QUESTIONS: [&str; 6] = [
    "version",
    "devdetails",
    "stats",
    "config",
    "get_version",
    "get_miner_info",
];

/// What a device answered, by port and by what it was asked.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) head: BTreeMap<String, String>,
    answers: BTreeMap<(u16, String), String>,
}

impl Recording {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
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

    /// Bytes as they go over the wire: the API ends with a NUL, HTTP lines with CRLF.
    fn reply(&self, port: u16, asked: &str) -> Vec<u8> {
        if port == 4028 {
            let answer = self.answer(port, asked);
            return answer
                .map(|answer| format!("{answer}\0").into_bytes())
                .unwrap_or_default();
        }
        let text = self.answer(port, asked).unwrap_or("HTTP/1.1 404 Not Found");
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let head = head.replace('\n', "\r\n");
        format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }
}

/// A device that answers until it is dropped.
#[derive(Debug)]
pub(super) struct Replaying {
    requests: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<io::Result<()>>,
}

impl Replaying {
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

pub(super) async fn replay(address: Ipv4Addr, recording: Recording) -> Replaying {
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
        let Some(asked) = asked(port, &text) else {
            continue;
        };
        request.clear();
        requests.lock().expect("no panic").push(text);
        stream.write_all(&recording.reply(port, &asked)).await?;
        stream.flush().await?;
        if port == 4028 {
            return stream.shutdown().await;
        }
    }
}

/// What a whole request asks.
fn asked(port: u16, request: &str) -> Option<String> {
    if port == 4028 {
        let command: serde_json::Value = serde_json::from_str(request).ok()?;
        return Some(command.get("command")?.as_str()?.to_owned());
    }
    let (head, _) = request.split_once("\r\n\r\n")?;
    Some(head.split(' ').nth(1)?.to_owned())
}

/// Whether a request changes nothing and proves no identity.
pub(super) fn is_read_only(request: &str) -> bool {
    if let Some(command) = asked(4028, request) {
        return QUESTIONS.contains(&command.as_str());
    }
    let lower = request.to_ascii_lowercase();
    request.starts_with("GET /")
        && !lower.contains("\r\nauthorization:")
        && !lower.contains("\r\ncookie:")
        && request.ends_with("\r\n\r\n")
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
