//! Login by a request that returns a token or a cookie. These makes support only cleartext passwords. Therefore the web
//! server must first be identified as the same make.

use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    conversation,
    driver::{Answer, DriverError},
    fingerprint::{Fingerprints, LoginRule, Protocol, TokenRule},
    http::{self, Outgoing},
    login::{Authenticated, DefaultPassword, Login, accepted, whole},
    probe::Probe,
};

/// Tries a login once. Without credentials, returns that the device requires a login, as its rule states.
pub(super) async fn authenticate(
    probe: &mut Probe<'_>,
    rules: &Fingerprints,
    name: &str,
    known: &LoginRule,
    token: &TokenRule,
    login: Option<&Login>,
) -> Result<Authenticated, DriverError> {
    let answer = conversation::identify(probe, rules, Protocol::Http).await?;
    if !matches!(answer, Answer::Named(_)) || probe.rule() != Some(name) {
        let why = "the web server is not that of such a device: nothing was sent to it";
        return Err(DriverError::Protocol(why.to_owned()));
    }
    let Some(login) = login else {
        return Ok(Authenticated::Wanted);
    };
    let Some(given) = log_in(probe, token, login).await? else {
        return Ok(Authenticated::Refused);
    };
    let header = header_line(&token.header, &given);
    let proof = request(probe, &token.proof, &header, "").await?;
    // Log out before any check, because an open session blocks other users on some makes.
    if let Some(logout) = &token.logout {
        let _ = request(probe, logout, &header, "").await;
    }
    drop((header, given));
    match proof.status {
        200 if known.shown.is_empty() => {
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
        200 => accepted(known, &proof, login),
        401 | 403 => Ok(Authenticated::Refused),
        status => Err(DriverError::Protocol(format!(
            "the proof of the login failed (HTTP {status})"
        ))),
    }
}

/// Returns the token or cookie. None if the device refused the credentials.
async fn log_in(
    probe: &mut Probe<'_>,
    token: &TokenRule,
    login: &Login,
) -> Result<Option<Zeroizing<String>>, DriverError> {
    let kind = token.body_type.header();
    let headers = format!(
        "{kind}{}",
        token
            .extra
            .iter()
            .map(|line| format!("{line}\r\n"))
            .collect::<String>()
    );
    let path = token.fill(&token.request, login);
    let body = token.fill(&token.body, login);
    let response = request(probe, &path, &headers, &body).await;
    // The path of some logins contains the password.
    probe.forget_last();
    let mut response = response?;
    let given = given(token, &response);
    response.wipe();
    if response.status == 429 {
        let why = "the device is locked after too many logins; wait before the next try".to_owned();
        return Err(DriverError::Protocol(why));
    }
    if response.status >= 500 {
        return Err(DriverError::Protocol(format!(
            "the device failed to log in (HTTP {})",
            response.status
        )));
    }
    Ok(given)
}

/// The token or cookie in the answer to a login. The text that is returned is the only copy that is kept.
fn given(token: &TokenRule, response: &http::Response) -> Option<Zeroizing<String>> {
    let status = response.status;
    if token.is_cookie() {
        let cookie = response.header("set-cookie").next()?.split(';').next()?;
        let fits = (200..400).contains(&status) && is_plain(cookie);
        return fits.then(|| Zeroizing::new(cookie.to_owned()));
    }
    let value: serde_json::Value = serde_json::from_slice(&response.body).ok()?;
    let mut value = Wiped(value);
    let given = value.0.pointer_mut(&token.token)?;
    let serde_json::Value::String(given) = given else {
        return None;
    };
    let given = Zeroizing::new(std::mem::take(given));
    ((200..300).contains(&status) && is_plain(&given)).then_some(given)
}

/// The answer to a login as JSON. Its texts are overwritten when it is dropped.
struct Wiped(serde_json::Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => text.zeroize(),
        serde_json::Value::Array(values) => values.iter_mut().for_each(wipe),
        serde_json::Value::Object(values) => values.values_mut().for_each(wipe),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
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

/// Sends `METHOD /path`.
async fn request(
    probe: &mut Probe<'_>,
    written: &str,
    headers: &str,
    body: &str,
) -> Result<http::Response, DriverError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response::parse;

    fn rule(token: &str) -> TokenRule {
        TokenRule {
            request: "POST /login".to_owned(),
            body: String::new(),
            body_type: crate::fingerprint::BodyType::Json,
            extra: Vec::new(),
            token: token.to_owned(),
            header: "Authorization: Bearer {token}".to_owned(),
            proof: "GET /".to_owned(),
            logout: None,
        }
    }

    #[test]
    fn an_answer_gives_its_token_and_is_overwritten() {
        let body = r#"{"data":{"token":"canary"},"other":["canary"]}"#;
        let text = format!(
            "HTTP/1.1 200 OK\r\nSet-Cookie: sid=canary; Path=/\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut response = parse(text.as_bytes()).expect("a response");
        for (token, expected) in [
            ("/data/token", Some("canary")),
            ("cookie", Some("sid=canary")),
            ("/data", None),
            ("/absent", None),
        ] {
            let given = given(&rule(token), &response);
            assert_eq!(
                given.as_ref().map(|given| given.as_str()),
                expected,
                "{token}"
            );
        }
        response.wipe();
        assert!(response.body.is_empty());
        assert!(response.header("set-cookie").all(str::is_empty));
        assert_eq!(response.status, 200);
    }

    #[test]
    fn every_text_of_a_wiped_value_is_empty() {
        let mut value = serde_json::json!({"a": "x", "b": ["y", {"c": "z"}], "d": 1});
        wipe(&mut value);
        assert_eq!(
            value,
            serde_json::json!({"a": "", "b": ["", {"c": ""}], "d": 1})
        );
    }

    #[test]
    fn the_header_line_is_written_without_growing() {
        let line = header_line("Authorization: Bearer {token}", "canary");
        assert_eq!(line.as_str(), "Authorization: Bearer canary\r\n");
        assert!(line.capacity() <= "Authorization: Bearer {token}".len() + "canary".len() + 2);
    }
}
