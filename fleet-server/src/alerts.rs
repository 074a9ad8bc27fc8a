//! Alerts: checking and storing rules and channels, and the tasks that find facts and send messages.
//! `fleet-inventory` decides which facts lead to messages and when one is sent again. The store makes each fact lead to
//! one message, and leases each attempt to one server.

mod email;
mod webhook;

use std::{sync::Arc, time::Duration};

use fleet_core::{AlertChannelId, AlertDeliveryId, AlertRuleId};
use fleet_inventory::{
    AfterAttempt, AlertMessage, AlertRule, AlertRuleText, Answer, after_attempt,
};
use fleet_store::{
    ALERT_KEPT, AlertChannelRow, AlertDeliveryRow, AlertRuleRow, AlertTarget, LeasedAlert,
    NewAlertChannel, NewAlertRule, StoreError,
};
use fleet_wire::{RpcError, client::PostUrl};
use tokio::{sync::Semaphore, time::MissedTickBehavior};

use crate::{app::App, call::OperatorCall, failure::Answered, replicas::STOPPED_AFTER};

/// Interval of looks at ended scans and due messages.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Every how many looks nodes are checked. A rule allows at least two minutes of silence.
const NODES_EVERY: u32 = 5;
/// Most scans that one look settles.
const SCANS_A_LOOK: u32 = 20;
/// Most messages that one server sends at the same time.
const AT_ONCE: u32 = 32;
/// How long an attempt may last. It is shorter than its lease.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Old messages that one sweep deletes.
const OLD: u32 = 5_000;
/// The longest stored answer, in characters.
const ANSWER: usize = 200;

/// A receiver as an operator enters it.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Webhook(String),
    Email(String),
}

/// Stores a channel. Returns the secret of a webhook.
pub(crate) async fn create_channel(
    app: &App,
    call: &OperatorCall,
    name: String,
    wanted: Wanted,
) -> Result<(AlertChannelRow, Option<String>), RpcError> {
    let attempt = call.attempt("alert.channel.create", format!("channel {name}"));
    let created = async {
        let (target, shown) = checked_target(app, wanted)?;
        let secret = match &target {
            AlertTarget::Webhook { key, .. } => Some(webhook::secret(key)),
            AlertTarget::Email { .. } => None,
        };
        let new = NewAlertChannel {
            org: call.org,
            name,
            target,
            shown,
            now: call.now,
        };
        let row = app.store.create_alert_channel(new, call.actor());
        Ok::<_, RpcError>((row.await.answered()?, secret))
    };
    attempt.or_refused(&app.auditor, created.await).await
}

fn checked_target(app: &App, wanted: Wanted) -> Result<(AlertTarget, String), RpcError> {
    match wanted {
        Wanted::Webhook(text) => {
            let url = text.parse::<PostUrl>().map_err(|error| {
                RpcError::invalid_argument(format!("webhook_url is refused: {error}"))
                    .with_reason("INVALID_FIELD")
                    .with_fact("field", "webhook_url")
            })?;
            let key = app.environment.random();
            Ok((AlertTarget::Webhook { url: text, key }, url.to_string()))
        }
        Wanted::Email(address) => {
            if app.config.smtp.is_none() {
                return Err(RpcError::failed_precondition(
                    "this server sends no e-mail: its administrator sets a mail server under [smtp]",
                )
                .with_reason("EMAIL_UNAVAILABLE"));
            }
            email::check(&address)?;
            let shown = address.clone();
            Ok((AlertTarget::Email { address }, shown))
        }
    }
}

/// Deletes a channel.
pub(crate) async fn delete_channel(
    app: &App,
    call: &OperatorCall,
    id: AlertChannelId,
) -> Result<(), RpcError> {
    let attempt = call.attempt("alert.channel.delete", format!("channel {id}"));
    let store = &app.store;
    let deleted = store.delete_alert_channel(call.org, id, call.actor(), call.now);
    attempt.or_refused(&app.auditor, deleted.await).await
}

/// Sends a test message to a channel.
pub(crate) async fn test_channel(
    app: &App,
    call: &OperatorCall,
    id: AlertChannelId,
) -> Result<AlertDeliveryRow, RpcError> {
    let attempt = call.attempt("alert.channel.test", format!("channel {id}"));
    let tested = async {
        let now = clock(app).await?;
        let message = AlertMessage::of_test(&call.email);
        let store = &app.store;
        let tested = store.test_alert_channel(call.org, id, message, call.actor(), now);
        tested.await.answered()
    };
    attempt.or_refused(&app.auditor, tested.await).await
}

/// A rule as an operator wants it.
#[derive(Clone, Debug)]
pub(crate) struct WantedRule {
    pub(crate) name: String,
    pub(crate) text: AlertRuleText,
    pub(crate) channels: Vec<AlertChannelId>,
    pub(crate) enabled: bool,
}

/// Stores a new rule, or replaces one.
pub(crate) async fn save_rule(
    app: &App,
    call: &OperatorCall,
    existing: Option<AlertRuleId>,
    wanted: WantedRule,
) -> Result<AlertRuleRow, RpcError> {
    let (action, subject) = match existing {
        None => ("alert.rule.create", format!("rule {}", wanted.name)),
        Some(id) => ("alert.rule.update", format!("rule {id}")),
    };
    let attempt = call.attempt(action, subject);
    let saved = async {
        let rule = AlertRule::parse(&wanted.text).map_err(|error| {
            RpcError::invalid_argument(error.to_string())
                .with_reason("INVALID_FIELD")
                .with_fact("field", "rule")
        })?;
        let mut channels = wanted.channels;
        channels.sort_unstable();
        channels.dedup();
        let new = NewAlertRule {
            name: wanted.name,
            rule,
            channels,
            enabled: wanted.enabled,
        };
        // The times of devices come from the server's own clock.
        let store = &app.store;
        let saved = store.save_alert_rule(call.org, existing, new, call.actor(), call.now);
        saved.await.answered()
    };
    attempt.or_refused(&app.auditor, saved.await).await
}

/// Deletes a rule.
pub(crate) async fn delete_rule(
    app: &App,
    call: &OperatorCall,
    id: AlertRuleId,
) -> Result<(), RpcError> {
    let attempt = call.attempt("alert.rule.delete", format!("rule {id}"));
    let store = &app.store;
    let deleted = store.delete_alert_rule(call.org, id, call.actor(), call.now);
    attempt.or_refused(&app.auditor, deleted.await).await
}

/// Sends a failed message again.
pub(crate) async fn retry(
    app: &App,
    call: &OperatorCall,
    id: AlertDeliveryId,
) -> Result<AlertDeliveryRow, RpcError> {
    let attempt = call.attempt("alert.retry", format!("delivery {id}"));
    let retried = async {
        let now = clock(app).await?;
        let again = app.store.retry_alert(call.org, id, call.actor(), now);
        again.await.answered()
    };
    attempt.or_refused(&app.auditor, retried.await).await
}

/// The clock that all servers share.
async fn clock(app: &App) -> Result<fleet_core::Timestamp, RpcError> {
    app.store
        .shared_clock(app.environment.now())
        .await
        .answered()
}

/// Finds facts until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let watched_since = app.environment.now();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0_u32;
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            _ = looks.tick() => {}
        }
        if let Err(error) = look_at_scans(&app).await {
            tracing::warn!(%error, "cannot look for alerts about scans");
        }
        if count.is_multiple_of(NODES_EVERY) {
            let now = app.environment.now();
            if let Err(error) = app.store.alert_on_nodes(watched_since, now).await {
                tracing::warn!(%error, "cannot look for alerts about nodes");
            }
            if let Err(error) = look_at_direct_scans(&app).await {
                tracing::warn!(%error, "cannot look for scans of stopped servers");
            }
        }
        count = count.wrapping_add(1);
    }
}

async fn look_at_scans(app: &App) -> Result<(), StoreError> {
    for scan in app.store.scans_to_alert(SCANS_A_LOOK).await? {
        if app.drain.is_cancelled() {
            return Ok(());
        }
        let now = app.store.shared_clock(app.environment.now()).await?;
        match app.store.alert_on_scan(scan, now).await {
            Ok(0) => {}
            Ok(messages) => tracing::info!(%scan, messages, "a scan led to alerts"),
            // The alerts of one scan must not hold up those of the others.
            Err(error) => tracing::warn!(%scan, %error, "cannot find the alerts of a scan"),
        }
    }
    Ok(())
}

/// Ends the scans of the server's own network whose server has stopped: the alerts about their devices are stored.
async fn look_at_direct_scans(app: &App) -> Result<(), StoreError> {
    for run in app.store.direct_runs().await? {
        let now = app.store.shared_clock(app.environment.now()).await?;
        // A server that has just begun may not be observed yet, and would count as one of earlier.
        let is_new = now.since(run.started) < STOPPED_AFTER;
        let stopped = app
            .replicas
            .has_stopped(run.replica, app.environment.instant());
        if is_new || !stopped {
            continue;
        }
        if let Some(messages) = app.store.end_stopped_direct(run.scan, now).await? {
            tracing::info!(scan = %run.scan, messages, "a scan of the server's own network ended with its server");
        }
    }
    Ok(())
}

/// Sends due messages until the server drains.
pub(crate) async fn deliver(app: Arc<App>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE as usize));
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            _ = looks.tick() => {}
        }
        if let Err(error) = send_due(&app, &slots).await {
            tracing::warn!(%error, "cannot read due alerts");
        }
    }
}

async fn send_due(app: &Arc<App>, slots: &Arc<Semaphore>) -> Result<(), StoreError> {
    let free = u32::try_from(slots.available_permits()).unwrap_or(AT_ONCE);
    if free == 0 {
        return Ok(());
    }
    let now = app.store.shared_clock(app.environment.now()).await?;
    for leased in app.store.lease_alerts(now, free).await? {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return Ok(());
        };
        let app = app.clone();
        // A drain waits for attempts, because their receivers may have accepted them already.
        app.clone().tasks.spawn(async move {
            attempt(&app, leased).await;
            drop(slot);
        });
    }
    Ok(())
}

/// Sends one message once, and stores the result.
async fn attempt(app: &App, leased: LeasedAlert) {
    let delivery = leased.delivery;
    let (id, attempt) = (delivery.id, delivery.attempts);
    let sent = match &leased.target {
        AlertTarget::Webhook { url, key } => webhook::send(app, &delivery, url, key).await,
        AlertTarget::Email { address } => email::send(app, &delivery, address).await,
    };
    let (answer, text) = sent;
    let settled = async {
        let now = app.store.shared_clock(app.environment.now()).await?;
        let random = u64::from_be_bytes(app.environment.random());
        let after = after_attempt(answer, attempt, delivery.expires_at, now, random);
        if after == AfterAttempt::Failed {
            tracing::warn!(delivery = %id, attempt, answer = text, "an alert was not delivered");
        }
        let text: String = text.chars().take(ANSWER).collect();
        app.store.settle_alert(id, attempt, after, &text, now).await
    };
    // Without a stored result, the message is sent again when its lease ends.
    if let Err(error) = settled.await {
        tracing::warn!(delivery = %id, %error, "cannot store the result of an alert");
    }
}

/// The result of an attempt: what it means, and the text for operators.
type Sent = (Answer, String);

/// Deletes messages that ended long ago.
pub(crate) async fn sweep(app: &App) {
    let before = app.environment.now().minus(ALERT_KEPT);
    if let Err(error) = app.store.delete_old_alerts(before, OLD).await {
        tracing::warn!(%error, "cannot delete old alerts");
    }
}
