//! HTTP requests and responses of devices, with and without TLS. Certificates are not verified.
//!
//! `http/response.rs` parses responses. `http/digest.rs` has digest authentication.

pub(crate) mod digest;
pub(crate) mod response;

use std::net::IpAddr;

pub(crate) use response::Response;

use crate::{
    driver::DriverError,
    fingerprint::{Request, realm, title},
    probe::Probe,
    text,
};

/// The port of plain HTTP.
pub(crate) const PORT: u16 = 80;

/// The port of HTTP with TLS.
pub(crate) const TLS_PORT: u16 = 443;

/// The prefix of a page that is searched for its title, in bytes.
const TITLE_WITHIN: usize = 32 * 1024;

/// Sends a read-only request. Returns none if the answer is not HTTP.
///
/// # Errors
/// [`DriverError`] if no byte was received.
pub(crate) async fn send(
    probe: &mut Probe<'_>,
    request: &Request,
) -> Result<Option<Response>, DriverError> {
    match request
        .text
        .strip_prefix("POST ")
        .and_then(|post| post.split_once(' '))
    {
        Some((path, body)) => {
            let body_type = if body.starts_with('{') {
                "application/json"
            } else {
                "application/x-www-form-urlencoded"
            };
            exchange(
                probe,
                &Outgoing {
                    method: "POST",
                    path,
                    headers: &format!("Content-Type: {body_type}\r\n"),
                    body,
                },
            )
            .await
        }
        None => get(probe, &request.text).await,
    }
}

/// Sends a GET.
///
/// # Errors
/// As [`send`].
pub(crate) async fn get(
    probe: &mut Probe<'_>,
    path: &str,
) -> Result<Option<Response>, DriverError> {
    exchange(
        probe,
        &Outgoing {
            method: "GET",
            path,
            headers: "",
            body: "",
        },
    )
    .await
}

/// A request to send.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Additional header lines, each with its line end.
    pub(crate) headers: &'a str,
    pub(crate) body: &'a str,
}

/// # Errors
/// As [`send`].
pub(crate) async fn exchange(
    probe: &mut Probe<'_>,
    Outgoing {
        method,
        path,
        headers,
        body,
    }: &Outgoing<'_>,
) -> Result<Option<Response>, DriverError> {
    let host = host(probe);
    let length = if *method == "GET" {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    // Some devices answer only the client of their maker.
    let agent = if headers.contains("User-Agent: ") {
        ""
    } else {
        concat!("User-Agent: fleet-scan/", env!("CARGO_PKG_VERSION"), "\r\n")
    };
    // Headers and body may carry a password, a proof of it, or a token.
    let request = zeroize::Zeroizing::new(format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{agent}Accept: */*\r\n{headers}{length}\r\n{body}"
    ));
    let reply = probe.ask(request.as_bytes(), response::is_complete).await?;
    let bytes = zeroize::Zeroizing::new(reply.bytes);
    let response = response::parse(&bytes);
    if response.as_ref().is_none_or(Response::closes) {
        probe.close();
    }
    Ok(response)
}

/// The host header, with the port unless it is the default of the scheme.
fn host(probe: &Probe<'_>) -> String {
    let endpoint = probe.endpoint();
    let implied = if probe.is_encrypted() { TLS_PORT } else { PORT };
    match endpoint.ip {
        _ if endpoint.port.number() != implied => endpoint.to_string(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// The target of a redirect on the same host, port and scheme. None if it leads elsewhere or to the same path.
pub(crate) fn same_host_path(probe: &Probe<'_>, response: &Response) -> Option<String> {
    let page = String::from_utf8_lossy(&response.body[..response.body.len().min(TITLE_WITHIN)]);
    let location = match response.status {
        301 | 302 | 303 | 307 | 308 => response.header("location").next()?.to_owned(),
        200 => refresh(&page)?,
        _ => return None,
    };
    let scheme = if probe.is_encrypted() {
        "https://"
    } else {
        "http://"
    };
    path_on(&location, scheme, &host(probe))
}

/// The path of a location, if the location is on `host`.
fn path_on(location: &str, scheme: &str, host: &str) -> Option<String> {
    let path = match location.strip_prefix(scheme) {
        Some(absolute) => {
            let (other, _) = absolute.split_at(absolute.find('/').unwrap_or(absolute.len()));
            // A browser drops the port of the scheme, and devices write it or not.
            let implied = format!(":{}", if scheme == "https://" { TLS_PORT } else { PORT });
            if other.strip_suffix(&implied).unwrap_or(other) != host {
                return None;
            }
            absolute[other.len()..].to_owned()
        }
        None if location.contains("://") || location.starts_with("//") => return None,
        None if location.starts_with('/') => location.to_owned(),
        None => format!("/{location}"),
    };
    let path = path.split('#').next().unwrap_or_default();
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic()) && path.len() <= 256;
    // Browsers follow a redirect without confirmation, so it should change nothing. Still, no device may cause such a
    // request.
    let changes = [
        "reboot", "reset", "restart", "upgrade", "delete", "logout", "factory",
    ];
    let lower = path.to_ascii_lowercase();
    (is_plain && !matches!(path, "" | "/") && !changes.iter().any(|word| lower.contains(word)))
        .then(|| path.to_owned())
}

/// The target of an immediate refresh: `<meta http-equiv="refresh" content="0; URL=/cgi-bin/luci/">`.
fn refresh(page: &str) -> Option<String> {
    // ASCII lowercasing preserves byte positions, so they are valid in `page` too.
    let lower = page.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let start = from + lower[from..].find("<meta")?;
        from = start + lower[start..].find('>')?;
        let element = &lower[start..from];
        let is_refresh = ["", "\"", "'"]
            .iter()
            .any(|quote| element.contains(&format!("http-equiv={quote}refresh")));
        if !is_refresh {
            continue;
        }
        let url = start + element.find("url=")? + "url=".len();
        let url = page[url..from].trim_start_matches(['\'', ' ']);
        let end = url.find(['"', '\'', ' ']).unwrap_or(url.len());
        return Some(url[..end].to_owned());
    }
}

/// Whether a TLS server rejects a request without TLS. Go's, nginx and Apache answer it with 400 and an explanation.
pub(crate) fn wants_tls(response: &Response) -> bool {
    let body = &response.body[..response.body.len().min(TITLE_WITHIN)];
    let body = String::from_utf8_lossy(body).to_ascii_lowercase();
    response.status == 400
        && ["https", "ssl-enabled"]
            .iter()
            .any(|word| body.contains(word))
}

/// Status, server, realm, redirect and title, escaped. Operators use them to recognize the server.
pub(crate) fn describe(response: &Response) -> String {
    let mut words = format!("HTTP {}", response.status);
    let body = String::from_utf8_lossy(&response.body[..response.body.len().min(TITLE_WITHIN)]);
    let named = [
        (
            "server",
            response.header("server").next().map(str::to_owned),
        ),
        ("realm", response.header("www-authenticate").find_map(realm)),
        (
            "redirects to",
            response.header("location").next().map(kind_of_location),
        ),
        ("title", title(&body).map(str::to_owned)),
    ];
    for (name, value) in named {
        if let Some(value) = value
            .map(|value| text::field(&value))
            .filter(|value| !value.is_empty())
        {
            words.push_str(&format!(", {name} {value}"));
        }
    }
    text::quotable(words.as_bytes(), text::EVIDENCE)
}

/// Omits the address, so similar devices have equal descriptions.
fn kind_of_location(location: &str) -> String {
    match location.split_once("://") {
        Some((scheme, _)) => scheme.to_owned(),
        None => location.to_owned(),
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = response::is_complete(bytes);
    let Some(response) = response::parse(bytes) else {
        return;
    };
    let words = describe(&response);
    assert!(words.chars().count() <= text::EVIDENCE && words.is_ascii());
    let _ = refresh(&String::from_utf8_lossy(&response.body));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(head: &str, body: &str) -> Response {
        let text = format!(
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        response::parse(text.as_bytes()).expect("a response")
    }

    #[test]
    fn a_description_names_status_server_realm_redirect_and_title() {
        for (head, body, expected) in [
            (
                "200 OK\r\nServer: HP HTTP Server",
                "<html><title lang=en>\n LaserJet </title>",
                "HTTP 200, server HP HTTP Server, title LaserJet",
            ),
            ("404 Not Found", "", "HTTP 404"),
            (
                "401 No\r\nWWW-Authenticate: Digest realm=\"door\", nonce=\"1\"",
                "",
                "HTTP 401, realm door",
            ),
            (
                "307 X\r\nLocation: https://10.0.0.7/",
                "",
                "HTTP 307, redirects to https",
            ),
        ] {
            assert_eq!(describe(&page(head, body)), expected);
        }
    }

    #[test]
    fn a_redirect_is_followed_on_the_same_host_port_and_scheme_only() {
        for (location, expected) in [
            ("/login.html", Some("/login.html")),
            ("index.html#top", Some("/index.html")),
            ("http://10.0.0.7/a?b=c", Some("/a?b=c")),
            ("http://10.0.0.7:80/a", Some("/a")),
            ("http://10.0.0.7:8080/a", None),
            ("https://10.0.0.7/", None),
            ("http://10.0.0.8/a", None),
            ("//10.0.0.8/a", None),
            ("/", None),
            ("", None),
            ("/reboot.cgi", None),
            ("/a\r\nX: y", None),
        ] {
            assert_eq!(
                path_on(location, "http://", "10.0.0.7").as_deref(),
                expected,
                "{location}"
            );
        }
        for (page, expected) in [
            (
                "<meta charset=utf-8><meta http-equiv=\"refresh\" content=\"0; URL=/cgi-bin/luci/\">",
                Some("/cgi-bin/luci/"),
            ),
            (
                "<META content='0;url=/Login.htm' HTTP-EQUIV='Refresh' />",
                Some("/Login.htm"),
            ),
            ("<meta http-equiv=refresh content=0;url=/a>", Some("/a")),
            ("<meta http-equiv=\"refresh\" content=\"5\">", None),
            ("<meta name=\"url=/a\">", None),
            ("<meta http-equiv=\"refresh\" content=\"0; url=/a\"", None),
        ] {
            assert_eq!(refresh(page).as_deref(), expected, "{page}");
        }
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("http-page"))]

        #[test]
        fn no_page_panics_and_descriptions_are_bounded(body in "(<title>?)?\\PC{0,900}(</title>)?", server in "[ -~]{0,900}") {
            let response = page(&format!("200 OK\r\nServer: {server}"), &body);
            let _ = refresh(&body);
            prop_assert!(describe(&response).chars().count() <= text::EVIDENCE);
        }
    }
}
