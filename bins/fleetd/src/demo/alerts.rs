//! The alerts of the demonstration: rules, and a webhook on loopback that receives their messages. The webhook checks
//! signatures by itself, as a receiver of another maker does. Start with [`Receiver`].

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use fleet_server::{Environment, SystemEnvironment};
use fleet_wire::fleet::{
    AlertClient, AlertRuleSpec, CreateAlertChannelRequest, CreateAlertRuleRequest,
};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Operator, print, show::Show};

/// The names, events and thresholds of the rules. A device that one scan does not find is missing.
const RULES: [(&str, &str, u32); 6] = [
    ("new devices", "device.new", 0),
    ("missing devices", "device.missing", 1),
    ("moved devices", "device.moved", 0),
    ("firmware", "device.firmware", 0),
    ("silent nodes", "node.silent", 0),
    ("failed scans", "scan.failed", 0),
];
/// The longest accepted body, in bytes. A message lists 20 items.
const BODY: usize = 64 * 1_024;
/// The longest accepted difference between the time of a message and the clock, in seconds. The libraries of Standard
/// Webhooks have the same limit.
const TOLERANCE: u64 = 300;
/// The longest wait for expected messages.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause after the system refused a connection.
const REST: Duration = Duration::from_millis(50);

/// A webhook on loopback that prints each message once. Dropping it closes the webhook.
#[derive(Debug)]
pub(super) struct Receiver {
    received: watch::Receiver<usize>,
    _stop: DropGuard,
}

impl Receiver {
    /// Creates the channel and its rules, and starts the webhook.
    pub(super) async fn start(operator: &Operator, show: &Show) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("cannot listen for alerts on loopback")?;
        let address = listener.local_addr().context("the port has no address")?;
        let url = format!("http://{address}/alerts");
        let key = create(operator, &url).await?;
        show.step(&format!("alerts     {} rules, sent to {url}", RULES.len()))?;
        let (sender, received) = watch::channel(0);
        let stop = CancellationToken::new();
        let webhook = Arc::new(Webhook {
            key,
            ids: Mutex::default(),
            received: sender,
            prints: !show.is_json(),
        });
        let closing = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = webhook.serve(listener) => {}
            }
        });
        Ok(Self {
            received,
            _stop: stop.drop_guard(),
        })
    }

    /// Waits until this many messages have arrived. Returns false when they have not after 20 s.
    pub(super) async fn until(&self, messages: usize) -> bool {
        let mut received = self.received.clone();
        let arrived = received.wait_for(|count| *count >= messages);
        matches!(timeout(PATIENCE, arrived).await, Ok(Ok(_)))
    }
}

/// Creates the channel and the rules. Returns the key of the channel.
async fn create(operator: &Operator, url: &str) -> Result<Vec<u8>> {
    let alerts = AlertClient::new(operator.channel.clone());
    let channel = CreateAlertChannelRequest {
        name: "demo receiver".to_owned(),
        webhook_url: url.to_owned(),
        ..CreateAlertChannelRequest::default()
    };
    let created = alerts
        .create_alert_channel(&channel, operator.call()?)
        .await?;
    let id = created.channel.unwrap_or_default().channel_id;
    for (name, event, threshold) in RULES {
        let rule = CreateAlertRuleRequest {
            spec: Some(AlertRuleSpec {
                name: name.to_owned(),
                event: event.to_owned(),
                threshold,
                channel_ids: vec![id],
                ..AlertRuleSpec::default()
            }),
        };
        alerts.create_alert_rule(&rule, operator.call()?).await?;
    }
    let secret = created.signing_secret.strip_prefix("whsec_");
    let secret = secret.context("the signing secret has another form")?;
    BASE64_STANDARD
        .decode(secret)
        .context("the signing secret is not base64")
}

struct Webhook {
    key: Vec<u8>,
    /// The ids of accepted messages. The demonstration has few.
    ids: Mutex<BTreeSet<String>>,
    received: watch::Sender<usize>,
    prints: bool,
}

impl Webhook {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(REST).await;
                continue;
            };
            let webhook = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(webhook.clone(), request));
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a connection to the webhook failed");
                }
            });
        }
    }

    fn accept(&self, headers: &HeaderMap, body: &[u8]) -> StatusCode {
        let now = SystemEnvironment.now().as_millis() / 1_000;
        let Some(id) = verified(&self.key, headers, body, now) else {
            return StatusCode::UNAUTHORIZED;
        };
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        // A message can arrive twice. Its id is the same then.
        if ids.insert(id.to_owned()) {
            if self.prints {
                // The demonstration continues without its output.
                let _ = print(&format!("alert received: {}", title(body)));
            }
            self.received.send_modify(|count| *count += 1);
        }
        StatusCode::NO_CONTENT
    }
}

async fn answer(
    webhook: Arc<Webhook>,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let status = match Limited::new(body, BODY).collect().await {
        Ok(body) => webhook.accept(&parts.headers, &body.to_bytes()),
        Err(_) => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

/// Returns the id of a message whose signature and time are valid, as Standard Webhooks 1.0 defines them.
fn verified<'h>(key: &[u8], headers: &'h HeaderMap, body: &[u8], now: i64) -> Option<&'h str> {
    let header = |name| headers.get(name)?.to_str().ok();
    let (id, sent) = (header("webhook-id")?, header("webhook-timestamp")?);
    let age = now.abs_diff(sent.parse().ok()?);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(format!("{id}.{sent}.").as_bytes());
    mac.update(body);
    let is_valid = |signature: &str| {
        let tag = signature.strip_prefix("v1,")?;
        let tag = BASE64_STANDARD.decode(tag).ok()?;
        mac.clone().verify_slice(&tag).ok()
    };
    let signed = header("webhook-signature")?
        .split(' ')
        .any(|signature| is_valid(signature).is_some());
    (signed && age <= TOLERANCE).then_some(id)
}

fn title(body: &[u8]) -> String {
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let title = body
        .as_ref()
        .and_then(|body| body["data"]["title"].as_str());
    fleet_core::text::visible(title.unwrap_or("a message without a title")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the libraries of the specification.
    const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SENT: i64 = 1_614_265_330;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn headers(signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", signature),
        ] {
            headers.insert(name, value.parse().expect("a header"));
        }
        headers
    }

    #[test]
    fn only_a_message_with_a_valid_signature_and_time_is_accepted() {
        let key = BASE64_STANDARD.decode(SECRET).expect("base64");
        let of = |signature: &str, body: &[u8], now: i64| {
            verified(&key, &headers(signature), body, now).is_some()
        };
        assert!(of(SIGNATURE, BODY, SENT));
        assert!(of(&format!("v1,AAAA {SIGNATURE}"), BODY, SENT + 300));
        assert!(!of(SIGNATURE, BODY, SENT + 301));
        assert!(!of(SIGNATURE, b"{}", SENT));
        assert!(!of("v1,AAAA", BODY, SENT));
        assert!(!of("v2,g0hM9SsE", BODY, SENT));
        assert!(verified(b"another key", &headers(SIGNATURE), BODY, SENT).is_none());
        assert!(verified(&key, &HeaderMap::new(), BODY, SENT).is_none());
    }
}
