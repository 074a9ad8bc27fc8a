//! Sealing: records get their sequence number and hash after they were written, in separate transactions.
//!
//! A sealer locks the row of a chain's head before it writes. The primary key of the links prevents two links
//! with the same sequence number. Unsealed records are found by their missing link, never by a cursor over ids:
//! PostgreSQL may commit a lower id after a higher one.

use std::{collections::HashMap, time::Duration};

use fleet_core::{ChainHash, ChainHead};
use sea_orm::{Statement, sea_query::ExprTrait};

use super::{
    entity::{audit, audit_head, audit_link},
    inserts,
};
use crate::{AuditChain, AuditLink, LinkedRecord, sql::prelude::*};

/// The most links written in one transaction.
const LINKS: u64 = 512;
/// The most chains returned by one query.
const CHAINS: u64 = 256;
/// The minimum interval between two links of a record whose count grows. Refusals are grouped by minute, so the
/// second link of a record is final.
const GROWN: Duration = Duration::from_secs(60);

#[async_trait]
impl AuditChain for SqlStore {
    async fn seal_audit(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut sealed = 0;
        loop {
            let waiting = waiting(self.reader(), now).await.during("seal_audit")?;
            let mut more = waiting.len() as u64 == CHAINS;
            for chain in waiting {
                let links: Result<u64, StoreError> = transaction!(self, "seal_audit", |tx| {
                    let mut head = lock(tx, chain).await?;
                    let before = head.seq;
                    let of_chain = match chain {
                        0 => audit::Column::OrgId.is_null(),
                        org => audit::Column::OrgId.eq(org),
                    };
                    let rows = audit::Entity::find()
                        .filter(of_chain)
                        .filter(unsealed(now))
                        .order_by_asc(audit::Column::Id)
                        .limit(LINKS)
                        .all(tx)
                        .await?;
                    let mut links = Vec::with_capacity(rows.len());
                    for row in rows {
                        let (id, stated) = (row.id, row.count);
                        head = head.next(org_of(chain), &linked(row, stated).as_chain());
                        links.push(audit_link::ActiveModel {
                            chain: Set(chain),
                            seq: Set(count(head.seq)),
                            audit_id: Set(id),
                            count: Set(stated),
                            hash: Set(Bytes32(head.hash.0)),
                        });
                    }
                    if links.is_empty() {
                        return Ok(0);
                    }
                    let made = links.len() as u64;
                    inserts::all(tx, links).await?;
                    audit_head::Entity::update_many()
                        .col_expr(audit_head::Column::Seq, Expr::value(count(head.seq)))
                        .col_expr(audit_head::Column::Hash, Expr::value(Bytes32(head.hash.0)))
                        .filter(audit_head::Column::Chain.eq(chain))
                        .exec(tx)
                        .await?;
                    // This step comes last: it locks records whose counts other transactions may be
                    // increasing.
                    let mark = "UPDATE audit SET sealed_seq = audit_link.seq, sealed_count = audit_link.count, sealed_at = $1 \
                FROM audit_link WHERE audit_link.audit_id = audit.id AND audit_link.chain = $2 AND audit_link.seq > $3";
                    let values = [now.as_micros().into(), chain.into(), count(before).into()];
                    let mark =
                        Statement::from_sql_and_values(tx.get_database_backend(), mark, values);
                    tx.execute_raw(mark).await?;
                    Ok(made)
                });
                let links = links?;
                sealed += links;
                more |= links == LINKS;
            }
            if !more {
                return Ok(sealed);
            }
        }
    }

    async fn audit_chains(&self) -> Result<Vec<Option<OrgId>>, StoreError> {
        let db = self.reader();
        let read = async {
            let rows = audit_head::Entity::find()
                .order_by_asc(audit_head::Column::Chain)
                .all(db)
                .await?;
            Ok(rows.into_iter().map(|row| org_of(row.chain)).collect())
        };
        read.await.during("audit_chains")
    }

    async fn audit_head(&self, org: Option<OrgId>) -> Result<ChainHead, StoreError> {
        let db = self.reader();
        let read = async {
            let row = audit_head::Entity::find_by_id(chain_of(org))
                .one(db)
                .await?;
            Ok(row.map_or(ChainHead::START, stored))
        };
        read.await.during("audit_head")
    }

    async fn audit_links(
        &self,
        org: Option<OrgId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditLink>, StoreError> {
        let db = self.reader();
        let read = async {
            let links = audit_link::Entity::find()
                .filter(audit_link::Column::Chain.eq(chain_of(org)))
                .filter(audit_link::Column::Seq.gt(count(after)))
                .order_by_asc(audit_link::Column::Seq)
                .limit(u64::from(limit))
                .all(db)
                .await?;
            let ids: Vec<_> = links.iter().map(|link| link.audit_id).collect();
            let mut records = HashMap::new();
            // Stays within the bind limits of the databases.
            for ids in ids.chunks(10_000) {
                let rows = audit::Entity::find()
                    .filter(audit::Column::Id.is_in(ids.iter().copied()))
                    .all(db)
                    .await?;
                let ours = rows
                    .into_iter()
                    .filter(|row| row.org_id == org.map(|org| org.0));
                records.extend(ours.map(|row| (row.id, row)));
            }
            let links = links.into_iter().map(|link| AuditLink {
                seq: link.seq.try_into().unwrap_or(0),
                hash: ChainHash(link.hash.0),
                record: records.get(&link.audit_id).map(|row| {
                    // A count may have grown since its newest link. A smaller count was changed by hand.
                    let newest = row.sealed_seq == Some(link.seq);
                    let bound = if newest { row.count } else { i64::MAX };
                    let stated = Ord::min(link.count, bound);
                    linked(row.clone(), stated)
                }),
            });
            Ok(links.collect())
        };
        read.await.during("audit_links")
    }
}

/// The condition of the index of unsealed records, repeated exactly, and the delay before a grown count is
/// linked.
fn unsealed(now: Timestamp) -> Expr {
    Expr::cust("(sealed_count IS NULL OR sealed_count < count)").and(
        audit::Column::SealedAt
            .is_null()
            .or(audit::Column::SealedAt.lte(Micros(now.minus(GROWN)))),
    )
}

/// The chains that have records to link. Records without an organization belong to chain 0.
async fn waiting(db: &impl ConnectionTrait, now: Timestamp) -> Result<Vec<i64>, DbErr> {
    let chains: Vec<Option<i64>> = audit::Entity::find()
        .select_only()
        .column(audit::Column::OrgId)
        .filter(unsealed(now))
        .distinct()
        .limit(CHAINS)
        .into_tuple()
        .all(db)
        .await?;
    Ok(chains
        .into_iter()
        .map(|chain| chain.unwrap_or_default())
        .collect())
}

/// Locks a chain by its head. A missing head is created.
async fn lock(tx: &DatabaseTransaction, chain: i64) -> Result<ChainHead, DbErr> {
    let start = audit_head::ActiveModel {
        chain: Set(chain),
        seq: Set(0),
        hash: Set(Bytes32(ChainHead::START.hash.0)),
    };
    audit_head::Entity::insert(start)
        .on_conflict(
            OnConflict::column(audit_head::Column::Chain)
                .do_nothing()
                .to_owned(),
        )
        .exec_without_returning(tx)
        .await?;
    let row = audit_head::Entity::find_by_id(chain)
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await?;
    Ok(row.map_or(ChainHead::START, stored))
}

fn linked(row: audit::Model, stated: i64) -> LinkedRecord {
    LinkedRecord {
        id: row.id,
        at: row.at.0,
        principal: row.principal,
        principal_id: row.principal_id,
        from: row.from_address.map(|ip| ip.0.to_string()),
        action: row.action,
        subject: row.subject,
        refusal: row.refusal,
        // Verification must report a count that was changed by hand. A negative count therefore does not abort
        // it.
        count: u64::try_from(stated).unwrap_or(0),
    }
}

fn stored(row: audit_head::Model) -> ChainHead {
    ChainHead {
        // A head that was changed by hand matches no link, as above.
        seq: u64::try_from(row.seq).unwrap_or(0),
        hash: ChainHash(row.hash.0),
    }
}

fn chain_of(org: Option<OrgId>) -> i64 {
    org.map_or(0, |org| org.0)
}

fn org_of(chain: i64) -> Option<OrgId> {
    (chain != 0).then_some(OrgId(chain))
}
