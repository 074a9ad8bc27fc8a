//! Rules and channels of alerts. What an ended scan or a silent node leads to is in `alerts/facts.rs`, and the messages
//! are in `alerts/outbox.rs`.

mod facts;
mod observed;
mod outbox;

use std::collections::BTreeMap;

pub(crate) use facts::{scan_ended, settle_direct};
use fleet_core::{AlertChannelId, AlertDeliveryId, AlertRuleId};
use fleet_inventory::{AfterAttempt, AlertMessage, AlertRule, AlertRuleText};

use super::{
    audit,
    entity::{alert_channel, alert_org, alert_rule, alert_rule_channel, alert_scan, alert_silence},
};
use crate::{
    ALERT_CHANNELS_OF_AN_ORG, ALERT_RULES_OF_AN_ORG, AlertChannelRow, AlertDeliveryRow,
    AlertDeliveryState, AlertError, AlertRuleRow, AlertTarget, Alerts, LeasedAlert,
    NewAlertChannel, NewAlertRule, sql::prelude::*,
};

#[async_trait]
impl Alerts for SqlStore {
    async fn create_alert_channel(
        &self,
        new: NewAlertChannel,
        actor: Actor,
    ) -> Result<AlertChannelRow, AlertError> {
        transaction!(self, "create_alert_channel", |tx| {
            let of_org =
                alert_channel::Entity::find().filter(alert_channel::Column::OrgId.eq(new.org.0));
            if of_org.clone().count(tx).await? >= ALERT_CHANNELS_OF_AN_ORG as u64 {
                return refuse(AlertError::TooManyChannels);
            }
            let named = of_org.filter(alert_channel::Column::Name.eq(&new.name));
            if named.count(tx).await? > 0 {
                return refuse(AlertError::NameTaken(new.name.clone()));
            }
            let (target, secret) = match &new.target {
                AlertTarget::Webhook { url, key } => (url.clone(), Some(Bytes32(*key))),
                AlertTarget::Email { address } => (address.clone(), None),
            };
            let row = alert_channel::ActiveModel {
                id: NotSet,
                org_id: Set(new.org.0),
                name: Set(new.name.clone()),
                kind: Set(new.target.kind().to_owned()),
                target: Set(target),
                shown: Set(new.shown.clone()),
                secret: Set(secret),
                created_at: Set(Micros(new.now)),
            };
            let row = row.insert(tx).await?;
            let subject = format!("channel {} ({}): {}", row.id, row.name, row.shown);
            audit::done(
                tx,
                new.org,
                &actor,
                "alert.channel.create",
                subject,
                new.now,
            )
            .await?;
            Ok(channel(row))
        })
    }

    async fn delete_alert_channel(
        &self,
        org: OrgId,
        id: AlertChannelId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), AlertError> {
        transaction!(self, "delete_alert_channel", |tx| {
            let Some(row) = find_channel(tx, org, id).await? else {
                return refuse(AlertError::ChannelNotFound(id));
            };
            alert_rule_channel::Entity::delete_many()
                .filter(alert_rule_channel::Column::ChannelId.eq(id.0))
                .exec(tx)
                .await?;
            outbox::fail_of_channel(tx, org, id, now).await?;
            alert_channel::Entity::delete_by_id(id.0).exec(tx).await?;
            let subject = format!("channel {id} ({})", row.name);
            audit::done(tx, org, &actor, "alert.channel.delete", subject, now).await?;
            Ok(())
        })
    }

    async fn alert_channels(&self, org: OrgId) -> Result<Vec<AlertChannelRow>, StoreError> {
        let rows = alert_channel::Entity::find()
            .filter(alert_channel::Column::OrgId.eq(org.0))
            .order_by_asc(alert_channel::Column::Name)
            .all(self.reader());
        let rows = rows.await.during("alert_channels")?;
        Ok(rows.into_iter().map(channel).collect())
    }

    async fn save_alert_rule(
        &self,
        org: OrgId,
        existing: Option<AlertRuleId>,
        new: NewAlertRule,
        actor: Actor,
        now: Timestamp,
    ) -> Result<AlertRuleRow, AlertError> {
        transaction!(self, "save_alert_rule", |tx| {
            watch(tx, org, &new.rule, now).await?;
            let of_org = alert_rule::Entity::find().filter(alert_rule::Column::OrgId.eq(org.0));
            let rows = of_org.all(tx).await?;
            let created_at = match existing {
                None if rows.len() >= ALERT_RULES_OF_AN_ORG => {
                    return refuse(AlertError::TooManyRules);
                }
                None => now,
                Some(id) => match rows.iter().find(|row| row.id == id.0) {
                    Some(row) => row.created_at.0,
                    None => return refuse(AlertError::RuleNotFound(id)),
                },
            };
            let own = existing.map(|id| id.0);
            if rows
                .iter()
                .any(|row| row.name == new.name && Some(row.id) != own)
            {
                return refuse(AlertError::NameTaken(new.name.clone()));
            }
            for id in &new.channels {
                if find_channel(tx, org, *id).await?.is_none() {
                    return refuse(AlertError::ChannelNotFound(*id));
                }
            }
            let text = new.rule.text();
            let row = alert_rule::ActiveModel {
                id: existing.map_or(NotSet, |id| Set(id.0)),
                org_id: Set(org.0),
                name: Set(new.name.clone()),
                event: Set(AsText(new.rule.event)),
                threshold: Set(i64::from(new.rule.threshold)),
                zone: Set(text.zone),
                quiet: Set(text.quiet),
                enabled: Set(new.enabled),
                created_at: Set(Micros(created_at)),
            };
            let (row, action) = if existing.is_some() {
                (row.update(tx).await?, "alert.rule.update")
            } else {
                (row.insert(tx).await?, "alert.rule.create")
            };
            forget(tx, row.id).await?;
            for id in &new.channels {
                let link = alert_rule_channel::ActiveModel {
                    rule_id: Set(row.id),
                    channel_id: Set(id.0),
                };
                alert_rule_channel::Entity::insert(link)
                    .exec_without_returning(tx)
                    .await?;
            }
            let subject = format!("rule {} ({}): {}", row.id, row.name, row.event.0);
            audit::done(tx, org, &actor, action, subject, now).await?;
            Ok(AlertRuleRow {
                id: AlertRuleId(row.id),
                rule: new.clone(),
                created_at,
            })
        })
    }

    async fn delete_alert_rule(
        &self,
        org: OrgId,
        id: AlertRuleId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), AlertError> {
        transaction!(self, "delete_alert_rule", |tx| {
            lock(tx, org).await?;
            let found = alert_rule::Entity::find_by_id(id.0).one(tx).await?;
            let Some(row) = found.filter(|row| row.org_id == org.0) else {
                return refuse(AlertError::RuleNotFound(id));
            };
            forget(tx, row.id).await?;
            alert_rule::Entity::delete_by_id(id.0).exec(tx).await?;
            let subject = format!("rule {id} ({})", row.name);
            audit::done(tx, org, &actor, "alert.rule.delete", subject, now).await?;
            Ok(())
        })
    }

    async fn alert_rules(&self, org: OrgId) -> Result<Vec<AlertRuleRow>, StoreError> {
        rules(self.reader(), org).await.during("alert_rules")
    }

    async fn test_alert_channel(
        &self,
        org: OrgId,
        id: AlertChannelId,
        message: AlertMessage,
        actor: Actor,
        now: Timestamp,
    ) -> Result<AlertDeliveryRow, AlertError> {
        transaction!(self, "test_alert_channel", |tx| {
            let Some(channel) = find_channel(tx, org, id).await? else {
                return refuse(AlertError::ChannelNotFound(id));
            };
            if outbox::room(tx, org).await? == 0 {
                return refuse(AlertError::TooManyWaiting);
            }
            let new = outbox::NewMessage {
                event: "test",
                message: &message,
                ..outbox::NewMessage::default()
            };
            let row = outbox::row(org, &channel, &new, now, now)?;
            let row = row.insert(tx).await?;
            let subject = format!("channel {id} ({})", channel.name);
            audit::done(tx, org, &actor, "alert.channel.test", subject, now).await?;
            Ok(outbox::read(row)?)
        })
    }

    async fn alert_deliveries(
        &self,
        org: OrgId,
        state: Option<AlertDeliveryState>,
        before: Option<AlertDeliveryId>,
        limit: u32,
    ) -> Result<Vec<AlertDeliveryRow>, StoreError> {
        let page = outbox::page(self.reader(), org, state, before, limit).await;
        page.during("alert_deliveries")
    }

    async fn retry_alert(
        &self,
        org: OrgId,
        id: AlertDeliveryId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<AlertDeliveryRow, AlertError> {
        transaction!(self, "retry_alert", |tx| {
            outbox::retry(tx, org, id, &actor, now).await
        })
    }

    async fn scans_to_alert(&self, limit: u32) -> Result<Vec<ScanId>, StoreError> {
        let ended = facts::ended_scans(self.reader(), u64::from(limit)).await;
        ended.during("scans_to_alert")
    }

    async fn alert_on_scan(&self, scan: ScanId, now: Timestamp) -> Result<u64, StoreError> {
        let operation = "alert_on_scan";
        // The result of an ended scan does not change, so it is read before the transaction.
        let ended = facts::load(self.reader(), scan).await.during(operation);
        if let Err(StoreError::Broken { .. }) = &ended {
            // It cannot be read in the next look either.
            let skipped = alert_scan::Entity::delete_by_id(AsText(scan)).exec(self.writer());
            skipped.await.during(operation)?;
        }
        let Some(ended) = ended? else {
            return Ok(0);
        };
        transaction!(self, operation, |tx| {
            Ok(facts::settle_scan(tx, &ended, now).await?)
        })
    }

    async fn alert_on_nodes(
        &self,
        watched_since: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let operation = "alert_on_nodes";
        let db = self.reader();
        let (mut messages, mut failure) = (0, None);
        for org in facts::orgs_that_watch_nodes(db).await.during(operation)? {
            let of_org = async {
                let found = facts::silences(db, org, watched_since, now).await;
                if found.during(operation)?.is_empty() {
                    return Ok(0);
                }
                transaction!(self, operation, |tx| {
                    lock(tx, org).await?;
                    // Another server may have settled them since.
                    let found = facts::silences(tx, org, watched_since, now).await?;
                    Ok::<u64, Failure<StoreError>>(facts::settle_nodes(tx, org, &found, now).await?)
                })
            };
            // The failure of one organization must not keep back the messages of others.
            match of_org.await {
                Ok(stored) => messages += stored,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(messages), Err)
    }

    async fn lease_alerts(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<LeasedAlert>, StoreError> {
        let operation = "lease_alerts";
        // Most looks find nothing, and a look must not take SQLite's write lock for that.
        let due = outbox::any_due(self.reader(), now).await;
        if !due.during(operation)? {
            return Ok(Vec::new());
        }
        transaction!(self, operation, |tx| {
            Ok(outbox::lease(tx, now, u64::from(limit)).await?)
        })
    }

    async fn settle_alert(
        &self,
        id: AlertDeliveryId,
        attempt: u32,
        after: AfterAttempt,
        answer: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        transaction!(self, "settle_alert", |tx| {
            Ok(outbox::settle(tx, id, attempt, after, answer, now).await?)
        })
    }

    async fn delete_old_alerts(
        &self,
        ended_before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        transaction!(self, "delete_old_alerts", |tx| {
            Ok(outbox::delete_old(tx, ended_before, u64::from(limit)).await?)
        })
    }
}

/// Locks the alerts of an organization, if it has any. Returns since when its devices are watched.
async fn lock(tx: &DatabaseTransaction, org: OrgId) -> Result<Option<Timestamp>, DbErr> {
    let row = alert_org::Entity::find_by_id(org.0)
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await?;
    Ok(row.map(|row| row.since.0))
}

/// Locks the alerts of an organization before a rule is stored. Devices are watched from now on if they were not.
async fn watch(
    tx: &DatabaseTransaction,
    org: OrgId,
    rule: &AlertRule,
    now: Timestamp,
) -> Result<(), DbErr> {
    let row = alert_org::ActiveModel {
        org_id: Set(org.0),
        since: Set(Micros(now)),
    };
    if lock(tx, org).await?.is_none() {
        alert_org::Entity::insert(row)
            .exec_without_returning(tx)
            .await?;
        return Ok(());
    }
    let watches = rules(tx, org).await?;
    let watches = watches
        .iter()
        .any(|row| row.rule.rule.event.is_of_devices());
    if rule.event.is_of_devices() && !watches {
        row.update(tx).await?;
    }
    Ok(())
}

/// Deletes the channels and the open silences of a rule.
async fn forget(tx: &DatabaseTransaction, rule: i64) -> Result<(), DbErr> {
    alert_rule_channel::Entity::delete_many()
        .filter(alert_rule_channel::Column::RuleId.eq(rule))
        .exec(tx)
        .await?;
    alert_silence::Entity::delete_many()
        .filter(alert_silence::Column::RuleId.eq(rule))
        .exec(tx)
        .await?;
    Ok(())
}

async fn find_channel(
    db: &impl ConnectionTrait,
    org: OrgId,
    id: AlertChannelId,
) -> Result<Option<alert_channel::Model>, DbErr> {
    let row = alert_channel::Entity::find_by_id(id.0).one(db).await?;
    Ok(row.filter(|row| row.org_id == org.0))
}

fn channel(row: alert_channel::Model) -> AlertChannelRow {
    AlertChannelRow {
        id: AlertChannelId(row.id),
        name: row.name,
        kind: row.kind,
        shown: row.shown,
        created_at: row.created_at.0,
    }
}

/// The rules of an organization by name, with two queries.
async fn rules(db: &impl ConnectionTrait, org: OrgId) -> Result<Vec<AlertRuleRow>, DbErr> {
    let rows = alert_rule::Entity::find()
        .filter(alert_rule::Column::OrgId.eq(org.0))
        .order_by_asc(alert_rule::Column::Name)
        .all(db)
        .await?;
    let ids = rows.iter().map(|row| row.id);
    let links = alert_rule_channel::Entity::find()
        .filter(alert_rule_channel::Column::RuleId.is_in(ids))
        .order_by_asc(alert_rule_channel::Column::ChannelId)
        .all(db)
        .await?;
    let mut channels: BTreeMap<i64, Vec<AlertChannelId>> = BTreeMap::new();
    for link in links {
        let of_rule = channels.entry(link.rule_id).or_default();
        of_rule.push(AlertChannelId(link.channel_id));
    }
    rows.into_iter()
        .map(|row| {
            let text = AlertRuleText {
                event: row.event.0.to_string(),
                threshold: read_count(row.threshold)?,
                zone: row.zone,
                quiet: row.quiet,
            };
            let rule = AlertRule::parse(&text).map_err(|error| unreadable("alert rule", error))?;
            Ok(AlertRuleRow {
                id: AlertRuleId(row.id),
                rule: NewAlertRule {
                    name: row.name,
                    rule,
                    channels: channels.remove(&row.id).unwrap_or_default(),
                    enabled: row.enabled,
                },
                created_at: row.created_at.0,
            })
        })
        .collect()
}
