//! One HTTP request to a URL that an operator entered. It follows no redirects, and time and size of the answer are
//! limited. Start with [`post`].

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use fleet_core::{AddressClass, canonical, classify};
use http::{HeaderName, HeaderValue, Request, Uri, header, uri::Scheme};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::Roots;

/// The longest URL, in bytes.
const LONGEST: usize = 2_048;
/// The most bytes of the head of an answer. Its body is not read.
const ANSWER: usize = 16 * 1_024;
/// Addresses of a host that are tried.
const ADDRESSES: usize = 4;

/// A URL for [`post`]. It prints only scheme, host and port, because a path or query can be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PostUrl {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

/// A text that is not a URL for [`post`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPostUrl {
    /// It is too long.
    #[error("the URL has {0} bytes: at most {LONGEST} are accepted")]
    TooLong(usize),
    /// It is not a URL.
    #[error("it is not a URL such as https://hooks.example.org/fleet")]
    Syntax,
    /// The scheme is another one.
    #[error("the URL has another scheme: use https or http")]
    Scheme,
    /// It contains a user name or password.
    #[error("the URL contains a user name or password: use a secret path instead")]
    Credentials,
}

impl FromStr for PostUrl {
    type Err = InvalidPostUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPostUrl> {
        if text.len() > LONGEST {
            return Err(InvalidPostUrl::TooLong(text.len()));
        }
        let uri: Uri = text.parse().map_err(|_| InvalidPostUrl::Syntax)?;
        let authority = uri.authority().ok_or(InvalidPostUrl::Syntax)?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(_) => return Err(InvalidPostUrl::Scheme),
            None => return Err(InvalidPostUrl::Syntax),
        };
        if authority.as_str().contains('@') {
            return Err(InvalidPostUrl::Credentials);
        }
        let host = authority.host();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if host.is_empty() || port == 0 {
            return Err(InvalidPostUrl::Syntax);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
            uri,
        })
    }
}

impl PostUrl {
    /// Whether what is sent to it can be read or changed on the way: the scheme is http, and the host is another machine.
    pub fn is_exposed(&self) -> bool {
        let is_here = self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        !self.tls && !is_here
    }

    /// The host: a name or an address.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn head(&self) -> Option<(&str, &str)> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        Some((self.uri.authority()?.as_str(), path))
    }
}

impl fmt::Display for PostUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let authority = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}")
    }
}

impl fmt::Debug for PostUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostUrl({self})")
    }
}

/// A request to [`post`].
#[derive(Clone, Debug)]
pub struct Post<'a> {
    /// Where it goes.
    pub url: &'a PostUrl,
    /// Headers besides `host` and `content-length`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// The authorities that sign the receiver's certificate.
    pub roots: &'a Roots,
    /// Whether private addresses are dialed, which are those of the sender's own network.
    pub private: bool,
    /// The longest time until the head of the answer.
    pub timeout: Duration,
}

/// Why there is no answer. The text contains no URL.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The time is over.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The host has no address.
    #[error("the host name has no address")]
    Unresolved,
    /// The host has only addresses that are never dialed.
    #[error(
        "{0} is not dialed: link-local, multicast, unspecified and cloud metadata addresses are no receivers"
    )]
    Forbidden(IpAddr),
    /// The host has only private addresses, and [`Post::private`] is not set.
    #[error(
        "{0} is not dialed: private addresses are for the organization that owns the server's network (`organization` under [direct])"
    )]
    Private(IpAddr),
    /// Connecting failed.
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    /// The TLS handshake failed.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The answer is not HTTP, or too long.
    #[error("no valid answer: {0}")]
    Answer(#[source] hyper::Error),
    /// The body of the answer is too long.
    #[error("the answer has more than {0} bytes")]
    TooLong(usize),
    /// The body of the answer ended early.
    #[error("the answer broke off: {0}")]
    Body(String),
    /// The request could not be made.
    #[error("the request is not valid")]
    Request,
}

/// Sends a POST, and returns the status of the answer. The connection is then closed. It follows no redirect, and its
/// result does not contain the body of the answer.
///
/// # Errors
///
/// There is no answer in time, or none of HTTP.
pub async fn post(request: Post<'_>) -> Result<u16, PostError> {
    let timeout = request.timeout;
    let answered = tokio::time::timeout(timeout, send(request)).await;
    answered.map_err(|_| PostError::Timeout(timeout))?
}

async fn send(post: Post<'_>) -> Result<u16, PostError> {
    let url = post.url;
    let (authority, path) = url.head().ok_or(PostError::Request)?;
    let mut request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONNECTION, "close")
        .body(Full::new(post.body))
        .map_err(|_| PostError::Request)?;
    request.headers_mut().extend(post.headers);
    let stream = dial(url, post.roots, post.private).await?;
    exchange(stream, request).await
}

/// A connection to a host, by TCP or TLS.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Connects to the host of a URL; `private` permits private addresses.
pub(super) async fn dial(
    url: &PostUrl,
    roots: &Roots,
    private: bool,
) -> Result<Box<dyn Connection>, PostError> {
    let stream = connect(url, private).await?;
    if !url.tls {
        return Ok(Box::new(stream));
    }
    let failed = |error: String| PostError::Tls(error);
    let config = roots
        .client_config(&[b"http/1.1"])
        .map_err(|error| failed(error.to_string()))?;
    let name = ServerName::try_from(url.host.clone()).map_err(|error| failed(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| failed(error.to_string()))?))
}

/// Connects to the first address that answers. The address that was checked is the one that is dialed.
async fn connect(url: &PostUrl, private: bool) -> Result<TcpStream, PostError> {
    let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await;
    let found = found.map_err(|_| PostError::Unresolved)?;
    let mut failed = PostError::Unresolved;
    for address in found.take(ADDRESSES) {
        if let Err(refused) = check(address.ip(), private) {
            failed = refused;
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = PostError::Connect(error),
        }
    }
    Err(failed)
}

/// Checks whether an address may be dialed. Link-local addresses are those of cloud metadata services, and a private one
/// belongs to the owner of the server's network.
fn check(ip: IpAddr, private: bool) -> Result<(), PostError> {
    let ip = canonical(ip);
    match classify(translated(ip)) {
        AddressClass::Public => Ok(()),
        AddressClass::LinkLocal
        | AddressClass::Multicast
        | AddressClass::Unspecified
        | AddressClass::Broadcast
        | AddressClass::Metadata
        | AddressClass::Embedding => Err(PostError::Forbidden(ip)),
        AddressClass::Private
        | AddressClass::UniqueLocal
        | AddressClass::CarrierShared
        | AddressClass::Loopback
        | AddressClass::Documentation
        | AddressClass::Reserved => {
            if private {
                Ok(())
            } else {
                Err(PostError::Private(ip))
            }
        }
    }
}

/// The IPv4 address behind an address of NAT64's well-known prefix (RFC 6052), with which a network without IPv4 reaches
/// all receivers that have only IPv4. Any other address is returned.
fn translated(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                IpAddr::from([a, b, c, d])
            }
            _ => ip,
        },
        IpAddr::V4(_) => ip,
    }
}

async fn exchange(
    stream: Box<dyn Connection>,
    request: Request<Full<Bytes>>,
) -> Result<u16, PostError> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(ANSWER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(PostError::Answer)?;
    // The connection is driven only until the head of the answer is there, and closed with it.
    let answer = async { sender.send_request(request).await };
    tokio::pin!(connection, answer);
    tokio::select! {
        answered = &mut answer => Ok(answered.map_err(PostError::Answer)?.status().as_u16()),
        ended = &mut connection => {
            ended.map_err(PostError::Answer)?;
            Ok(answer.await.map_err(PostError::Answer)?.status().as_u16())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_prints_no_path_and_names_its_error() {
        for (text, expected) in [
            (
                "https://hooks.test/T0/secret?key=1",
                Ok("https://hooks.test"),
            ),
            ("http://[fd00::1]:8080", Ok("http://[fd00::1]:8080")),
            ("ftp://hooks.test/", Err(InvalidPostUrl::Scheme)),
            ("hooks.test/x", Err(InvalidPostUrl::Syntax)),
            ("/x", Err(InvalidPostUrl::Syntax)),
            ("https://a:b@hooks.test/", Err(InvalidPostUrl::Credentials)),
            ("https://hooks.test:0/", Err(InvalidPostUrl::Syntax)),
            ("", Err(InvalidPostUrl::Syntax)),
        ] {
            let found = text.parse::<PostUrl>();
            let shown = found
                .as_ref()
                .map(PostUrl::to_string)
                .map_err(|error| *error);
            assert_eq!(shown, expected.map(str::to_owned), "{text}");
            if let Ok(url) = found {
                assert!(!format!("{url:?}").contains("secret"), "{url:?}");
            }
        }
        let long = format!("https://hooks.test/{}", "x".repeat(2_048));
        assert_eq!(long.parse::<PostUrl>(), Err(InvalidPostUrl::TooLong(2_067)));
    }

    #[tokio::test]
    async fn addresses_of_metadata_services_are_not_dialed() {
        for host in [
            "169.254.169.254",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::169.254.169.254]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            let refused = refusal(host, true).await;
            assert!(
                matches!(refused, PostError::Forbidden(_)),
                "{host}: {refused:?}"
            );
        }
    }

    #[tokio::test]
    async fn private_addresses_are_dialed_only_for_the_owner_of_the_network() {
        for host in [
            "127.0.0.1",
            "10.0.0.1",
            "100.64.0.1",
            "192.168.0.1",
            "[::1]",
            "[fd00::1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::10.0.0.1]",
        ] {
            let refused = refusal(host, false).await;
            assert!(
                matches!(refused, PostError::Private(_)),
                "{host}: {refused:?}"
            );
        }
        for (ip, private) in [
            ("1.1.1.1", false),
            ("64:ff9b::1.1.1.1", false),
            ("::1", true),
        ] {
            let ip: IpAddr = ip.parse().expect(ip);
            assert!(check(ip, private).is_ok(), "{ip}");
        }
    }

    /// Why a request to a host is not sent.
    async fn refusal(host: &str, private: bool) -> PostError {
        let url: PostUrl = format!("http://{host}/latest").parse().expect(host);
        let request = Post {
            url: &url,
            headers: Vec::new(),
            body: Bytes::new(),
            roots: &Roots::System,
            private,
            timeout: Duration::from_secs(5),
        };
        post(request).await.expect_err(host)
    }
}
