//! One call of any procedure in JSON, and the letter of its answer.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use fleet_wire::{Code, Detail, MethodKind, RpcError};

use super::OF_THE_ENGINE;
use crate::harness::{World, request};

/// What came back: the code, and the body or the stream's first message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    code: String,
    pub(super) body: String,
    /// The reason and the facts of a refusal.
    pub(super) stated: Option<Facts>,
}

impl Answer {
    /// Calls a procedure, or plain HTTP where the path says `METHOD:/path`.
    pub(super) async fn to(
        world: &World,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Self {
        if let Some((method, path)) = path.split_once(':') {
            let mut headers = headers.to_vec();
            headers.push(("content-type", "application/json"));
            let mut answer = request(world.address(), method, path, &headers, body).await;
            if answer.status >= 400 {
                answer.read_to_end().await;
            }
            return Self::plain(answer.status, answer.body);
        }
        let mut headers = headers.to_vec();
        let at = format!("/{path}");
        headers.push(("connect-protocol-version", "1"));
        if is_unary(path) {
            headers.push(("content-type", "application/json"));
            let answer = request(world.address(), "POST", &at, &headers, body).await;
            return Self::plain(answer.status, answer.body);
        }
        headers.push(("content-type", "application/connect+json"));
        let length = u32::try_from(body.len()).expect("is small");
        let message = [&[0], length.to_be_bytes().as_slice(), body.as_bytes()].concat();
        let mut answer = request(world.address(), "POST", &at, &headers, message).await;
        if answer.status != 200 {
            return Self::plain(answer.status, answer.body);
        }
        let named = |name| !answer.header(name).is_empty();
        if named("fleet-scan-id") || named("fleet-pairing-id") {
            return Self::plain(200, String::new());
        }
        answer.read_until("}").await;
        let Some(start) = answer.body.find(r#"{"error":"#) else {
            return Self::plain(200, answer.body);
        };
        answer.read_until("}}").await;
        let end = answer.body.rfind("}}").expect("was read") + 2;
        let error: serde_json::Value =
            serde_json::from_str(&answer.body[start..end]).expect("the last frame is JSON");
        Self::plain(400, error["error"].to_string())
    }

    fn plain(status: u16, body: String) -> Self {
        let code = if status < 400 {
            String::new()
        } else {
            let error: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let code = error["code"].as_str().unwrap_or("not an error of ours");
            code.to_owned()
        };
        if status < 400 {
            return Self {
                code,
                body,
                stated: None,
            };
        }
        let (body, stated) = with_facts(body);
        Self { code, body, stated }
    }

    /// The letter of the table.
    pub(super) fn letter(&self) -> char {
        match self.code.as_str() {
            "" => '.',
            "unauthenticated" => 'U',
            "permission_denied" => 'P',
            "not_found" => 'N',
            "failed_precondition" => 'F',
            "invalid_argument" => 'I',
            "resource_exhausted" => 'R',
            "unimplemented" => '-',
            _ => '?',
        }
    }
}

/// The reason of an error, and its facts by name.
type Facts = (String, BTreeMap<String, String>);

/// The error with its facts in clear text, so that ids in them can be compared.
fn with_facts(body: String) -> (String, Option<Facts>) {
    let Ok(mut error) = serde_json::from_str::<serde_json::Value>(&body) else {
        return (body, None);
    };
    let mut found = None;
    for detail in error["details"].as_array_mut().into_iter().flatten() {
        let encoded = detail["value"].as_str().unwrap_or_default();
        let value = BASE64_STANDARD_NO_PAD.decode(encoded).expect("is base64");
        let mut stated = RpcError::new(Code::Unknown, "");
        stated.details.push(Detail {
            type_name: detail["type"].as_str().unwrap_or_default().to_owned(),
            value: value.into(),
        });
        if let Some(reason) = stated.reason() {
            let facts = stated.facts();
            let shown = facts.iter().map(|(key, value)| format!("{key} {value} "));
            detail["value"] = format!("{reason} {}", shown.collect::<String>()).into();
            found = Some((reason, facts));
        }
    }
    (error.to_string(), found)
}

fn is_unary(path: &str) -> bool {
    let declared =
        fleet_wire::methods().find(|method| method.path().trim_start_matches('/') == path);
    match declared {
        Some(method) => method.kind() == MethodKind::Unary,
        None => {
            OF_THE_ENGINE.contains(&path) && !path.ends_with("Watch") && !path.ends_with("Info")
        }
    }
}
