//! One HTTP request to a URL that an administrator entered, with the body of its answer. As in [`post`](super::post), it
//! follows no redirects, and time and size are limited. Start with [`fetch`].

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;

use super::{
    PostError, PostUrl, Roots,
    post::{Connection, dial},
};

/// The most bytes of the head of an answer.
const HEAD: usize = 16 * 1_024;

/// A request to [`fetch`].
#[derive(Clone, Debug)]
pub struct Fetch<'a> {
    /// Where it goes.
    pub url: &'a PostUrl,
    /// Headers besides `host`, `accept` and those of the body.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body of a POST, as a form; without one, the request is a GET.
    pub form: Option<String>,
    /// The authorities that sign the server's certificate.
    pub roots: &'a Roots,
    /// The longest time until the end of the answer.
    pub timeout: Duration,
    /// The most bytes of the answer's body.
    pub most: usize,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// Sends a GET or a form, and returns the answer. The connection is then closed.
///
/// # Errors
///
/// There is no whole answer within the limits, or none of HTTP.
pub async fn fetch(request: Fetch<'_>) -> Result<Fetched, PostError> {
    let timeout = request.timeout;
    let answered = tokio::time::timeout(timeout, send(request)).await;
    answered.map_err(|_| PostError::Timeout(timeout))?
}

async fn send(fetch: Fetch<'_>) -> Result<Fetched, PostError> {
    let (authority, path) = fetch.url.head().ok_or(PostError::Request)?;
    let mut request = Request::new(Full::new(Bytes::from(
        fetch.form.clone().unwrap_or_default(),
    )));
    *request.uri_mut() = path.parse().map_err(|_| PostError::Request)?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(authority).map_err(|_| PostError::Request)?;
    headers.insert(header::HOST, host);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if fetch.form.is_some() {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form);
        *request.method_mut() = Method::POST;
    }
    request.headers_mut().extend(fetch.headers);
    // The administrator of the server's own network chose the URL.
    let stream = dial(fetch.url, fetch.roots, true).await?;
    exchange(stream, request, fetch.most).await
}

async fn exchange(
    stream: Box<dyn Connection>,
    request: Request<Full<Bytes>>,
    most: usize,
) -> Result<Fetched, PostError> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(PostError::Answer)?;
    let answer = async {
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(PostError::Answer)?.into_parts();
        let body = Limited::new(body, most).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                PostError::TooLong(most)
            } else {
                PostError::Body(error.to_string())
            }
        })?;
        Ok(Fetched {
            status: head.status.as_u16(),
            body: body.to_bytes(),
        })
    };
    tokio::pin!(connection, answer);
    tokio::select! {
        answered = &mut answer => return answered,
        ended = &mut connection => ended.map_err(PostError::Answer)?,
    }
    // The server has closed the connection. What it sent before is still to be read.
    answer.await
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Fetches from a server that answers with these bytes and closes. Returns the result and the request.
    async fn from(answer: Vec<u8>, form: Option<&str>) -> (Result<Fetched, PostError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut read = vec![0; 4_096];
            let count = stream.read(&mut read).await.expect("a request");
            // The client may close before it has read everything.
            let _ = stream.write_all(&answer).await;
            String::from_utf8_lossy(&read[..count]).into_owned()
        });
        let url: PostUrl = format!("http://{address}/a?b=c").parse().expect("a URL");
        let request = Fetch {
            url: &url,
            headers: Vec::new(),
            form: form.map(str::to_owned),
            roots: &Roots::System,
            timeout: Duration::from_secs(20),
            most: 100,
        };
        let fetched = fetch(request).await;
        (fetched, server.await.expect("no panic"))
    }

    #[tokio::test]
    async fn an_answer_is_read_within_its_bound_and_a_redirect_is_not_followed() {
        let (fetched, request) = from(
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
            None,
        )
        .await;
        let fetched = fetched.expect("an answer");
        assert_eq!((fetched.status, &fetched.body[..]), (200, &b"ok"[..]));
        assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");

        let moved =
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n";
        let (fetched, request) = from(moved.to_vec(), Some("x=1")).await;
        assert_eq!(fetched.expect("an answer").status, 302);
        assert!(request.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\nx=1"), "{request}");

        let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        long.extend([b'x'; 101]);
        let (fetched, _) = from(long, None).await;
        assert!(
            matches!(fetched, Err(PostError::TooLong(100))),
            "{fetched:?}"
        );

        let short = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx";
        let (fetched, _) = from(short.to_vec(), None).await;
        assert!(fetched.is_err(), "{fetched:?}");
    }

    #[test]
    fn only_loopback_may_be_reached_without_tls() {
        for (url, expected) in [
            ("https://id.test", false),
            ("http://id.test", true),
            ("http://localhost:8080", false),
            ("http://127.0.0.1", false),
            ("http://[::1]:8080/x", false),
            ("http://localhost.evil.test", true),
        ] {
            let parsed: PostUrl = url.parse().expect(url);
            assert_eq!(parsed.is_exposed(), expected, "{url}");
        }
    }
}
