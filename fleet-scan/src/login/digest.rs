//! Login by HTTP digest, which never sends the password itself. The first request carries no credentials. Its challenge
//! must belong to the make before anything is computed from the password.

use crate::{
    driver::DriverError,
    fingerprint::{DigestRule, LoginRule},
    http::{self, Outgoing, Response, digest::Challenge},
    login::{Authenticated, Login, accepted, json_of, whole},
    probe::Probe,
};

/// Tries a login once. Without a login, checks whether the device requires one.
pub(super) async fn authenticate(
    probe: &mut Probe<'_>,
    known: &LoginRule,
    digest: &DigestRule,
    login: Option<&Login>,
) -> Result<Authenticated, DriverError> {
    let path = digest.proof.as_str();
    let first = whole(http::get(probe, path).await?)?;
    if first.status == 200 {
        // The response is readable without a login, so it cannot verify one.
        return Ok(Authenticated::Open);
    }
    let Some(challenge) = challenge(digest, &first) else {
        return Err(DriverError::Protocol(format!(
            "the web server is not that of such a device ({}): nothing was sent to it",
            http::describe(&first)
        )));
    };
    let Some(login) = login else {
        return Ok(Authenticated::Wanted);
    };
    let mut client = [0; 8];
    getrandom::fill(&mut client)
        .map_err(|_| DriverError::Protocol("the system gives no random bytes".to_owned()))?;
    let answer = challenge.answer(login, "GET", path, u64::from_be_bytes(client))?;
    let outgoing = Outgoing {
        method: "GET",
        path,
        headers: &answer.line,
        body: "",
    };
    let second = whole(http::exchange(probe, &outgoing).await?)?;
    let mut info = second.header("authentication-info");
    if info.any(|info| answer.is_contradicted_by(info)) {
        return Err(DriverError::Protocol(
            "the device accepted the password but does not know it; scan again".to_owned(),
        ));
    }
    match second.status {
        200 => accepted(known, &known.shown, &json_of(&second)?, login),
        401 => Ok(Authenticated::Refused),
        status => Err(DriverError::Protocol(format!(
            "the device lets nobody in (HTTP {status})"
        ))),
    }
}

fn challenge(digest: &DigestRule, response: &Response) -> Option<Challenge> {
    if response.status != 401 {
        return None;
    }
    response
        .header("www-authenticate")
        .filter_map(Challenge::parse)
        .find(|challenge| digest.realm.is_match(challenge.realm()))
}
