//! Serves one connection of a simulated device. Time and size are bounded.

use std::{io, time::Duration};

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::Host;
use crate::{
    answer::{
        HttpRequest, body_length, cgminer_reply, command_in, encrypted_reply, head_length,
        http_reply, keeps_alive, malform,
    },
    rng::SplitMix,
    site::{Device, Manner, Protocol},
};

/// The idle timeout. Real devices drop a peer that sends no request within some seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a silent device keeps a connection open.
const SILENCE: Duration = Duration::from_secs(300);

/// The longest accepted request, in bytes.
const LONGEST_REQUEST: usize = 8 * 1024;

/// The limit of random bytes per connection.
const MOST_GARBAGE: u64 = 64 * 1024 * 1024;

/// Size and interval of the chunks of a slow answer. A 300-byte reply takes about 50 ms.
const DRIP: (usize, Duration) = (16, Duration::from_millis(2));

pub(super) async fn serve(host: &Host, number: u64, stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let talk = Talk {
        host,
        number,
        stream,
    };
    let outcome = match host.service.manner {
        Manner::Proper | Manner::Malformed(_) | Manner::Dripping => match host.service.protocol {
            Protocol::Cgminer => talk.cgminer().await,
            Protocol::Http => talk.http().await,
        },
        Manner::Garbage => talk.garbage().await,
        Manner::Silent => talk.silence().await,
        Manner::HangsUp => {
            talk.note("closed");
            Ok(())
        }
    };
    if let Err(error) = outcome {
        tracing::trace!(%error, "a peer of a simulated device went away");
    }
}

struct Talk<'a> {
    host: &'a Host,
    number: u64,
    stream: &'a TcpStream,
}

impl Talk<'_> {
    fn device(&self) -> io::Result<&Device> {
        self.host
            .site
            .devices
            .get(self.host.index)
            .ok_or_else(|| io::Error::other("no such device"))
    }

    fn note(&self, what: &str) {
        self.host.journal.update(self.number, |connection| {
            connection.answered.push(what.to_owned())
        });
    }

    async fn cgminer(&self) -> io::Result<()> {
        let mut request = Vec::new();
        let (command, reply) = loop {
            if let Some(reply) = encrypted_reply(self.device()?, &request) {
                break ("encrypted".to_owned(), reply);
            }
            if let Some(command) = command_in(&request) {
                let reply = cgminer_reply(self.device()?, &command);
                break (command, reply);
            }
            if self.read_more(&mut request).await? == 0 {
                return Ok(());
            }
        };
        sleep(self.host.service.delay()).await;
        self.note(&command);
        let bytes = match self.host.service.manner {
            Manner::Malformed(malformation) => malform(malformation, &reply),
            Manner::Proper
            | Manner::Dripping
            | Manner::Garbage
            | Manner::Silent
            | Manner::HangsUp => {
                let mut bytes = reply.into_bytes();
                bytes.push(0);
                bytes
            }
        };
        self.send(&bytes).await
    }

    async fn http(&self) -> io::Result<()> {
        let mut request = Vec::new();
        loop {
            let length = loop {
                if let Some(length) = head_length(&request) {
                    break length;
                }
                if self.read_more(&mut request).await? == 0 {
                    return Ok(());
                }
            };
            let head: Vec<u8> = request.drain(..length).collect();
            let length = body_length(&head);
            while request.len() < length {
                if self.read_more(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            let body: Vec<u8> = request.drain(..length).collect();
            let is_kept = keeps_alive(&head);
            let Some(asked) = HttpRequest::new(head, &body) else {
                self.note("bad request");
                return self.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            };
            sleep(self.host.service.delay()).await;
            self.note(&format!("{} {}", asked.method, asked.path));
            let reply = http_reply(self.device()?, &asked);
            self.send(&reply).await?;
            if !is_kept {
                return Ok(());
            }
        }
    }

    async fn garbage(&self) -> io::Result<()> {
        self.note("garbage");
        let mut rng = SplitMix::new(self.host.site.seed ^ self.number);
        let mut sent = 0;
        while sent < MOST_GARBAGE {
            let block: Vec<u8> = (0..512).flat_map(|_| rng.next().to_be_bytes()).collect();
            self.send(&block).await?;
            sent += block.len() as u64;
        }
        Ok(())
    }

    async fn silence(&self) -> io::Result<()> {
        self.note("silence");
        let _ = timeout(SILENCE, async {
            let mut swallowed = Vec::new();
            while self.read_some(&mut swallowed).await? > 0 {
                swallowed.clear();
            }
            io::Result::Ok(())
        })
        .await;
        Ok(())
    }

    /// Reads more of a request. Returns 0 if the peer has closed, is too slow or sends too much.
    async fn read_more(&self, request: &mut Vec<u8>) -> io::Result<usize> {
        if request.len() >= LONGEST_REQUEST {
            return Ok(0);
        }
        timeout(PATIENCE, self.read_some(request))
            .await
            .unwrap_or(Ok(0))
    }

    async fn read_some(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let mut block = [0; 1024];
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut block) {
                Ok(count) => {
                    into.extend_from_slice(&block[..count]);
                    self.host.journal.update(self.number, |connection| {
                        connection.bytes_read += count as u64
                    });
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        if self.host.service.manner != Manner::Dripping {
            return self.send_all(bytes).await;
        }
        for piece in bytes.chunks(DRIP.0) {
            self.send_all(piece).await?;
            sleep(DRIP.1).await;
        }
        Ok(())
    }

    async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.host.journal.update(self.number, |connection| {
                        connection.bytes_sent += count as u64
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
