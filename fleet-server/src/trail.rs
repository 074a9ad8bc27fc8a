//! The audit trail as administrators read it. What is written to it, and when, is in `audit` and the store.

use fleet_core::{NodeId, OperatorId};
use fleet_store::{AuditQuery, AuditResult, AuditRow, LinkedRecord, Who};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        AuditLink, AuditRecord, AuditService, GetAuditHeadRequest, GetAuditHeadResponse,
        ListAuditLinksRequest, ListAuditLinksResponse, ListAuditRequest, ListAuditResponse,
    },
};

use crate::{auth::calling_operator, convert::timestamp, failure::Refusal, operators::OperatorApi};

/// Records of a page unless the caller says.
const RECORDS: u32 = 50;
/// Records of a page at the most.
const RECORDS_MOST: u32 = 200;
/// Links of a page at the most, and unless the caller says.
const LINKS_MOST: u32 = 1_000;

impl AuditService for OperatorApi {
    async fn list_audit(
        &self,
        context: Context,
        request: ListAuditRequest,
    ) -> Result<Reply<ListAuditResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let who = match (request.operator_id, request.fleet_node_id) {
            (0, 0) => None,
            (id, 0) => Some(Who::Operator(OperatorId(id))),
            (0, id) => Some(Who::Node(NodeId(id))),
            (_, _) => {
                return Err(RpcError::invalid_argument(
                    "operator_id and fleet_node_id are both set: a action has one author",
                ));
            }
        };
        let limit = match request.limit {
            0 => RECORDS,
            limit => limit.min(RECORDS_MOST),
        };
        let query = AuditQuery {
            before: (request.before != 0).then_some(request.before),
            limit,
            action: request.action,
            refused: request.refused,
            who,
        };
        let rows = self.app.store.find_audit(operator.org, query).await;
        let rows = rows.map_err(Refusal::refusal)?;
        let full = rows.len() >= limit as usize;
        let next_before = rows.last().filter(|_| full).map_or(0, |row| row.id);
        Ok(Reply::new(ListAuditResponse {
            records: rows.into_iter().map(record).collect(),
            next_before,
        }))
    }

    async fn get_audit_head(
        &self,
        context: Context,
        _: GetAuditHeadRequest,
    ) -> Result<Reply<GetAuditHeadResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let head = self.app.store.audit_head(Some(operator.org)).await;
        let head = head.map_err(Refusal::refusal)?;
        Ok(Reply::new(GetAuditHeadResponse {
            seq: head.seq,
            hash: head.hash.0.to_vec().into(),
            organization_id: operator.org.0,
        }))
    }

    async fn list_audit_links(
        &self,
        context: Context,
        request: ListAuditLinksRequest,
    ) -> Result<Reply<ListAuditLinksResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let limit = match request.limit {
            0 => LINKS_MOST,
            limit => limit.min(LINKS_MOST),
        };
        let links = self
            .app
            .store
            .audit_links(Some(operator.org), request.after, limit)
            .await
            .map_err(Refusal::refusal)?;
        let links = links.into_iter().map(|link| AuditLink {
            seq: link.seq,
            hash: link.hash.0.to_vec().into(),
            record: link.record.map(linked),
        });
        Ok(Reply::new(ListAuditLinksResponse {
            links: links.collect(),
        }))
    }
}

fn record(row: AuditRow) -> AuditRecord {
    let (who, who_id) = row.entry.actor.who.parts();
    AuditRecord {
        id: row.id,
        at: Some(timestamp(row.entry.at)),
        who: who.to_owned(),
        who_id,
        who_name: row.name.unwrap_or_default(),
        from: row.entry.actor.from.map(|ip| ip.to_string()),
        action: row.entry.action.into_owned(),
        subject: row.entry.subject,
        refusal: match row.entry.result {
            AuditResult::Done => None,
            AuditResult::Refused(reason) => Some(reason),
        },
        count: row.count,
        seq: row.seq.unwrap_or(0),
    }
}

fn linked(record: LinkedRecord) -> AuditRecord {
    AuditRecord {
        id: record.id,
        at: Some(timestamp(record.at)),
        who: record.who,
        who_id: record.who_id,
        who_name: String::new(),
        from: record.from,
        action: record.action,
        subject: record.subject,
        refusal: record.refusal,
        count: record.count,
        seq: 0,
    }
}
