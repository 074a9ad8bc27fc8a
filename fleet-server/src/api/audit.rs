//! `fleet.v1.AuditService`: the audit trail for administrators. Records are written by `audit` and the store.

use fleet_core::{NodeId, OperatorId};
use fleet_store::{AuditQuery, AuditResult, AuditRow, LinkedRecord, Principal};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        AuditLink, AuditRecord, AuditService, GetAuditHeadRequest, GetAuditHeadResponse,
        ListAuditLinksRequest, ListAuditLinksResponse, ListAuditRequest, ListAuditResponse,
    },
};

use super::Api;
use crate::{
    convert::{page_size, timestamp},
    failure::Answered,
};

/// Default and maximum number of records on a page.
const RECORDS: (u32, u32) = (50, 200);
/// Default and maximum number of links on a page.
const LINKS: (u32, u32) = (1_000, 1_000);

impl AuditService for Api {
    async fn list_audit(
        &self,
        context: Context,
        request: ListAuditRequest,
    ) -> Result<Reply<ListAuditResponse>, RpcError> {
        let call = self.operator(&context)?;
        let principal = match (request.operator_id, request.fleet_node_id) {
            (0, 0) => None,
            (id, 0) => Some(Principal::Operator(OperatorId(id))),
            (0, id) => Some(Principal::Node(NodeId(id))),
            (_, _) => {
                return Err(RpcError::invalid_argument(
                    "operator_id and fleet_node_id are both set: an action has one author",
                )
                .with_reason("INVALID_FIELD")
                .with_fact("field", "fleet_node_id"));
            }
        };
        let limit = page_size(request.limit, RECORDS.0, RECORDS.1);
        let query = AuditQuery {
            before: (request.before != 0).then_some(request.before),
            limit,
            action: request.action,
            refused: request.refused,
            principal,
        };
        let rows = self.app.store.find_audit(call.org, query).await;
        let rows = rows.answered()?;
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
        let call = self.operator(&context)?;
        let head = self.app.store.audit_head(Some(call.org)).await;
        let head = head.answered()?;
        Ok(Reply::new(GetAuditHeadResponse {
            seq: head.seq,
            hash: head.hash.0.to_vec().into(),
            organization_id: call.org.0,
        }))
    }

    async fn list_audit_links(
        &self,
        context: Context,
        request: ListAuditLinksRequest,
    ) -> Result<Reply<ListAuditLinksResponse>, RpcError> {
        let call = self.operator(&context)?;
        let limit = page_size(request.limit, LINKS.0, LINKS.1);
        let links = self
            .app
            .store
            .audit_links(Some(call.org), request.after, limit)
            .await
            .answered()?;
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
    let (actor, actor_id) = row.entry.actor.principal.parts();
    AuditRecord {
        id: row.id,
        at: Some(timestamp(row.entry.at)),
        actor: actor.to_owned(),
        actor_id,
        actor_name: row.name.unwrap_or_default(),
        from_address: row.entry.actor.from.map(|ip| ip.to_string()),
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
        actor: record.principal,
        actor_id: record.principal_id,
        actor_name: String::new(),
        from_address: record.from,
        action: record.action,
        subject: record.subject,
        refusal: record.refusal,
        count: record.count,
        seq: 0,
    }
}
