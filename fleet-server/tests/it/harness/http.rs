//! HTTP/1.1 by hand: what is sent is what the test says, and nothing hides a header.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::soon;

/// An answer.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    stream: TcpStream,
}

impl Http {
    /// A header's value; empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// `NAME=VALUE` of the cookie that the answer sets.
    pub(crate) fn cookie(&self) -> String {
        let set = self.header("set-cookie");
        set.split(';').next().unwrap_or_default().to_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }

    /// Reads on until the body, chunk sizes and all, contains a text.
    pub(crate) async fn read_until(&mut self, text: &str) {
        soon(async {
            while !self.body.contains(text) {
                assert!(
                    read(&mut self.stream, &mut self.body).await,
                    "ends: {}",
                    self.body
                );
            }
        })
        .await;
    }

    /// Reads until the end.
    pub(crate) async fn read_to_end(&mut self) {
        soon(async { while read(&mut self.stream, &mut self.body).await {} }).await;
    }

    /// Reads a file until its end. The body is then without the sizes of its chunks.
    pub(crate) async fn read_file(&mut self) {
        self.read_to_end().await;
        if self.header("transfer-encoding") == "chunked" {
            self.body = unchunked(&self.body);
        }
    }
}

fn unchunked(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return whole;
        }
        whole.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    panic!("the body ends early: {whole}");
}

async fn read(stream: &mut TcpStream, into: &mut String) -> bool {
    let mut bytes = [0; 4_096];
    let count = stream.read(&mut bytes).await.unwrap_or(0);
    into.push_str(&String::from_utf8_lossy(&bytes[..count]));
    count > 0
}

/// Sends one request on a connection of its own. A body with a length is read whole; of one without, what
/// came with the head.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Http {
    let body = body.as_ref();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: fleet\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if method != "GET" && method != "HEAD" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    soon(async {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let whole = [head.as_bytes(), body].concat();
        stream.write_all(&whole).await.expect("is sent");
        let mut text = String::new();
        while !text.contains("\r\n\r\n") {
            assert!(read(&mut stream, &mut text).await, "no head: {text}");
        }
        let (head, rest) = text.split_once("\r\n\r\n").expect("was found");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Http {
            status: status.and_then(|s| s.parse().ok()).expect("a status"),
            headers,
            body: rest.to_owned(),
            stream,
        };
        let length: Option<usize> = answer.header("content-length").parse().ok();
        if let (Some(length), false) = (length, method == "HEAD") {
            while answer.body.len() < length {
                assert!(read(&mut answer.stream, &mut answer.body).await);
            }
        }
        answer
    })
    .await
}
