//! Who did what, on what, from where, with which result. Mutating operations write their own record
//! in their transaction; this is for what has no row of its own: refusals and sign-ins.

use std::{borrow::Cow, net::IpAddr};

use async_trait::async_trait;
use fleet_core::{NodeId, OperatorId, OrgId, Timestamp};

use crate::StoreError;

/// Whose deed it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// An operator.
    Operator(OperatorId),
    /// A node.
    Node(NodeId),
    /// The server itself: sweeps, deadlines.
    System,
    /// Nobody that is known.
    Anonymous,
}

/// A deed's author and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Whose deed it was.
    pub who: Who,
    /// The peer's address, if there is one.
    pub from: Option<IpAddr>,
}

impl Actor {
    /// The server itself.
    pub const SYSTEM: Self = Self {
        who: Who::System,
        from: None,
    };
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditResult {
    /// Done.
    Done,
    /// Refused, with the reason.
    Refused(String),
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// The tenant; none where nobody was recognized.
    pub org: Option<OrgId>,
    /// The author.
    pub actor: Actor,
    /// The deed in dotted form: `node.revoke`, `operator.sign_in`.
    pub action: Cow<'static, str>,
    /// What it was done on, such as `node 7`; at most 255 characters, no secrets.
    pub subject: String,
    /// How it ended.
    pub result: AuditResult,
    /// When.
    pub at: Timestamp,
}

impl AuditEntry {
    /// A deed that was done.
    pub fn done(
        org: OrgId,
        actor: Actor,
        action: &'static str,
        subject: String,
        at: Timestamp,
    ) -> Self {
        let result = AuditResult::Done;
        Self {
            org: Some(org),
            actor,
            action: action.into(),
            subject,
            result,
            at,
        }
    }
}

/// A record as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Rises with time.
    pub id: i64,
    /// The record; of several alike the first.
    pub entry: AuditEntry,
    /// How many alike it stands for: refusals of one actor, action, reason and minute are one record.
    pub count: u64,
}

/// The audit trail.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Writes one record; a refusal is counted on the record of its like within the same minute.
    async fn record_audit(&self, entry: AuditEntry) -> Result<(), StoreError>;

    /// The records of a tenant before the record `before`, newest first, at most `limit`.
    async fn list_audit(
        &self,
        org: OrgId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError>;
}
