//! Login by a request that returns a token or a cookie. These makes support only cleartext passwords. Therefore the web
//! server must first be identified as the same make, and it must refuse the verifying request without a login.
//!
//! Makes changed their logins over the releases. Each of them is asked for its verifying request without a login
//! ([`offer`]), so that the password goes only to the login that the device serves.

use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    conversation,
    driver::{Answer, DriverError},
    fingerprint::{Fingerprints, LoginRule, Protocol, Shown, TokenRule},
    http::{self, Outgoing, Response},
    login::{
        Authenticated, DefaultPassword, IsExpected, Login, accepted, identify, json_of, whole,
    },
    probe::Probe,
};

/// Tries a login once. Without credentials, checks whether the device requires a login.
pub(super) async fn authenticate(
    probe: &mut Probe<'_>,
    rules: &Fingerprints,
    name: &str,
    known: &LoginRule,
    login: Option<&Login>,
    is_expected: &IsExpected<'_>,
) -> Result<Authenticated, DriverError> {
    let has_page = rules.has_page(name);
    if has_page {
        identify(probe, rules, name, Protocol::Http, is_expected).await?;
    }
    let Some((token, shown)) = served(probe, known, has_page).await? else {
        let why = "the web server has none of the logins that are known for such devices: nothing was sent to it";
        return Err(DriverError::Protocol(why.to_owned()));
    };
    let Some(token) = token else {
        return Ok(Authenticated::Open);
    };
    let Some(login) = login else {
        return Ok(Authenticated::Wanted);
    };
    let Some(given) = log_in(probe, token, login).await? else {
        return Ok(Authenticated::Refused);
    };
    let header = header_line(&token.header, &given);
    let proof = prove(probe, token, &header).await?;
    // Log out before any check, because an open session blocks other users on some makes.
    if let Some(logout) = &token.logout {
        let _ = request(probe, logout, &header, "").await;
    }
    drop((header, given));
    match proof.status {
        200 if shown.is_empty() => {
            // The verifying response contains no device facts, so identify the device again.
            match conversation::identify(probe, rules, Protocol::Http).await? {
                Answer::Named(device) => Ok(Authenticated::Accepted {
                    device,
                    default_password: known.is_default(login).map(DefaultPassword::Inferred),
                }),
                Answer::Unidentified { .. } | Answer::Foreign => {
                    let why = "the device did not identify itself again after the login".to_owned();
                    Err(DriverError::Protocol(why))
                }
            }
        }
        200 => accepted(known, shown, &json_of(&proof)?, login),
        401 | 403 => Ok(Authenticated::Refused),
        status => Err(DriverError::Protocol(format!(
            "the proof of the login failed (HTTP {status})"
        ))),
    }
}

/// The first login that the device serves. Without a token rule, the device is readable without a login.
async fn served<'r>(
    probe: &mut Probe<'_>,
    known: &'r LoginRule,
    has_page: bool,
) -> Result<Option<(Option<&'r TokenRule>, &'r Shown)>, DriverError> {
    let mut variants = known.variants().peekable();
    while let Some((token, shown)) = variants.next() {
        let response = prove(probe, token, "").await?;
        let is_last = variants.peek().is_none();
        match offer(&response, token, shown, has_page && is_last) {
            Offer::Login => return Ok(Some((Some(token), shown))),
            Offer::Open => return Ok(Some((None, shown))),
            Offer::Absent => {}
        }
    }
    Ok(None)
}

/// The meaning of the answer to a verifying request without a login.
#[derive(Debug, PartialEq, Eq)]
enum Offer {
    /// The device refuses the request, so a login can be verified.
    Login,
    /// The device answers it, so nothing needs a login, and none can be verified.
    Open,
    /// The device does not know the request.
    Absent,
}

/// Judges the answer. A page or a redirect also counts as a refusal (`is_page_refusal`), if no other login is left and
/// the web server was identified.
fn offer(response: &Response, token: &TokenRule, shown: &Shown, is_page_refusal: bool) -> Offer {
    let page = || {
        if is_page_refusal {
            Offer::Login
        } else {
            Offer::Absent
        }
    };
    match response.status {
        401 | 403 => Offer::Login,
        200..300 => {
            let value = serde_json::from_slice::<Value>(&response.body).ok();
            let shows = match (&shown.must, &value) {
                (Some(must), Some(value)) => must.is_in(value),
                (Some(_), None) => return page(),
                (None, _) => true,
            };
            if shows && !token.is_open_proof {
                Offer::Open
            } else {
                Offer::Login
            }
        }
        404 | 405 | 410 | 500.. => Offer::Absent,
        _ => page(),
    }
}

/// Returns the token or cookie. None if the device refused the credentials.
async fn log_in(
    probe: &mut Probe<'_>,
    token: &TokenRule,
    login: &Login,
) -> Result<Option<Zeroizing<String>>, DriverError> {
    // A request on a connection that turns out to be closed is repeated, and a password is sent only once.
    probe.close();
    let headers = format!("{}{}", token.body_type.header(), token.extra_lines());
    let path = token.fill(&token.request, login);
    let body = token.fill(&token.body, login);
    let response = request(probe, &path, &headers, &body).await;
    // The path of some logins contains the password.
    probe.forget_last();
    let mut response = response?;
    let given = given(token, &response);
    response.wipe();
    match response.status {
        429 => {
            let why = "the device is locked after too many logins; wait before the next try";
            Err(DriverError::Protocol(why.to_owned()))
        }
        status @ 500.. => Err(DriverError::Protocol(format!(
            "the device failed to log in (HTTP {status})"
        ))),
        _ => Ok(given),
    }
}

/// The token or cookie in the answer to a login. The text that is returned is the only copy that is kept.
fn given(token: &TokenRule, response: &Response) -> Option<Zeroizing<String>> {
    if let Some(name) = token.cookie() {
        let fits = |cookie: &&str| {
            let pair = cookie.split_once('=');
            is_plain(cookie)
                && pair.is_some_and(|(key, value)| {
                    !value.is_empty() && (name.is_empty() || key.trim() == name)
                })
        };
        return response
            .header("set-cookie")
            .filter_map(|cookie| cookie.split(';').next())
            .find(fits)
            .filter(|_| (200..400).contains(&response.status))
            .map(|cookie| Zeroizing::new(cookie.to_owned()));
    }
    let mut value = Wiped(serde_json::from_slice(&response.body).ok()?);
    let Some(Value::String(given)) = value.0.pointer_mut(&token.token) else {
        return None;
    };
    let given = Zeroizing::new(std::mem::take(given));
    ((200..300).contains(&response.status) && is_plain(&given)).then_some(given)
}

/// The answer to a login as JSON. Its texts are overwritten when it is dropped.
struct Wiped(Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(values) => values.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The header line that carries the token.
fn header_line(template: &str, given: &str) -> Zeroizing<String> {
    // One buffer of the final size: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(String::with_capacity(template.len() + given.len() + 2));
    let (before, after) = template.split_once("{token}").unwrap_or((template, ""));
    for part in [before, given, after, "\r\n"] {
        line.push_str(part);
    }
    line
}

/// Whether a text is safe in a header line.
fn is_plain(text: &str) -> bool {
    (1..=4096).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Sends the verifying request, with the header of a session or without.
async fn prove(
    probe: &mut Probe<'_>,
    token: &TokenRule,
    session: &str,
) -> Result<Response, DriverError> {
    let kind = if token.proof_body.is_empty() {
        ""
    } else {
        "Content-Type: application/json\r\n"
    };
    let headers = Zeroizing::new(format!("{kind}{}{session}", token.extra_lines()));
    request(probe, &token.proof, &headers, &token.proof_body).await
}

/// Sends `METHOD /path`.
async fn request(
    probe: &mut Probe<'_>,
    written: &str,
    headers: &str,
    body: &str,
) -> Result<Response, DriverError> {
    let (method, path) = written.split_once(' ').unwrap_or(("GET", written));
    whole(
        http::exchange(
            probe,
            &Outgoing {
                method,
                path,
                headers,
                body,
            },
        )
        .await?,
    )
}

/// Entry point for fuzzing. The bytes are a response to a login, and to its verifying request.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some(response) = http::response::parse(bytes) else {
        return;
    };
    for rule in Fingerprints::built_in().rules() {
        let variants = rule.login.iter().flat_map(LoginRule::variants);
        for (token, shown) in variants {
            let found = given(token, &response);
            if let Some(found) = &found {
                assert!(is_plain(found) && response.status < 400);
            }
            let offered = offer(&response, token, shown, true);
            assert!(response.status < 400 || offered != Offer::Open);
            if let Ok(value) = json_of(&response)
                && let Ok(facts) = super::facts(shown, &value)
            {
                assert!(facts.model.chars().count() <= crate::text::FIELD);
                assert!(facts.mac.is_none_or(|mac| !mac.is_placeholder()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(head: &str, body: &str) -> Response {
        let length = body.len();
        let text = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}");
        http::response::parse(text.as_bytes()).expect("a response")
    }

    fn rule(name: &str, nth: usize) -> (TokenRule, Shown) {
        let rules = Fingerprints::built_in();
        let known = rules.login(name).expect("a login");
        let (token, shown) = known.variants().nth(nth).expect("a variant");
        (token.clone(), shown.clone())
    }

    #[test]
    fn a_password_goes_only_to_a_login_that_the_device_serves() {
        let details = r#"{"mac_address":"02:00:5E:00:00:01"}"#;
        for (name, nth, head, body, is_last, expected) in [
            ("braiins", 0, "401 Unauthorized", "", false, Offer::Login),
            ("braiins", 0, "200 OK", details, false, Offer::Open),
            (
                "braiins",
                0,
                "200 OK",
                "<html></html>",
                false,
                Offer::Absent,
            ),
            ("braiins", 0, "404 Not Found", "", false, Offer::Absent),
            ("braiins", 0, "302 Found", "", false, Offer::Absent),
            ("braiins", 0, "502 Bad Gateway", "", false, Offer::Absent),
            ("sealminer", 0, "302 Found", "", true, Offer::Login),
            (
                "sealminer",
                0,
                "200 OK",
                "<html></html>",
                true,
                Offer::Login,
            ),
            (
                "innosilicon",
                0,
                "200 OK",
                r#"{"success":false}"#,
                true,
                Offer::Login,
            ),
            ("vnish", 0, "401 Unauthorized", "", true, Offer::Login),
            ("vnish", 0, "200 OK", "", true, Offer::Open),
        ] {
            let (token, shown) = rule(name, nth);
            let offered = offer(&response(head, body), &token, &shown, is_last);
            assert_eq!(offered, expected, "{name} {nth} {head} {body}");
        }
    }

    #[test]
    fn a_cookie_counts_by_its_name_and_only_with_a_value() {
        let (any, _) = rule("sealminer", 0);
        let named = TokenRule {
            token: "cookie session_id".to_owned(),
            ..any.clone()
        };
        for (token, head, expected) in [
            (&any, "200 OK\r\nSet-Cookie: sid=1; path=/", Some("sid=1")),
            (&any, "302 Found\r\nSet-Cookie: sid=1", Some("sid=1")),
            (&any, "403 Forbidden\r\nSet-Cookie: sid=1", None),
            (&any, "200 OK\r\nSet-Cookie: sid=; path=/", None),
            (&any, "200 OK", None),
            (
                &named,
                "200 OK\r\nSet-Cookie: lang=en\r\nSet-Cookie: session_id=2",
                Some("session_id=2"),
            ),
            (&named, "200 OK\r\nSet-Cookie: lang=en", None),
        ] {
            let found = given(token, &response(head, ""));
            assert_eq!(found.as_deref().map(String::as_str), expected, "{head}");
        }
    }

    #[test]
    fn an_answer_is_overwritten_after_its_token_was_taken() {
        let (cookie, _) = rule("sealminer", 0);
        let json = TokenRule {
            token: "/data/token".to_owned(),
            ..cookie.clone()
        };
        let body = r#"{"data":{"token":"canary"},"other":["canary"]}"#;
        let mut answer = response("200 OK\r\nSet-Cookie: sid=canary; Path=/", body);
        for (token, expected) in [(&cookie, "sid=canary"), (&json, "canary")] {
            let found = given(token, &answer);
            assert_eq!(found.as_deref().map(String::as_str), Some(expected));
        }
        answer.wipe();
        assert!(answer.body.is_empty());
        assert!(answer.header("set-cookie").all(str::is_empty));
        let mut value = serde_json::json!({"a": "x", "b": ["y", {"c": "z"}], "d": 1});
        wipe(&mut value);
        let empty = serde_json::json!({"a": "", "b": ["", {"c": ""}], "d": 1});
        assert_eq!(value, empty);
    }

    #[test]
    fn the_header_line_is_written_without_growing() {
        let line = header_line("Authorization: Bearer {token}", "canary");
        assert_eq!(line.as_str(), "Authorization: Bearer canary\r\n");
        assert!(line.capacity() <= "Authorization: Bearer {token}".len() + "canary".len() + 2);
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("token-login"))]

        #[test]
        fn no_response_breaks_a_login(status in 100..600u16, header in "[ -~]{0,200}", body in "\\PC{0,400}") {
            let length = body.len();
            fuzz(format!("HTTP/1.1 {status} X\r\nSet-Cookie: {header}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
        }
    }
}
