//! Messages of alerts: writing them, leasing them to one server, and the results of attempts.

use alert_delivery::Column as C;
use fleet_core::{AlertChannelId, AlertDeliveryId, AlertRuleId};
use fleet_inventory::{AfterAttempt, AlertMessage, RETRIED_FOR};
use sea_orm::sea_query::LockBehavior;

use crate::{
    ALERT_LEASE, ALERTS_WAITING, AlertDeliveryRow, AlertDeliveryState, AlertError, AlertTarget,
    LeasedAlert,
    sql::{
        audit, codec,
        entity::{alert_channel, alert_delivery},
        inserts,
        prelude::*,
    },
};

static NOTHING: AlertMessage = AlertMessage {
    title: String::new(),
    items: Vec::new(),
    count: 0,
};

/// A message to store.
#[derive(Clone, Debug)]
pub(super) struct NewMessage<'a> {
    /// The rule, unless it is a test.
    pub(super) rule: Option<(AlertRuleId, &'a str)>,
    pub(super) event: &'a str,
    pub(super) message: &'a AlertMessage,
    pub(super) scan: Option<ScanId>,
    pub(super) node: Option<NodeId>,
}

impl Default for NewMessage<'_> {
    fn default() -> Self {
        Self {
            rule: None,
            event: "",
            message: &NOTHING,
            scan: None,
            node: None,
        }
    }
}

/// The row of a message to one channel, which may be sent from `due` on.
pub(super) fn row(
    org: OrgId,
    channel: &alert_channel::Model,
    new: &NewMessage<'_>,
    due: Timestamp,
    now: Timestamp,
) -> Result<alert_delivery::ActiveModel, DbErr> {
    let mut random = [0; 10];
    getrandom::fill(&mut random).map_err(|error| DbErr::Custom(error.to_string()))?;
    Ok(alert_delivery::ActiveModel {
        id: Set(AsText(AlertDeliveryId::new(now, random))),
        org_id: Set(org.0),
        channel_id: Set(channel.id),
        channel: Set(channel.name.clone()),
        rule_id: Set(new.rule.map(|(id, _)| id.0)),
        rule: Set(new
            .rule
            .map_or_else(String::new, |(_, name)| name.to_owned())),
        event: Set(new.event.to_owned()),
        message: Set(codec::write_alert(new.message)?),
        scan_id: Set(new.scan.map(AsText)),
        node_id: Set(new.node.map(|node| node.0)),
        state: Set(AsText(AlertDeliveryState::Waiting)),
        created_at: Set(Micros(now)),
        due_at: Set(Micros(due)),
        expires_at: Set(Micros(due.plus(RETRIED_FOR))),
        leased_until: Set(None),
        attempts: Set(0),
        answer: Set(String::new()),
        answered_at: Set(None),
        ended_at: Set(None),
    })
}

/// How many more messages may wait in an organization.
pub(super) async fn room(db: &impl ConnectionTrait, org: OrgId) -> Result<u64, DbErr> {
    let waiting = alert_delivery::Entity::find()
        .filter(C::OrgId.eq(org.0))
        .filter(is_waiting())
        .count(db)
        .await?;
    Ok(ALERTS_WAITING.saturating_sub(waiting))
}

/// Stores messages. The first one beyond the limit is stored as failed, so that operators see that it was reached, and the
/// others are left out.
pub(super) async fn store(
    tx: &DatabaseTransaction,
    org: OrgId,
    mut rows: Vec<alert_delivery::ActiveModel>,
    now: Timestamp,
) -> Result<u64, DbErr> {
    if rows.is_empty() {
        return Ok(0);
    }
    let room = usize::try_from(room(tx, org).await?).unwrap_or(usize::MAX);
    rows.truncate(room.saturating_add(1));
    let stored = rows.len() as u64;
    for row in rows.iter_mut().skip(room) {
        row.state = Set(AsText(AlertDeliveryState::Failed));
        row.answer = Set(format!("not sent: {ALERTS_WAITING} messages wait already"));
        row.ended_at = Set(Some(Micros(now)));
    }
    inserts::all(tx, rows).await?;
    Ok(stored)
}

/// Deletes the messages of a silent node that were not tried yet. Returns their number.
pub(super) async fn withdraw(
    tx: &DatabaseTransaction,
    rule: AlertRuleId,
    node: NodeId,
) -> Result<u64, DbErr> {
    let unsent = alert_delivery::Entity::delete_many()
        .filter(C::RuleId.eq(rule.0))
        .filter(C::NodeId.eq(node.0))
        .filter(is_waiting())
        .filter(C::Attempts.eq(0));
    Ok(unsent.exec(tx).await?.rows_affected)
}

pub(super) async fn fail_of_channel(
    tx: &DatabaseTransaction,
    org: OrgId,
    channel: AlertChannelId,
    now: Timestamp,
) -> Result<(), DbErr> {
    let failed = alert_delivery::ActiveModel {
        answer: Set("not sent: the channel was deleted".to_owned()),
        ..ended(AlertDeliveryState::Failed, now)
    };
    alert_delivery::Entity::update_many()
        .set(failed)
        .filter(C::OrgId.eq(org.0))
        .filter(C::ChannelId.eq(channel.0))
        .filter(is_waiting())
        .exec(tx)
        .await?;
    Ok(())
}

pub(super) async fn page(
    db: &impl ConnectionTrait,
    org: OrgId,
    state: Option<AlertDeliveryState>,
    before: Option<AlertDeliveryId>,
    limit: u32,
) -> Result<Vec<AlertDeliveryRow>, DbErr> {
    let mut rows = alert_delivery::Entity::find().filter(C::OrgId.eq(org.0));
    if let Some(state) = state {
        rows = rows.filter(C::State.eq(AsText(state)));
    }
    if let Some(before) = before {
        rows = rows.filter(C::Id.lt(AsText(before)));
    }
    // Ids contain their time.
    let rows = rows.order_by_desc(C::Id).limit(u64::from(limit));
    rows.all(db).await?.into_iter().map(read).collect()
}

pub(super) async fn retry(
    tx: &DatabaseTransaction,
    org: OrgId,
    id: AlertDeliveryId,
    actor: &Actor,
    now: Timestamp,
) -> Result<AlertDeliveryRow, Failure<AlertError>> {
    let found = alert_delivery::Entity::find_by_id(AsText(id))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await?;
    let Some(row) = found.filter(|row| row.org_id == org.0) else {
        return refuse(AlertError::DeliveryNotFound(id));
    };
    if row.state.0 != AlertDeliveryState::Failed {
        return refuse(AlertError::NotFailed(id, row.state.0));
    }
    let channel = AlertChannelId(row.channel_id);
    if super::find_channel(tx, org, channel).await?.is_none() {
        return refuse(AlertError::ChannelNotFound(channel));
    }
    if room(tx, org).await? == 0 {
        return refuse(AlertError::TooManyWaiting);
    }
    let again = alert_delivery::ActiveModel {
        id: Set(AsText(id)),
        state: Set(AsText(AlertDeliveryState::Waiting)),
        due_at: Set(Micros(now)),
        expires_at: Set(Micros(now.plus(RETRIED_FOR))),
        leased_until: Set(None),
        attempts: Set(0),
        ended_at: Set(None),
        ..Default::default()
    };
    let again = again.update(tx).await?;
    let subject = format!("delivery {id} to {}", row.channel);
    audit::done(tx, org, actor, "alert.retry", subject, now).await?;
    Ok(read(again)?)
}

fn is_waiting() -> Expr {
    C::State.eq(AsText(AlertDeliveryState::Waiting))
}

/// Messages that may be sent now and that no server holds.
fn due(now: Timestamp) -> Select<alert_delivery::Entity> {
    let free = Condition::any()
        .add(C::LeasedUntil.is_null())
        .add(C::LeasedUntil.lte(Micros(now)));
    alert_delivery::Entity::find()
        .filter(is_waiting())
        .filter(C::DueAt.lte(Micros(now)))
        .filter(free)
}

/// The organizations with due messages, first those with the fewest messages in progress. One with thousands of messages
/// to slow receivers must not hold up the others.
async fn by_turn(tx: &DatabaseTransaction, now: Timestamp) -> Result<Vec<i64>, DbErr> {
    let mut orgs: Vec<i64> = due(now)
        .select_only()
        .column(C::OrgId)
        .group_by(C::OrgId)
        .order_by_asc(C::DueAt.min())
        .into_tuple()
        .all(tx)
        .await?;
    let in_progress: Vec<i64> = alert_delivery::Entity::find()
        .filter(is_waiting())
        .filter(C::LeasedUntil.gt(Micros(now)))
        .select_only()
        .column(C::OrgId)
        .into_tuple()
        .all(tx)
        .await?;
    orgs.sort_by_key(|org| in_progress.iter().filter(|busy| *busy == org).count());
    Ok(orgs)
}

pub(super) async fn any_due(db: &impl ConnectionTrait, now: Timestamp) -> Result<bool, DbErr> {
    Ok(due(now).limit(1).one(db).await?.is_some())
}

pub(super) async fn lease(
    tx: &DatabaseTransaction,
    now: Timestamp,
    limit: u64,
) -> Result<Vec<LeasedAlert>, DbErr> {
    let mut rows = Vec::new();
    let orgs = by_turn(tx, now).await?;
    for (index, org) in orgs.iter().enumerate() {
        let left = limit.saturating_sub(rows.len() as u64);
        let part = left.div_ceil((orgs.len() - index) as u64);
        if part == 0 {
            break;
        }
        // Two servers that look at the same time take different messages.
        let of_org = due(now)
            .filter(C::OrgId.eq(*org))
            .order_by_asc(C::DueAt)
            .limit(part)
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .all(tx)
            .await?;
        rows.extend(of_org);
    }
    let ids = rows.iter().map(|row| row.id);
    alert_delivery::Entity::update_many()
        .col_expr(C::LeasedUntil, Micros(now.plus(ALERT_LEASE)).into())
        .col_expr(C::Attempts, next_attempt())
        .filter(C::Id.is_in(ids))
        .exec(tx)
        .await?;
    let channels = rows.iter().map(|row| row.channel_id);
    let channels = alert_channel::Entity::find()
        .filter(alert_channel::Column::Id.is_in(channels))
        .all(tx)
        .await?;
    let mut leased = Vec::new();
    for mut row in rows {
        row.attempts += 1;
        let channel = channels.iter().find(|channel| channel.id == row.channel_id);
        let Some(channel) = channel else {
            // It was deleted while the message was stored.
            let (id, failed) = (row.id.0, AfterAttempt::Failed);
            let attempt = read_count(row.attempts)?;
            settle(
                tx,
                id,
                attempt,
                failed,
                "not sent: its channel was deleted",
                now,
            )
            .await?;
            continue;
        };
        leased.push(LeasedAlert {
            delivery: read(row)?,
            target: target(channel)?,
        });
    }
    Ok(leased)
}

fn next_attempt() -> Expr {
    use sea_orm::sea_query::ExprTrait;
    Expr::col(C::Attempts).add(1)
}

fn target(channel: &alert_channel::Model) -> Result<AlertTarget, DbErr> {
    match (channel.kind.as_str(), channel.secret) {
        ("webhook", Some(Bytes32(key))) => Ok(AlertTarget::Webhook {
            url: channel.target.clone(),
            key,
        }),
        ("email", None) => Ok(AlertTarget::Email {
            address: channel.target.clone(),
        }),
        (kind, _) => Err(unreadable("alert channel", kind)),
    }
}

pub(super) async fn settle(
    tx: &DatabaseTransaction,
    id: AlertDeliveryId,
    attempt: u32,
    after: AfterAttempt,
    answer: &str,
    now: Timestamp,
) -> Result<bool, DbErr> {
    let result = match after {
        AfterAttempt::Delivered => ended(AlertDeliveryState::Delivered, now),
        AfterAttempt::Failed => ended(AlertDeliveryState::Failed, now),
        AfterAttempt::Again(at) => alert_delivery::ActiveModel {
            due_at: Set(Micros(at)),
            leased_until: Set(None),
            ..Default::default()
        },
    };
    let result = alert_delivery::ActiveModel {
        answer: Set(answer.to_owned()),
        answered_at: Set(Some(Micros(now))),
        ..result
    };
    let settled = alert_delivery::Entity::update_many()
        .set(result)
        .filter(C::Id.eq(AsText(id)))
        .filter(C::Attempts.eq(i64::from(attempt)))
        .filter(C::LeasedUntil.is_not_null())
        .filter(is_waiting())
        .exec(tx)
        .await?;
    Ok(settled.rows_affected > 0)
}

fn ended(state: AlertDeliveryState, now: Timestamp) -> alert_delivery::ActiveModel {
    alert_delivery::ActiveModel {
        state: Set(AsText(state)),
        leased_until: Set(None),
        ended_at: Set(Some(Micros(now))),
        ..Default::default()
    }
}

pub(super) async fn delete_old(
    tx: &DatabaseTransaction,
    ended_before: Timestamp,
    limit: u64,
) -> Result<u64, DbErr> {
    let old: Vec<AsText<AlertDeliveryId>> = alert_delivery::Entity::find()
        .select_only()
        .column(C::Id)
        .filter(C::EndedAt.lt(Micros(ended_before)))
        .order_by_asc(C::EndedAt)
        .limit(limit)
        .into_tuple()
        .all(tx)
        .await?;
    let deleted = alert_delivery::Entity::delete_many().filter(C::Id.is_in(old));
    Ok(deleted.exec(tx).await?.rows_affected)
}

pub(super) fn read(row: alert_delivery::Model) -> Result<AlertDeliveryRow, DbErr> {
    Ok(AlertDeliveryRow {
        id: row.id.0,
        org: OrgId(row.org_id),
        channel: AlertChannelId(row.channel_id),
        channel_name: row.channel,
        rule: row.rule,
        event: row.event,
        message: codec::read_alert(&row.message)?,
        scan: row.scan_id.map(|scan| scan.0),
        node: row.node_id.map(NodeId),
        state: row.state.0,
        created_at: row.created_at.0,
        due_at: row.due_at.0,
        expires_at: row.expires_at.0,
        attempts: read_count(row.attempts)?,
        answer: row.answer,
        answered_at: row.answered_at.map(|at| at.0),
        ended_at: row.ended_at.map(|at| at.0),
    })
}
