//! Parses HTTP/1 responses of devices. Bodies are bounded, complete or truncated, compressed or not, and framed by
//! length, by chunks or by the end of the connection. Pure.

use std::io::Read;

use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
use zeroize::Zeroize as _;

/// The limit of headers. No known device sends half as many.
const MOST_HEADERS: usize = 64;

/// The size limit of a decompressed body, in bytes. Pages of devices have a tenth of it, but gzip can expand 1,000
/// times.
const MOST_UNPACKED: u64 = 256 * 1024;

/// A response with its decompressed body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Lower-case names with their values.
    headers: Vec<(String, String)>,
    /// The body without chunk framing and compression. It may be truncated.
    pub(crate) body: Vec<u8>,
    keeps_alive: bool,
}

/// How the end of the body is determined.
enum Framing {
    None,
    Length(usize),
    Chunks,
    UntilClosed,
}

struct Head {
    response: Response,
    framing: Framing,
    length: usize,
}

impl Response {
    /// The values of a header, by its lower-case name.
    pub(crate) fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// Decompresses the available part of the body. A body that does not match its header stays unchanged.
    fn unpack(&mut self) {
        let encoding = self
            .header("content-encoding")
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let mut unpacked = Vec::new();
        // A truncated body ends in an error. The data before it stays.
        let _ = match encoding.trim() {
            "gzip" | "x-gzip" => GzDecoder::new(&*self.body)
                .take(MOST_UNPACKED)
                .read_to_end(&mut unpacked),
            "deflate" => ZlibDecoder::new(&*self.body)
                .take(MOST_UNPACKED)
                .read_to_end(&mut unpacked),
            _ => return,
        };
        // Some servers send the stream without its zlib header, which browsers accept too.
        if unpacked.is_empty() && encoding.trim() == "deflate" {
            let raw = DeflateDecoder::new(&*self.body);
            // Most other bytes are no such stream, but some of their beginnings are.
            if raw.take(MOST_UNPACKED).read_to_end(&mut unpacked).is_err() {
                unpacked.clear();
            }
        }
        if !unpacked.is_empty() {
            self.body = unpacked;
        }
    }

    /// Overwrites headers and body, which carry a token or facts from behind a login.
    pub(crate) fn wipe(&mut self) {
        self.body.zeroize();
        for (_, value) in &mut self.headers {
            value.zeroize();
        }
    }

    /// Whether the connection cannot carry another request.
    pub(crate) fn closes(&self) -> bool {
        !self.keeps_alive
    }
}

/// Whether the bytes contain a complete response. A response without a length is complete only when the device closes.
pub(crate) fn is_complete(bytes: &[u8]) -> bool {
    let Some(head) = head(bytes) else {
        return false;
    };
    let body = &bytes[head.length..];
    match head.framing {
        Framing::None => true,
        Framing::Length(length) => body.len() >= length,
        Framing::Chunks => dechunk(body).1,
        Framing::UntilClosed => false,
    }
}

/// Parses the response, with the received part of its body.
pub(crate) fn parse(bytes: &[u8]) -> Option<Response> {
    let Head {
        mut response,
        framing,
        length,
    } = head(bytes)?;
    let body = &bytes[length..];
    response.body = match framing {
        Framing::None => Vec::new(),
        Framing::Length(length) => body[..length.min(body.len())].to_vec(),
        Framing::Chunks => dechunk(body).0,
        Framing::UntilClosed => body.to_vec(),
    };
    response.unpack();
    Some(response)
}

fn head(bytes: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let mut lenient = httparse::ParserConfig::default();
    lenient
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    let httparse::Status::Complete(length) = lenient.parse_response(&mut parsed, bytes).ok()?
    else {
        return None;
    };
    let status = parsed.code?;
    let headers: Vec<(String, String)> = parsed
        .headers
        .iter()
        .map(|header| {
            (
                header.name.to_ascii_lowercase(),
                String::from_utf8_lossy(header.value).trim().to_owned(),
            )
        })
        .collect();
    let value = |name: &str| {
        headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.to_ascii_lowercase())
    };
    let has = |name: &str, word: &str| value(name).is_some_and(|value| value.contains(word));
    // RFC 9112, 6.3: these have no body despite their headers, and Transfer-Encoding overrides
    // Content-Length.
    let framing = if status < 200 || status == 204 || status == 304 {
        Framing::None
    } else if has("transfer-encoding", "chunked") {
        Framing::Chunks
    } else {
        match value("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => Framing::Length(length),
            None => Framing::UntilClosed,
        }
    };
    let keeps_alive = parsed.version == Some(1)
        && !has("connection", "close")
        && !matches!(framing, Framing::UntilClosed);
    Some(Head {
        response: Response {
            status,
            headers,
            body: Vec::new(),
            keeps_alive,
        },
        framing,
        length,
    })
}

/// The payload of the received chunks, and whether the last chunk arrived.
fn dechunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut payload = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(bytes)
        else {
            return (payload, false);
        };
        if size == 0 {
            return (payload, true);
        }
        let rest = bytes.get(start..).unwrap_or_default();
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        payload.extend_from_slice(&rest[..size]);
        bytes = rest[size..].strip_prefix(b"\r\n").unwrap_or(&rest[size..]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_end_by_length_by_chunks_or_by_closing() {
        for (text, body, complete, closes) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloEXTRA",
                "hello",
                true,
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
                "hello",
                false,
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
                "hello",
                true,
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\nff\r\nlo",
                "hello",
                false,
                false,
            ),
            ("HTTP/1.0 200 OK\r\n\r\nhello", "hello", false, true),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
                "hello",
                true,
                true,
            ),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", "", true, false),
            (
                "HTTP/1.1 200\r\nServer : x\r\nbroken header\r\nContent-Length: 2\r\n\r\nok",
                "ok",
                true,
                false,
            ),
        ] {
            let response = parse(text.as_bytes()).expect(text);
            assert_eq!(String::from_utf8_lossy(&response.body), body, "{text:?}");
            assert_eq!(is_complete(text.as_bytes()), complete, "{text:?}");
            assert_eq!(response.closes(), closes, "{text:?}");
        }
    }

    #[test]
    fn bytes_without_a_response_head_yield_nothing() {
        for bytes in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nServer: x",
            b"{\"STATUS\":\"E\"}\0",
            b"SSH-2.0-x\r\n",
            b"\xff\xff",
        ] {
            assert_eq!(parse(bytes), None);
            assert!(!is_complete(bytes));
        }
    }

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).expect("memory");
        encoder.finish().expect("memory")
    }

    fn packed(encoding: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    #[test]
    fn compressed_bodies_are_unpacked_within_bounds() {
        let page = b"<title>AxeOS</title>";
        let whole = gzip(page);
        let cut = &whole[..whole.len() - 4];
        for (encoding, body) in [
            ("gzip", &whole[..]),
            ("GZIP", &whole),
            ("gzip", cut),
            ("gzip", &page[..]),
            ("br", page),
        ] {
            let response = parse(&packed(encoding, body)).expect("a response");
            assert_eq!(response.body, page, "{encoding}");
        }
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        raw.write_all(page).expect("memory");
        let raw = raw.finish().expect("memory");
        let response = parse(&packed("deflate", &raw)).expect("a response");
        assert_eq!(response.body, page);
        let bomb = parse(&packed("gzip", &gzip(&vec![0; 4 * 1024 * 1024]))).expect("a response");
        assert_eq!(bomb.body.len() as u64, MOST_UNPACKED);
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("http-response"))]

        #[test]
        fn no_bytes_panic_and_nothing_grows(
            start in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")],
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let bytes = [start.as_bytes(), &bytes].concat();
            if let Some(response) = parse(&bytes) {
                prop_assert!(response.body.len() <= bytes.len().max(256 * 1024));
            }
            let _ = is_complete(&bytes);
        }

        #[test]
        fn chunks_join_to_the_sent_body(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10)) {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            prop_assert!(is_complete(&bytes));
            prop_assert_eq!(parse(&bytes).map(|response| response.body), Some(chunks.concat()));
        }
    }
}
