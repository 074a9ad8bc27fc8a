//! The audit trail. Records are written inside the transactions that they describe.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::sea_query::{Alias, ExprTrait, LikeExpr};

use super::entity::{audit, node, operator};
use crate::{Audit, AuditQuery, AuditRow, sql::prelude::*};

#[async_trait]
impl Audit for SqlStore {
    async fn record_audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        transaction!(self, "record_audit", |tx| {
            Ok(write(tx, entry.clone()).await?)
        })
    }

    async fn count_refusals(&self, refusals: Vec<(AuditEntry, u64)>) -> Result<(), StoreError> {
        transaction!(self, "count_refusals", |tx| {
            let counted = refusals.iter().map(|(entry, more)| {
                let more = i64::try_from(*more).unwrap_or(i64::MAX);
                (entry.clone(), more, fold(entry))
            });
            Ok(write_counted(tx, counted).await?)
        })
    }

    async fn find_audit(&self, org: OrgId, query: AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        let db = self.reader();
        let read = async {
            let mut select = audit::Entity::find()
                .filter(audit::Column::OrgId.eq(org.0))
                .filter(audit::Column::Id.lt(query.before.unwrap_or(i64::MAX)));
            if !query.action.is_empty() {
                // SQLite has no escape character unless the statement names one.
                let begin = LikeExpr::new(format!("{}%", literally(&query.action))).escape('\\');
                select = select.filter(audit::Column::Action.like(begin));
            }
            if query.refused {
                select = select.filter(audit::Column::Refusal.is_not_null());
            }
            if let Some(principal) = &query.principal {
                let (kind, id) = principal.parts();
                select = select.filter(audit::Column::Principal.eq(kind));
                if let Some(id) = id {
                    select = select.filter(audit::Column::PrincipalId.eq(id));
                }
            }
            let found = select
                .order_by_desc(audit::Column::Id)
                .limit(u64::from(query.limit))
                .all(db)
                .await?;
            let rows: Result<Vec<_>, DbErr> = found.into_iter().map(row).collect();
            let mut rows = rows?;
            name(db, &mut rows).await?;
            Ok(rows)
        };
        read.await.during("find_audit")
    }
}

/// Escapes the wildcards of LIKE in a text.
fn literally(text: &str) -> String {
    let escaped = text.chars().flat_map(|letter| {
        let special = matches!(letter, '%' | '_' | '\\');
        special.then_some('\\').into_iter().chain([letter])
    });
    escaped.collect()
}

/// Adds the display names of the authors.
async fn name(db: &impl ConnectionTrait, rows: &mut [AuditRow]) -> Result<(), DbErr> {
    let ids = |kind: &str| -> BTreeSet<i64> {
        let parts = rows.iter().map(|row| row.entry.actor.principal.parts());
        parts
            .filter(|(principal, _)| *principal == kind)
            .filter_map(|(_, id)| id)
            .collect()
    };
    let (operators, nodes) = (ids("operator"), ids("node"));
    let mut names: BTreeMap<(&str, i64), String> = BTreeMap::new();
    if !operators.is_empty() {
        let found = operator::Entity::find()
            .filter(operator::Column::Id.is_in(operators))
            .all(db)
            .await?;
        names.extend(
            found
                .into_iter()
                .map(|row| (("operator", row.id), row.email)),
        );
    }
    if !nodes.is_empty() {
        let found = node::Entity::find()
            .filter(node::Column::Id.is_in(nodes))
            .all(db)
            .await?;
        names.extend(found.into_iter().map(|row| (("node", row.id), row.name)));
    }
    for row in rows {
        if let (kind, Some(id)) = row.entry.actor.principal.parts() {
            row.name = names.get(&(kind, id)).cloned();
        }
    }
    Ok(())
}

/// Records an action in the transaction that performs it.
pub(crate) async fn done(
    tx: &impl ConnectionTrait,
    org: OrgId,
    actor: &Actor,
    action: &'static str,
    subject: String,
    at: Timestamp,
) -> Result<(), DbErr> {
    let entry = AuditEntry::done(org, actor.clone(), action, subject, at);
    write_counted(tx, [(entry, 1, None)]).await
}

/// Writes an entry in the transaction of the action that it describes.
pub(crate) async fn write(tx: &impl ConnectionTrait, entry: AuditEntry) -> Result<(), DbErr> {
    let fold = fold(&entry);
    write_counted(tx, [(entry, 1, fold)]).await
}

/// Writes records that stand for `count` actions each. A record whose `fold` value exists already adds its
/// count to the stored record.
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
            // NULL values never conflict in a unique index, so performed actions stay separate.
            OnConflict::column(audit::Column::Fold)
                .value(audit::Column::Count, count)
                .to_owned(),
        )
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// The key under which equal refusals are counted together. It is `None` for performed actions, which always
/// get a record of their own.
fn fold(entry: &AuditEntry) -> Option<String> {
    let AuditResult::Refused(reason) = &entry.result else {
        return None;
    };
    let (principal, id) = entry.actor.principal.parts();
    let minute = entry.at.as_millis().div_euclid(60_000);
    let org = entry.org.map_or(0, |org| org.0);
    // An unauthenticated peer of an organization aims at an account of it, which the subject names. Without the account
    // in the key, a failure elsewhere could absorb the ones against a victim. Other subjects are the peer's own text.
    let account = match (id, entry.org) {
        (Some(id), _) => id.to_string(),
        (None, Some(_)) => entry.subject.clone(),
        (None, None) => String::new(),
    };
    let from = entry
        .actor
        .from
        .map(|ip| ip.to_string())
        .unwrap_or_default();
    Some(format!(
        "{org}/{principal}/{account}/{from}/{minute}/{}/{reason}",
        entry.action
    ))
}

fn model(entry: AuditEntry, count: i64, fold: Option<String>) -> audit::ActiveModel {
    let (principal, principal_id) = entry.actor.principal.parts();
    let refusal = match entry.result {
        AuditResult::Done => None,
        AuditResult::Refused(reason) => Some(reason),
    };
    audit::ActiveModel {
        id: NotSet,
        org_id: Set(entry.org.map(|org| org.0)),
        principal: Set(principal.to_owned()),
        principal_id: Set(principal_id),
        from_address: Set(entry.actor.from.map(AsText)),
        action: Set(entry.action.into_owned()),
        subject: Set(entry.subject),
        refusal: Set(refusal),
        count: Set(count),
        at: Set(Micros(entry.at)),
        fold: Set(fold),
        sealed_seq: NotSet,
        sealed_count: NotSet,
        sealed_at: NotSet,
    }
}

/// Reads a record. An author of an unknown kind is an error: a trail that showed it as anonymous would hide tampering.
fn row(model: audit::Model) -> Result<AuditRow, DbErr> {
    let principal = match (model.principal.as_str(), model.principal_id) {
        ("operator", Some(id)) => Principal::Operator(OperatorId(id)),
        ("node", Some(id)) => Principal::Node(NodeId(id)),
        ("system", None) => Principal::System,
        ("anonymous", None) => Principal::Anonymous,
        (kind, id) => {
            let author = id.map_or_else(|| kind.to_owned(), |id| format!("{kind} {id}"));
            return Err(unreadable(
                "audit record",
                format!("its author is `{author}`"),
            ));
        }
    };
    Ok(AuditRow {
        id: model.id,
        count: read_count(model.count)?,
        seq: model.sealed_seq.and_then(|seq| u64::try_from(seq).ok()),
        name: None,
        entry: AuditEntry {
            org: model.org_id.map(OrgId),
            actor: Actor {
                principal,
                from: model.from_address.map(|ip| ip.0),
            },
            action: model.action.into(),
            subject: model.subject,
            result: model
                .refusal
                .map_or(AuditResult::Done, AuditResult::Refused),
            at: model.at.0,
        },
    })
}
