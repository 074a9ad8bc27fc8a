//! The audit trail: actor, action, subject, source address and result. Operations that change something write
//! their record in their own transaction. Refusals and sign-ins are recorded here. A sealer links the records
//! later, because no writer may wait for the chain.

use std::{borrow::Cow, net::IpAddr};

use async_trait::async_trait;
use fleet_core::{ChainHash, ChainHead, ChainRecord, NodeId, OperatorId, OrgId, Timestamp};

use crate::StoreError;

/// The author of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// An operator.
    Operator(OperatorId),
    /// A node.
    Node(NodeId),
    /// The server itself, for example in a sweep or at a deadline.
    System,
    /// An unauthenticated peer.
    Anonymous,
}

/// The author of an action, and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The author.
    pub principal: Principal,
    /// The peer's address, if there is one.
    pub from: Option<IpAddr>,
}

impl Actor {
    /// The server itself, which has no address.
    pub const SYSTEM: Self = Self {
        principal: Principal::System,
        from: None,
    };
}

/// The result of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditResult {
    /// It was performed.
    Done,
    /// It was refused, with this reason.
    Refused(String),
}

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// The organization; `None` when the caller is unauthenticated.
    pub org: Option<OrgId>,
    /// The author and its address.
    pub actor: Actor,
    /// The action in dotted form: `node.revoke`, `operator.sign_in`.
    pub action: Cow<'static, str>,
    /// The object of the action, such as `node 7`; at most 255 characters, no secrets.
    pub subject: String,
    /// The result of an action.
    pub result: AuditResult,
    /// When the action happened.
    pub at: Timestamp,
}

impl AuditEntry {
    /// The entry of an action that was performed.
    pub fn done(
        org: OrgId,
        actor: Actor,
        action: &'static str,
        subject: String,
        at: Timestamp,
    ) -> Self {
        Self {
            org: Some(org),
            actor,
            action: action.into(),
            subject,
            result: AuditResult::Done,
            at,
        }
    }
}

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its id. Later records have higher ids.
    pub id: i64,
    /// The record. For refusals counted together, this is the first one.
    pub entry: AuditEntry,
    /// The number of occurrences. Refusals with the same actor, action, reason and minute share one record.
    pub count: u64,
    /// Its sequence number in the chain; `None` until it is sealed.
    pub seq: Option<u64>,
    /// The operator's e-mail or the node's name, for display. It is not part of the record.
    pub name: Option<String>,
}

impl Principal {
    /// Returns the kind and the id of the author.
    pub fn parts(&self) -> (&'static str, Option<i64>) {
        match self {
            Self::Operator(id) => ("operator", Some(id.0)),
            Self::Node(id) => ("node", Some(id.0)),
            Self::System => ("system", None),
            Self::Anonymous => ("anonymous", None),
        }
    }
}

/// A query for records, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only records before this one; `None` starts with the newest.
    pub before: Option<i64>,
    /// The most records to return.
    pub limit: u32,
    /// Only actions whose name has this prefix, such as `node.` or `scan.start`. Empty for all actions.
    pub action: String,
    /// Only refusals.
    pub refused: bool,
    /// Only the actions of this author.
    pub principal: Option<Principal>,
}

/// A link of the chain, with the current record and the count that the link states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLink {
    /// Its sequence number, from 1, without gaps.
    pub seq: u64,
    /// The hash over this link and all before it.
    pub hash: ChainHash,
    /// The record; `None` when it was deleted.
    pub record: Option<LinkedRecord>,
}

/// The content of a link, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedRecord {
    /// The record's id.
    pub id: i64,
    /// When it happened.
    pub at: Timestamp,
    /// The kind of author.
    pub principal: String,
    /// The author's id.
    pub principal_id: Option<i64>,
    /// The address of the author.
    pub from: Option<String>,
    /// The action.
    pub action: String,
    /// The object of the action.
    pub subject: String,
    /// The reason of a refusal.
    pub refusal: Option<String>,
    /// The number of occurrences when the link was made.
    pub count: u64,
}

impl LinkedRecord {
    /// The record in the form that the chain hashes.
    pub fn as_chain(&self) -> ChainRecord<'_> {
        ChainRecord {
            id: self.id,
            at: self.at,
            principal: &self.principal,
            principal_id: self.principal_id,
            from: self.from.as_deref(),
            action: &self.action,
            subject: &self.subject,
            refusal: self.refusal.as_deref(),
            count: self.count,
        }
    }
}

/// The audit trail.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Writes one record. A refusal is added to an equal refusal of the same minute.
    async fn record_audit(&self, entry: AuditEntry) -> Result<(), StoreError>;

    /// Adds to the counts of recorded refusals. Each entry is the one that was recorded, with the number of further
    /// refusals of its organization, account, source, action and reason in its minute. An unrecorded entry is recorded.
    async fn count_refusals(&self, refusals: Vec<(AuditEntry, u64)>) -> Result<(), StoreError>;

    /// Lists the records of an organization that match a query, newest first.
    async fn find_audit(&self, org: OrgId, query: AuditQuery) -> Result<Vec<AuditRow>, StoreError>;

    /// Lists the records of an organization before the record `before`, newest first, at most `limit`.
    async fn list_audit(
        &self,
        org: OrgId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let query = AuditQuery {
            before,
            limit,
            ..AuditQuery::default()
        };
        self.find_audit(org, query).await
    }
}

/// The hash chain over the audit trail.
#[async_trait]
pub trait AuditChain: Send + Sync {
    /// Links every record that has no link yet. A record whose count has grown is linked again, a minute after
    /// its last link. Returns the number of new links. Several sealers can run at once, because each locks one
    /// chain at a time.
    async fn seal_audit(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Lists the chains that have a link: one for each organization, and one for records without one.
    async fn audit_chains(&self) -> Result<Vec<Option<OrgId>>, StoreError>;

    /// Returns the head of a chain.
    async fn audit_head(&self, org: Option<OrgId>) -> Result<ChainHead, StoreError>;

    /// Lists the links after a sequence number, in order, at most `limit`.
    async fn audit_links(
        &self,
        org: Option<OrgId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditLink>, StoreError>;
}
