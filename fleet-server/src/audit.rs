//! Audit records of refused calls. The store records actions that were done, in the transaction that does them.
//!
//! Handlers describe a call as an [`Attempt`] and pass its result through [`Attempt::or_refused`].

use std::{
    collections::HashSet,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use fleet_core::{OrgId, Timestamp};
use fleet_store::{Actor, AuditEntry, AuditResult, NodeIdentity, Principal, Store};
use fleet_wire::{Code, RpcError};

use crate::{
    environment::Environment,
    failure::Refusal,
    limiter::{self, Limiter},
};

/// Longest subject of a record.
const SUBJECT_MOST: usize = 255;

/// Refusals of known actors that are remembered for a minute. Each further refusal costs a write, and is still one
/// record, because the store folds equal records.
const REMEMBERED: usize = 16_384;

/// Records refusals: one a minute for each actor, action and code, so that a flood cannot fill the audit trail.
///
/// Operators and nodes are remembered exactly, so that a flood by one hides no refusal of another. Unauthenticated
/// peers are unbounded in number: they share the cells of a limiter.
#[derive(Debug)]
pub(crate) struct Auditor {
    store: Arc<dyn Store>,
    environment: Arc<dyn Environment>,
    recent: Recent,
}

impl Auditor {
    pub(crate) fn new(store: Arc<dyn Store>, environment: Arc<dyn Environment>) -> Self {
        Self {
            store,
            environment,
            recent: Recent::new(),
        }
    }
}

#[derive(Debug)]
struct Recent {
    unauthenticated: Limiter,
    known: Mutex<Minute>,
}

#[derive(Debug, Default)]
struct Minute {
    number: i64,
    refused: HashSet<(&'static str, i64, &'static str, Code)>,
}

impl Recent {
    fn new() -> Self {
        Self {
            unauthenticated: Limiter::per_minute(NonZeroU32::MIN),
            known: Mutex::default(),
        }
    }

    /// Remembers a refusal, and returns whether it is the first of its kind in this minute.
    fn is_new(&self, actor: &Actor, action: &'static str, code: Code, now: Timestamp) -> bool {
        let (principal, Some(id)) = actor.principal.parts() else {
            let key = (actor.from.map(limiter::source), action, code);
            return self.unauthenticated.take(key).is_ok();
        };
        let mut minute = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = now.as_millis().div_euclid(60_000);
        if minute.number != number {
            minute.number = number;
            minute.refused.clear();
        }
        let key = (principal, id, action, code);
        if minute.refused.len() >= REMEMBERED {
            return !minute.refused.contains(&key);
        }
        minute.refused.insert(key)
    }
}

/// A call that may be refused: the caller, the action and its subject.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The tenant; none for unauthenticated callers.
    pub(crate) org: Option<OrgId>,
    pub(crate) actor: Actor,
    /// The name that the action has in the record of its success, such as `node.confirm`.
    pub(crate) action: &'static str,
    /// Contains no secrets.
    pub(crate) subject: String,
}

impl Attempt {
    /// A call without a valid credential.
    pub(crate) fn anonymous(from: IpAddr, action: &'static str, subject: String) -> Self {
        Self {
            org: None,
            actor: Actor {
                principal: Principal::Anonymous,
                from: Some(from),
            },
            action,
            subject,
        }
    }

    /// A call of a node with a session.
    pub(crate) fn by_node(
        node: &NodeIdentity,
        from: IpAddr,
        action: &'static str,
        subject: String,
    ) -> Self {
        Self {
            org: Some(node.org),
            actor: Actor {
                principal: Principal::Node(node.node),
                from: Some(from),
            },
            action,
            subject,
        }
    }

    /// Passes a success on, and records a failure as a refusal.
    ///
    /// # Errors
    ///
    /// The failure as the caller receives it.
    pub(crate) async fn or_refused<T>(
        self,
        auditor: &Auditor,
        result: Result<T, impl Refusal>,
    ) -> Result<T, RpcError> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(self.refused(auditor, error.refusal()).await),
        }
    }

    /// Records a refusal and returns it. Failures that are not refusals, such as a storage failure, leave no record.
    pub(crate) async fn refused(self, auditor: &Auditor, error: RpcError) -> RpcError {
        if !is_refusal(error.code) {
            return error;
        }
        let now = auditor.environment.now();
        if !auditor
            .recent
            .is_new(&self.actor, self.action, error.code, now)
        {
            return error;
        }
        let entry = AuditEntry {
            org: self.org,
            actor: self.actor,
            action: self.action.into(),
            subject: self.subject.chars().take(SUBJECT_MOST).collect(),
            result: AuditResult::Refused(error.message.clone()),
            at: now,
        };
        // The caller gets its refusal in any case: a full disk must not turn it into another
        // answer.
        if let Err(failure) = auditor.store.record_audit(entry).await {
            tracing::error!(action = self.action, error = %failure, "a refusal was not recorded");
        }
        error
    }
}

fn is_refusal(code: Code) -> bool {
    match code {
        Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Unauthenticated => true,
        Code::Canceled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
    }
}

#[cfg(test)]
mod tests {
    use fleet_core::NodeId;

    use super::*;

    fn node(id: i64) -> Actor {
        Actor {
            principal: Principal::Node(NodeId(id)),
            from: None,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_refusal_is_new_once_a_minute_for_each_actor_action_and_code() {
        let recent = Recent::new();
        let is_new =
            |id, action, code, seconds| recent.is_new(&node(id), action, code, at(seconds));
        assert!(is_new(1, "node.revoke", Code::NotFound, 60));
        assert!(!is_new(1, "node.revoke", Code::NotFound, 119));
        assert!(is_new(2, "node.revoke", Code::NotFound, 119));
        assert!(is_new(1, "node.confirm", Code::NotFound, 119));
        assert!(is_new(1, "node.revoke", Code::FailedPrecondition, 119));
        assert!(is_new(1, "node.revoke", Code::NotFound, 120));
    }

    #[test]
    fn a_flood_of_refusals_of_others_hides_no_refusal() {
        let recent = Recent::new();
        for id in 0..20_000 {
            assert!(
                recent.is_new(&node(id), "node.call", Code::NotFound, at(0)),
                "{id}"
            );
        }
        assert!(recent.known.lock().expect("not poisoned").refused.len() <= REMEMBERED);
    }
}
