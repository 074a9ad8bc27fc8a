//! Login by a request that returns a token or a cookie. These makes support only cleartext passwords. Therefore the web
//! server must first be identified as the same make.

use zeroize::Zeroizing;

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
    let header = Zeroizing::new(format!("{}\r\n", token.header.replace("{token}", &given)));
    let proof = request(probe, &token.proof, &header, "").await?;
    // Log out before any check, because an open session blocks other users on some makes.
    if let Some(logout) = &token.logout {
        let _ = request(probe, logout, &header, "").await;
    }
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
    let response = request(probe, &path, &headers, &body).await?;
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
    if token.is_cookie() {
        let cookie = response
            .header("set-cookie")
            .next()
            .and_then(|cookie| cookie.split(';').next());
        let fits =
            cookie.filter(|cookie| (200..400).contains(&response.status) && is_plain(cookie));
        return Ok(fits.map(|cookie| Zeroizing::new(cookie.to_owned())));
    }
    let value: Option<serde_json::Value> = serde_json::from_slice(&response.body).ok();
    let given = value
        .as_ref()
        .and_then(|value| value.pointer(&token.token)?.as_str());
    let fits = given.filter(|given| (200..300).contains(&response.status) && is_plain(given));
    Ok(fits.map(|given| Zeroizing::new(given.to_owned())))
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
