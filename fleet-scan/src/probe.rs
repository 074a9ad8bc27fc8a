//! A driver's view of one open port. It bounds the size, time and number of requests and replies.

mod line;

use std::{io, time::Duration};

use fleet_core::Endpoint;
use line::Line;
use tokio::{
    net::TcpStream,
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};
use zeroize::Zeroize as _;

use crate::{
    dial::{Dialer, REPLY_BLOCK},
    driver::DriverError,
    fingerprint::{Protocol, RuleVerdict},
    job::ScanOptions,
    mdns::Attributes,
    text,
};

/// The limit of requests per port, for all drivers together.
const MOST_REQUESTS: u32 = 16;

/// Bytes of the first reply to keep as evidence if no driver identifies the port. A banner of SSH, FTP or SMTP fits.
const FIRST_WORDS: usize = 64;

/// Characters of a request in the row of an unidentified host.
const REQUEST_LINE: usize = 128;

/// One open port of one device. At most one connection is open at a time.
#[derive(Debug)]
pub struct Probe<'a> {
    dialer: &'a Dialer,
    endpoint: Endpoint,
    line: Option<Line>,
    encrypts: bool,
    requests: u32,
    reply_timeout: Duration,
    reply_bytes: usize,
    /// Buffer permits for long replies. They are held while a driver may still use a reply.
    room: Option<SemaphorePermit<'a>>,
    first_words: Vec<u8>,
    /// What was sent, for the row of an unidentified host: one line for each request.
    sent: Vec<String>,
    /// A record of requests and replies, if the caller asked for one.
    notebook: Option<Notebook>,
    /// The name of the rule that identified the device, and over which protocol.
    rule: Option<(String, Protocol)>,
    /// The attributes that the host announced for the service at this port.
    attributes: Attributes,
}

/// A recorded conversation with a device, for rule authors.
#[derive(Debug, Default)]
pub(crate) struct Notebook {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) verdicts: Vec<RuleVerdict>,
}

/// A request and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The bytes that were sent.
    pub request: Vec<u8>,
    /// The received bytes, or the reason why there are none.
    pub reply: Result<Vec<u8>, DriverError>,
    /// Whether the exchange used TLS.
    pub encrypted: bool,
}

/// The reply to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// At least one byte, at most the scanner's limit.
    pub bytes: Vec<u8>,
    /// Why reading stopped.
    pub ended: Ended,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The reply is complete. The connection stays open.
    Complete,
    /// The device closed the connection.
    Closed,
    /// The size limit was reached.
    Full,
    /// The time limit expired.
    TimedOut,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(
        dialer: &'a Dialer,
        endpoint: Endpoint,
        stream: TcpStream,
        options: &ScanOptions,
    ) -> Self {
        Self {
            line: Some(Line::Plain(stream)),
            ..Self::unconnected(dialer, endpoint, options)
        }
    }

    /// Creates a probe without a connection. The first request opens one.
    pub(crate) fn unconnected(
        dialer: &'a Dialer,
        endpoint: Endpoint,
        options: &ScanOptions,
    ) -> Self {
        Self {
            dialer,
            endpoint,
            line: None,
            encrypts: false,
            requests: 0,
            reply_timeout: options.reply_timeout,
            reply_bytes: options.reply_bytes,
            room: None,
            first_words: Vec::new(),
            sent: Vec::new(),
            notebook: None,
            rule: None,
            attributes: Attributes::new(),
        }
    }

    /// Adds the attributes that the host announced for the service at this port.
    pub(crate) fn announced(mut self, attributes: Attributes) -> Self {
        self.attributes = attributes;
        self
    }

    /// The attributes that the host announced.
    pub(crate) fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Stores the name of the rule that identified the device.
    pub(crate) fn identified_by(&mut self, rule: &str, protocol: Protocol) {
        self.rule = Some((rule.to_owned(), protocol));
    }

    /// The rule that identified the device.
    pub(crate) fn rule(&self) -> Option<&str> {
        self.rule.as_ref().map(|(rule, _)| rule.as_str())
    }

    /// The rule that identified the device, and over which protocol.
    pub(crate) fn identification(&self) -> Option<(String, Protocol)> {
        self.rule.clone()
    }

    /// Starts recording requests and replies.
    pub(crate) fn record(&mut self) {
        self.notebook = Some(Notebook::default());
    }

    /// Returns the recording.
    pub(crate) fn into_notebook(self) -> Notebook {
        self.notebook.unwrap_or_default()
    }

    /// Records why each rule matched or failed, if recording is active.
    pub(crate) fn explain(&mut self, verdicts: impl FnOnce() -> Vec<RuleVerdict>) {
        if let Some(notebook) = &mut self.notebook {
            notebook.verdicts.extend(verdicts());
        }
    }

    /// The dialed endpoint.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Sends a request and reads until `complete` accepts the reply, the device closes, or a limit is reached. Connects
    /// again if needed. A partial reply counts as a reply.
    /// The connection stays open only after [`Ended::Complete`]. Dropping the future closes it.
    ///
    /// # Errors
    /// [`DriverError`] if no byte was received.
    pub async fn ask(
        &mut self,
        request: &[u8],
        complete: fn(&[u8]) -> bool,
    ) -> Result<Reply, DriverError> {
        if self.requests >= MOST_REQUESTS {
            return Err(DriverError::Protocol(format!(
                "not settled after {MOST_REQUESTS} requests"
            )));
        }
        self.requests += 1;
        self.sent.push(request_line(request));
        let reused = self.line.is_some();
        let outcome = match self.exchange(request, complete).await {
            // A device may close an idle connection at any time, so this failure is not evidence about the request.
            Err(DriverError::Closed | DriverError::Broken(_)) if reused => {
                self.exchange(request, complete).await
            }
            outcome => outcome,
        };
        if let Some(notebook) = &mut self.notebook {
            notebook.exchanges.push(Exchange {
                request: request.to_vec(),
                reply: outcome.clone().map(|reply| reply.bytes),
                encrypted: self.encrypts,
            });
        }
        outcome
    }

    /// Uses TLS from now on: on the open connection if it is unused, and on later connections. Certificates are **not**
    /// verified, because devices use self-signed ones. Never send secrets through it.
    pub fn encrypt(&mut self) {
        self.encrypts = true;
    }

    /// Whether the probe uses TLS.
    pub fn is_encrypted(&self) -> bool {
        self.encrypts
    }

    /// Closes the connection. The next request opens a new one.
    pub fn close(&mut self) {
        self.line = None;
    }

    /// Resets the probe for the next driver. The first reply and the number of requests stay.
    pub(crate) fn start_over(&mut self) {
        self.close();
        self.encrypts = false;
    }

    pub(crate) fn first_words(&self) -> &[u8] {
        &self.first_words
    }

    /// Overwrites the line of the last request, which contains a password.
    pub(crate) fn forget_last(&mut self) {
        if let Some(line) = self.sent.last_mut() {
            line.zeroize();
        }
    }

    /// Returns the requests that were sent, one line each.
    pub(crate) fn into_sent(self) -> Vec<String> {
        self.sent
    }

    async fn exchange(
        &mut self,
        request: &[u8],
        complete: fn(&[u8]) -> bool,
    ) -> Result<Reply, DriverError> {
        // Put back only after a complete reply: a canceled request must not leave half an answer to
        // the next one.
        let line = match self.line.take() {
            Some(line) => line,
            None => Line::Plain(self.dialer.open(self.endpoint).await?),
        };
        let deadline = Instant::now() + self.reply_timeout;
        let mut line = self.prepared(line, deadline).await?;
        match timeout_at(deadline, line.write_all(request)).await {
            Ok(Ok(())) => {}
            // Data that arrived before the close is still readable.
            Ok(Err(_)) => {}
            Err(_) => return Err(DriverError::Silence),
        }
        // One block from the start: a reply that holds a token rarely grows, which would leave a copy behind.
        let mut bytes = Vec::with_capacity(REPLY_BLOCK);
        let mut room = REPLY_BLOCK;
        let mut block = [0; REPLY_BLOCK];
        let ended = loop {
            if bytes.len() == room {
                if !self.take_room(deadline).await {
                    break Ended::TimedOut;
                }
                room += REPLY_BLOCK;
            }
            let most = room.min(self.reply_bytes) - bytes.len();
            let read = match timeout_at(deadline, line.read(&mut block[..most])).await {
                Ok(Ok(0)) => break Ended::Closed,
                Ok(Ok(count)) => count,
                Ok(Err(error)) if bytes.is_empty() => return Err(broken(&error)),
                Ok(Err(_)) => break Ended::Closed,
                Err(_) if bytes.is_empty() => return Err(DriverError::Silence),
                Err(_) => break Ended::TimedOut,
            };
            bytes.extend_from_slice(&block[..read]);
            if complete(&bytes) {
                self.line = Some(line);
                break Ended::Complete;
            }
            if bytes.len() >= self.reply_bytes {
                break Ended::Full;
            }
        };
        block.zeroize();
        if bytes.is_empty() {
            return Err(DriverError::Closed);
        }
        self.record_unencrypted(&bytes);
        Ok(Reply { bytes, ended })
    }

    /// Returns the connection, with TLS if the driver requested it.
    async fn prepared(&mut self, line: Line, deadline: Instant) -> Result<Line, DriverError> {
        if !self.encrypts {
            return Ok(line);
        }
        match timeout_at(deadline, line.encrypted(self.endpoint)).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(failed)) => {
                self.record_unencrypted(&failed.received);
                Err(DriverError::Protocol(format!("no TLS: {}", failed.error)))
            }
            Err(_) => Err(DriverError::Silence),
        }
    }

    /// Waits until the deadline for buffer space for another block of a reply. Returns whether there was space.
    async fn take_room(&mut self, deadline: Instant) -> bool {
        let Ok(Ok(permit)) = timeout_at(deadline, self.dialer.room().acquire()).await else {
            return false;
        };
        match &mut self.room {
            Some(room) => room.merge(permit),
            None => self.room = Some(permit),
        }
        true
    }

    fn record_unencrypted(&mut self, bytes: &[u8]) {
        if self.first_words.is_empty() {
            self.first_words = bytes.iter().take(FIRST_WORDS).copied().collect();
        }
    }
}

/// The first line of a request, escaped and bounded.
fn request_line(request: &[u8]) -> String {
    let line = request.split(|byte| matches!(byte, b'\r' | b'\n')).next();
    let line = line.unwrap_or_default();
    let line = line.strip_suffix(b" HTTP/1.1").unwrap_or(line);
    text::quotable(line, REQUEST_LINE)
}

fn broken(error: &io::Error) -> DriverError {
    // A device that closes with unread data sends a reset. It means the same as a normal end.
    if error.kind() == io::ErrorKind::ConnectionReset {
        DriverError::Closed
    } else {
        DriverError::Broken(error.kind())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use fleet_core::{AddressPolicy, Port};
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::guard::Guard;

    /// A host that sends without end.
    async fn talker() -> Endpoint {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move { while stream.write_all(&[b'x'; 1024]).await.is_ok() {} });
            }
        });
        Endpoint {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: Port::new(port).expect("a port"),
        }
    }

    async fn listen(probe: &mut Probe<'_>) -> (usize, Ended) {
        let reply = probe.ask(b"?", |_| false).await.expect("a reply");
        (reply.bytes.len(), reply.ended)
    }

    #[tokio::test]
    async fn talkers_without_end_share_the_room_for_long_replies() {
        let options = ScanOptions {
            reply_timeout: Duration::from_millis(300),
            ..ScanOptions::default()
        };
        let dialer = Dialer::with_room(&options, Guard::policy(AddressPolicy::DEMO), 2);
        let endpoint = talker().await;
        let open = async || {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, endpoint.port.number()));
            Probe::new(
                &dialer,
                endpoint,
                stream.await.expect("it listens"),
                &options,
            )
        };
        let (mut first, mut second) = (open().await, open().await);
        let (block, timed_out) = (REPLY_BLOCK, Ended::TimedOut);
        assert_eq!(listen(&mut first).await, (3 * block, timed_out));
        assert_eq!(listen(&mut second).await, (block, timed_out));
        drop(first);
        assert_eq!(listen(&mut second).await, (3 * block, timed_out));
        drop(second);
        let roomy = Dialer::new(&options, Guard::policy(AddressPolicy::DEMO));
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, endpoint.port.number()));
        let mut third = Probe::new(
            &roomy,
            endpoint,
            stream.await.expect("it listens"),
            &options,
        );
        assert_eq!(listen(&mut third).await, (options.reply_bytes, Ended::Full));
    }
}
