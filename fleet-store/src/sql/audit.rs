//! The audit trail: how records are written inside the transactions of others, and read.

use async_trait::async_trait;
use fleet_core::{NodeId, OperatorId, OrgId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, NotSet, QueryFilter, QueryOrder, QuerySelect,
    Set,
    sea_query::{Alias, Expr, ExprTrait, OnConflict},
};

use super::{
    entity::audit,
    value::{AsText, Micros},
};
use crate::{Actor, Audit, AuditEntry, AuditResult, AuditRow, SqlStore, StoreError, Who};

#[async_trait]
impl Audit for SqlStore {
    async fn record_audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.transaction("record_audit", entry, |tx, entry| {
            Box::pin(async move { Ok(write(tx, entry.clone()).await?) })
        })
        .await
    }

    async fn list_audit(
        &self,
        org: OrgId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let rows = audit::Entity::find()
            .filter(audit::Column::OrgId.eq(org.0))
            .filter(audit::Column::Id.lt(before.unwrap_or(i64::MAX)))
            .order_by_desc(audit::Column::Id)
            .limit(u64::from(limit))
            .all(self.reader())
            .await;
        Self::reading(
            "list_audit",
            rows.map(|rows| rows.into_iter().map(row).collect()),
        )
    }
}

/// Writes a record inside the transaction of what it is about.
pub(crate) async fn write(tx: &impl ConnectionTrait, entry: AuditEntry) -> Result<(), DbErr> {
    let fold = fold(&entry);
    write_counted(tx, [(entry, 1, fold)]).await
}

/// Writes records that stand for `count` deeds each; one whose `fold` is there already is counted on it.
pub(crate) async fn write_counted(
    tx: &impl ConnectionTrait,
    entries: impl IntoIterator<Item = (AuditEntry, i64, Option<String>)>,
) -> Result<(), DbErr> {
    let rows: Vec<_> = entries
        .into_iter()
        .map(|(entry, count, fold)| model(entry, count, fold))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let count = Expr::col((audit::Entity, audit::Column::Count))
        .add(Expr::col((Alias::new("excluded"), audit::Column::Count)));
    audit::Entity::insert_many(rows)
        .on_conflict(
            OnConflict::column(audit::Column::Fold)
                .value(audit::Column::Count, count)
                .to_owned(),
        )
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// What makes two refusals alike; none for what was done, which is always a record of its own.
fn fold(entry: &AuditEntry) -> Option<String> {
    let AuditResult::Refused(reason) = &entry.result else {
        return None;
    };
    let (who, id) = author(&entry.actor.who);
    let minute = entry.at.as_millis().div_euclid(60_000);
    // An operator or node is one actor wherever it comes from; of strangers the address is all we know.
    let from = entry.actor.from.filter(|_| id.is_none());
    Some(format!(
        "{who}/{}/{}/{minute}/{}/{reason}",
        id.unwrap_or(0),
        from.map(|ip| ip.to_string()).unwrap_or_default(),
        entry.action
    ))
}

fn author(who: &Who) -> (&'static str, Option<i64>) {
    match who {
        Who::Operator(id) => ("operator", Some(id.0)),
        Who::Node(id) => ("node", Some(id.0)),
        Who::System => ("system", None),
        Who::Anonymous => ("anonymous", None),
    }
}

fn model(entry: AuditEntry, count: i64, fold: Option<String>) -> audit::ActiveModel {
    let (who, who_id) = author(&entry.actor.who);
    let refusal = match entry.result {
        AuditResult::Done => None,
        AuditResult::Refused(reason) => Some(reason),
    };
    audit::ActiveModel {
        id: NotSet,
        org_id: Set(entry.org.map(|org| org.0)),
        who: Set(who.to_owned()),
        who_id: Set(who_id),
        from_address: Set(entry.actor.from.map(AsText)),
        action: Set(entry.action.into_owned()),
        subject: Set(entry.subject),
        refusal: Set(refusal),
        count: Set(count),
        at: Set(Micros(entry.at)),
        fold: Set(fold),
    }
}

fn row(model: audit::Model) -> AuditRow {
    let who = match (model.who.as_str(), model.who_id) {
        ("operator", Some(id)) => Who::Operator(OperatorId(id)),
        ("node", Some(id)) => Who::Node(NodeId(id)),
        ("system", _) => Who::System,
        _ => Who::Anonymous,
    };
    AuditRow {
        id: model.id,
        count: u64::try_from(model.count).unwrap_or(0),
        entry: AuditEntry {
            org: model.org_id.map(OrgId),
            actor: Actor {
                who,
                from: model.from_address.map(|ip| ip.0),
            },
            action: model.action.into(),
            subject: model.subject,
            result: model
                .refusal
                .map_or(AuditResult::Done, AuditResult::Refused),
            at: model.at.0,
        },
    }
}
