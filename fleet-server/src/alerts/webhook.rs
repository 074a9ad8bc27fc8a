//! Messages to webhooks, in the form of Standard Webhooks 1.0: <https://www.standardwebhooks.com>. The signature covers
//! the id of the message, the time of the attempt, and the body.

use base64::{Engine, prelude::BASE64_STANDARD};
use fleet_inventory::{AlertItem, Answer};
use fleet_store::AlertDeliveryRow;
use fleet_wire::client::{Post, PostUrl, post};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, header};
use serde::Serialize;
use sha2::Sha256;

use super::{ATTEMPT, Sent};
use crate::{app::App, convert};

/// The secret of a channel in the form that receivers enter.
pub(super) fn secret(key: &[u8; 32]) -> String {
    format!("whsec_{}", BASE64_STANDARD.encode(key))
}

/// Sends a message once. The text of the result contains the status of the answer and nothing of its body, which could
/// come from a service that only this server reaches.
pub(super) async fn send(app: &App, delivery: &AlertDeliveryRow, url: &str, key: &[u8]) -> Sent {
    let Ok(url) = url.parse::<PostUrl>() else {
        return (Answer::Gone, "the stored URL cannot be read".to_owned());
    };
    let id = format!("msg_{}", delivery.id);
    let now = app.environment.now();
    let prepared = body(delivery).and_then(|body| {
        let seconds = now.as_millis() / 1_000;
        let signature = signature(key, &id, seconds, &body)?;
        let headers = headers(&id, seconds, &signature)?;
        Some((headers, body))
    });
    let Some((headers, body)) = prepared else {
        return (Answer::Gone, "the message cannot be written".to_owned());
    };
    let owner = app.config.network_owner.as_deref();
    let private = match app.store.owns_network(delivery.org, owner).await {
        Ok(owns) => owns,
        Err(error) => {
            tracing::warn!(%error, "the owner of the server's network is not known");
            return (
                Answer::Failed,
                "the server's database does not answer".to_owned(),
            );
        }
    };
    let request = Post {
        url: &url,
        headers,
        body: body.into(),
        roots: &app.config.webhook_roots,
        private,
        timeout: ATTEMPT,
    };
    match post(request).await {
        Ok(status) => read(status),
        Err(error) => (Answer::Failed, error.to_string()),
    }
}

fn read(status: u16) -> Sent {
    let answer = match status {
        200..300 => Answer::Accepted,
        // The receiver wants no more messages, by the specification.
        410 => Answer::Gone,
        _ => Answer::Failed,
    };
    let text = match status {
        300..400 => format!("HTTP {status}: redirects are not followed, enter the final URL"),
        _ => format!("HTTP {status}"),
    };
    (answer, text)
}

fn headers(id: &str, seconds: i64, signature: &str) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let value = |text: &str| HeaderValue::from_str(text).ok();
    Some(vec![
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::USER_AGENT, HeaderValue::from_static("fleetd")),
        (HeaderName::from_static("webhook-id"), value(id)?),
        (
            HeaderName::from_static("webhook-timestamp"),
            value(&seconds.to_string())?,
        ),
        (
            HeaderName::from_static("webhook-signature"),
            value(signature)?,
        ),
    ])
}

/// The signature of version 1.
fn signature(key: &[u8], id: &str, seconds: i64, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(body);
    let tag = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    Some(format!("v1,{tag}"))
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: fleet_wire::Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    rule: &'a str,
    title: &'a str,
    count: u64,
    items: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scan_id: Option<String>,
    // As in the API, 64-bit integers are strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet_node_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
}

/// The body, which is the same in every attempt.
fn body(delivery: &AlertDeliveryRow) -> Option<Vec<u8>> {
    let message = &delivery.message;
    let body = Body {
        kind: &delivery.event,
        timestamp: convert::timestamp(delivery.created_at),
        data: Data {
            rule: &delivery.rule,
            title: &message.title,
            count: message.count,
            items: message.items.iter().map(item).collect(),
            scan_id: delivery.scan.map(|scan| scan.to_string()),
            fleet_node_id: delivery.node.map(|node| node.to_string()),
        },
    };
    serde_json::to_vec(&body).ok()
}

fn item(item: &AlertItem) -> Item<'_> {
    Item {
        text: &item.text,
        device_id: item.device.map(|device| device.to_string()),
        ip_address: item.endpoint.map(|endpoint| endpoint.ip.to_string()),
        port: item.endpoint.map(|endpoint| endpoint.port.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the libraries of the specification.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let key = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let key = key.expect("base64");
        let body = br#"{"test": 2432232314}"#;
        let found = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(
            found.as_deref(),
            Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
    }

    #[test]
    fn only_a_success_is_a_delivery_and_410_is_final() {
        for (status, expected) in [
            (200, Answer::Accepted),
            (204, Answer::Accepted),
            (301, Answer::Failed),
            (404, Answer::Failed),
            (410, Answer::Gone),
            (429, Answer::Failed),
            (500, Answer::Failed),
        ] {
            let (answer, text) = read(status);
            assert_eq!(answer, expected, "{status}");
            assert!(text.starts_with(&format!("HTTP {status}")), "{text}");
        }
    }
}
