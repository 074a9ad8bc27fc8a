//! Reads HTTP/1 responses as devices send them: bounded, whole or cut off, with length, in chunks or until the end.
//! Pure.

/// The most headers that are read; more is no device's page.
const MOST_HEADERS: usize = 64;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Names in lower case, values as text.
    headers: Vec<(String, String)>,
    /// Without chunk framing; perhaps cut off.
    pub(super) body: Vec<u8>,
    keeps_alive: bool,
}

/// How the end of a body is known.
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
    pub(super) fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the connection cannot be used for another request.
    pub(super) fn closes(&self) -> bool {
        !self.keeps_alive
    }
}

/// Whether the bytes hold a whole response; one that lasts until the device closes is never known to be whole.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
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

/// The response in the bytes, its body as far as it is there; none when they do not begin with a response head.
pub(super) fn parse(bytes: &[u8]) -> Option<Response> {
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

/// The payload of the chunks that are there, and whether the last one was among them.
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
    fn what_is_no_response_is_none() {
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

    proptest! {
        #![proptest_config(fleet_core::regressions!("http-response"))]

        #[test]
        fn no_bytes_panic_and_nothing_grows(
            start in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")],
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let bytes = [start.as_bytes(), &bytes].concat();
            if let Some(response) = parse(&bytes) {
                prop_assert!(response.body.len() <= bytes.len());
            }
            let _ = is_complete(&bytes);
        }

        #[test]
        fn chunks_join_to_what_was_sent(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10)) {
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
