//! A driver's view of one open port: requests and replies, everything bounded in bytes, time and number.

use std::io;
use std::time::Duration;

use fleet_core::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::dial::{Dialled, Dialler, Failure};
use crate::driver::DriverError;
use crate::job::ScanOptions;

/// Requests that drivers may make of one port, all drivers together.
const MOST_REQUESTS: u32 = 16;

/// Bytes of the first reply that are kept as evidence for a port that nobody knows.
const FIRST_WORDS: usize = 32;

/// One open port of one device. At most one connection is open at a time.
#[derive(Debug)]
pub struct Probe<'a> {
    dialler: &'a Dialler,
    endpoint: Endpoint,
    stream: Option<TcpStream>,
    requests: u32,
    reply_timeout: Duration,
    reply_bytes: usize,
    first_words: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// At least one byte, at most the scanner's bound.
    pub bytes: Vec<u8>,
    /// Why there is no more of it.
    pub ended: Ended,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The driver had what it wanted; the connection stays open.
    Complete,
    /// The device closed the connection.
    Closed,
    /// The bound was reached.
    Full,
    /// The time was over.
    TimedOut,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(
        dialler: &'a Dialler,
        endpoint: Endpoint,
        stream: TcpStream,
        options: &ScanOptions,
    ) -> Self {
        Self {
            stream: Some(stream),
            ..Self::unconnected(dialler, endpoint, options)
        }
    }

    /// Without a connection: the first request opens one.
    pub(crate) fn unconnected(
        dialler: &'a Dialler,
        endpoint: Endpoint,
        options: &ScanOptions,
    ) -> Self {
        Self {
            dialler,
            endpoint,
            stream: None,
            requests: 0,
            reply_timeout: options.reply_timeout,
            reply_bytes: options.reply_bytes,
            first_words: Vec::new(),
        }
    }

    /// What was dialled.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Sends a request and reads until `complete` says of the bytes so far that they are a whole reply, the device
    /// closes, the bound is reached or the time is over; connects again if needed. A part of a reply is a reply.
    /// After anything but [`Ended::Complete`] the connection is closed. When dropped, the connection is closed.
    ///
    /// # Errors
    /// [`DriverError`] when not a single byte came back.
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
        let reused = self.stream.is_some();
        match self.exchange(request, complete).await {
            // A device may close an idle connection at any time; that says nothing of the request.
            Err(DriverError::Closed | DriverError::Broken(_)) if reused => {
                self.exchange(request, complete).await
            }
            outcome => outcome,
        }
    }

    /// Closes the connection; the next request opens a new one.
    pub fn close(&mut self) {
        self.stream = None;
    }

    pub(crate) fn first_words(&self) -> &[u8] {
        &self.first_words
    }

    async fn exchange(
        &mut self,
        request: &[u8],
        complete: fn(&[u8]) -> bool,
    ) -> Result<Reply, DriverError> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        let deadline = Instant::now() + self.reply_timeout;
        match timeout_at(deadline, stream.write_all(request)).await {
            Ok(Ok(())) => {}
            // What it said before it hung up is still there to read.
            Ok(Err(_)) => {}
            Err(_) => return Err(DriverError::Silence),
        }
        let mut bytes = Vec::new();
        let mut block = [0; 4096];
        let ended = loop {
            let room = block.len().min(self.reply_bytes - bytes.len());
            let read = match timeout_at(deadline, stream.read(&mut block[..room])).await {
                Ok(Ok(0)) => break Ended::Closed,
                Ok(Ok(count)) => count,
                Ok(Err(error)) if bytes.is_empty() => return Err(broken(&error)),
                Ok(Err(_)) => break Ended::Closed,
                Err(_) if bytes.is_empty() => return Err(DriverError::Silence),
                Err(_) => break Ended::TimedOut,
            };
            bytes.extend_from_slice(&block[..read]);
            if complete(&bytes) {
                self.stream = Some(stream);
                break Ended::Complete;
            }
            if bytes.len() >= self.reply_bytes {
                break Ended::Full;
            }
        };
        if bytes.is_empty() {
            return Err(DriverError::Closed);
        }
        if self.first_words.is_empty() {
            self.first_words = bytes.iter().take(FIRST_WORDS).copied().collect();
        }
        Ok(Reply { bytes, ended })
    }

    async fn connect(&mut self) -> Result<TcpStream, DriverError> {
        match self.dialler.reconnect(self.endpoint).await {
            Dialled::Open(stream) => Ok(stream),
            Dialled::TimedOut | Dialled::Failed(Failure::TimedOut) => Err(DriverError::Silence),
            Dialled::Failed(Failure::Refused) => {
                Err(DriverError::Broken(io::ErrorKind::ConnectionRefused))
            }
            Dialled::Failed(Failure::Unreachable) => {
                Err(DriverError::Broken(io::ErrorKind::HostUnreachable))
            }
            Dialled::Failed(Failure::Starved(error) | Failure::NoWay(error)) => {
                Err(DriverError::Broken(error.kind()))
            }
            Dialled::Forbidden(reason) => Err(DriverError::Forbidden(reason)),
        }
    }
}

fn broken(error: &io::Error) -> DriverError {
    if error.kind() == io::ErrorKind::ConnectionReset {
        DriverError::Closed
    } else {
        DriverError::Broken(error.kind())
    }
}
