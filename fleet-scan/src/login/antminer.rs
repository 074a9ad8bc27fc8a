//! Logging in to an Antminer with stock firmware: digest authentication at its web server, then its system
//! information, which tells MAC and serial.
//!
//! Path, realm and field names are facts of the firmware, as public clients and its own pages show them.

use fleet_core::{DeviceFacts, Serial};
use serde_json::Value;

use crate::{
    driver::DriverError,
    fingerprint::mac,
    http::{self, Outgoing, Response, digest::Challenge},
    login::{Authenticated, Login},
    probe::Probe,
    text,
};

/// What tells MAC and serial, behind the login.
const PATH: &str = "/cgi-bin/get_system_info.cgi";
/// How the realm of its challenge begins.
const REALM: &str = "antMiner";
/// User name and password that it is delivered with.
const DELIVERED: (&str, &str) = ("root", "root");

/// Whether a device is an Antminer with stock firmware, named by its API or by its web page.
pub(crate) fn is_one(device: &DeviceFacts) -> bool {
    match device.driver.as_str() {
        "antminer" => true,
        "asicrs" => {
            device.scheme == "http"
                && device.manufacturer == "Bitmain"
                && device.firmware.is_empty()
        }
        _ => false,
    }
}

/// Asks without a login first: the challenge must be an Antminer's before anything is computed from the password.
pub(crate) async fn authenticate(
    probe: &mut Probe<'_>,
    login: Option<&Login>,
) -> Result<Authenticated, DriverError> {
    let first = whole(http::get(probe, PATH).await?)?;
    if first.status == 200 {
        return accepted(&first, None);
    }
    let Some(challenge) = challenge(&first) else {
        return Err(stranger(&first));
    };
    let Some(login) = login else {
        return Ok(Authenticated::Wanted);
    };
    let mut client = [0; 8];
    getrandom::fill(&mut client)
        .map_err(|_| DriverError::Protocol("the system gives no random bytes".to_owned()))?;
    let header = challenge.answer(login, "GET", PATH, u64::from_be_bytes(client))?;
    let outgoing = Outgoing {
        method: "GET",
        path: PATH,
        headers: &header,
        body: "",
    };
    let second = whole(http::exchange(probe, &outgoing).await?)?;
    match second.status {
        200 => accepted(&second, Some(login)),
        401 => Ok(Authenticated::Refused),
        status => Err(DriverError::Protocol(format!(
            "the device lets nobody in (HTTP {status})"
        ))),
    }
}

fn whole(response: Option<Response>) -> Result<Response, DriverError> {
    response.ok_or_else(|| DriverError::Protocol("the answer is not HTTP".to_owned()))
}

fn challenge(response: &Response) -> Option<Challenge> {
    if response.status != 401 {
        return None;
    }
    response
        .header("www-authenticate")
        .filter_map(Challenge::parse)
        .find(|challenge| challenge.realm().starts_with(REALM))
}

fn stranger(response: &Response) -> DriverError {
    DriverError::Protocol(format!(
        "the web server is not that of an Antminer ({}): nothing was sent to it",
        http::describe(response)
    ))
}

fn accepted(response: &Response, login: Option<&Login>) -> Result<Authenticated, DriverError> {
    let info: Value = serde_json::from_slice(&response.body)
        .map_err(|error| DriverError::Protocol(format!("its system information: {error}")))?;
    if info.get("minertype").is_none() {
        let why = "its system information does not name its type".to_owned();
        return Err(DriverError::Protocol(why));
    }
    let default_password = login
        .filter(|login| login.username() == DELIVERED.0)
        .map(|login| login.password() == DELIVERED.1);
    Ok(Authenticated::Accepted {
        device: Box::new(DeviceFacts {
            model: text_of(&info, "minertype"),
            manufacturer: "Bitmain".to_owned(),
            firmware: String::new(),
            mac: mac(&text_of(&info, "macaddr")),
            serial: Serial::new(&text_of(&info, "serinum")),
            ..DeviceFacts::default()
        }),
        default_password,
    })
}

fn text_of(object: &Value, field: &str) -> String {
    let text = object.get(field).and_then(Value::as_str);
    text.map(text::field).unwrap_or_default()
}
