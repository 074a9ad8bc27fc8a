//! Who did what, on what, from where, with which result. Mutating operations write their own record
//! in their transaction; this is for what has no row of its own: refusals and sign-ins. One sealer links
//! the records afterwards, so that no writer waits for the chain.

use std::{borrow::Cow, net::IpAddr};

use async_trait::async_trait;
use fleet_core::{ChainHash, ChainHead, ChainRecord, NodeId, OperatorId, OrgId, Timestamp};

use crate::StoreError;

/// Whose action it was.
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

/// A action's author and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Whose action it was.
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
    /// The action in dotted form: `node.revoke`, `operator.sign_in`.
    pub action: Cow<'static, str>,
    /// What it was done on, such as `node 7`; at most 255 characters, no secrets.
    pub subject: String,
    /// How it ended.
    pub result: AuditResult,
    /// When.
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

/// A record as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Rises with time.
    pub id: i64,
    /// The record; of several alike the first.
    pub entry: AuditEntry,
    /// How many alike it stands for: refusals of one actor, action, reason and minute are one record.
    pub count: u64,
    /// Its place in the chain; none before it is sealed.
    pub seq: Option<u64>,
    /// The operator's e-mail or the node's name, for people; not part of the record.
    pub name: Option<String>,
}

impl Who {
    /// The kind of author, and its id.
    pub fn parts(&self) -> (&'static str, Option<i64>) {
        match self {
            Self::Operator(id) => ("operator", Some(id.0)),
            Self::Node(id) => ("node", Some(id.0)),
            Self::System => ("system", None),
            Self::Anonymous => ("anonymous", None),
        }
    }
}

/// Which records are wanted, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only records before this one; none begins with the newest.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u32,
    /// Only actions whose name begins so: `node.` or `scan.start`. Empty for all.
    pub action: String,
    /// Only what was refused.
    pub refused: bool,
    /// Only the actions of this author.
    pub who: Option<Who>,
}

/// A link of the chain, with the record as it is now and the count that the link states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLink {
    /// Its place, from 1, without gaps.
    pub seq: u64,
    /// The hash over it and all before.
    pub hash: ChainHash,
    /// The record; none when somebody has taken it away.
    pub record: Option<LinkedRecord>,
}

/// What a link states, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedRecord {
    /// The record's id.
    pub id: i64,
    /// When it happened.
    pub at: Timestamp,
    /// The kind of author.
    pub who: String,
    /// The author's id.
    pub who_id: Option<i64>,
    /// Where it came from.
    pub from: Option<String>,
    /// The action.
    pub action: String,
    /// What it was done on.
    pub subject: String,
    /// Why it was refused.
    pub refusal: Option<String>,
    /// How many alike it stood for when it was linked.
    pub count: u64,
}

impl LinkedRecord {
    /// The record as the chain reads it.
    pub fn as_chain(&self) -> ChainRecord<'_> {
        ChainRecord {
            id: self.id,
            at: self.at,
            who: &self.who,
            who_id: self.who_id,
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
    /// Writes one record; a refusal is counted on the record of its like within the same minute.
    async fn record_audit(&self, entry: AuditEntry) -> Result<(), StoreError>;

    /// The records of a tenant that a query asks for, newest first.
    async fn find_audit(&self, org: OrgId, query: AuditQuery) -> Result<Vec<AuditRow>, StoreError>;

    /// The records of a tenant before the record `before`, newest first, at most `limit`.
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
    /// Links every record that has no link yet, and again every record whose count has grown since its last
    /// link of a minute ago. Answers how many links were made. Several sealers take turns, chain by chain; a
    /// writer meets one only when it counts on the very record that is being linked.
    async fn seal_audit(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// The chains that have a link: of tenants, and of what concerns none.
    async fn audit_chains(&self) -> Result<Vec<Option<OrgId>>, StoreError>;

    /// Where a chain ends.
    async fn audit_head(&self, org: Option<OrgId>) -> Result<ChainHead, StoreError>;

    /// The links after a place, in order, at most `limit`.
    async fn audit_links(
        &self,
        org: Option<OrgId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditLink>, StoreError>;
}
