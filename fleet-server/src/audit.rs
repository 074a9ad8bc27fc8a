//! Audit records of refused calls. The store records actions that were done, in the transaction that does them.
//!
//! Handlers describe a call as an [`Attempt`] and pass its result through [`Attempt::or_refused`].

mod recent;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fleet_core::OrgId;
use fleet_store::{Actor, AuditEntry, AuditResult, NodeIdentity, Principal, Store};
use fleet_wire::{Code, RpcError};

use self::recent::Recent;
use crate::{environment::Environment, failure::Refusal};

/// Longest subject of a record.
const SUBJECT_MOST: usize = 255;

/// Records refusals: one record a minute for each organization, account, source, action and code, with a count. A flood
/// therefore cannot fill the audit trail, and no flood hides the refusals of another account or source.
#[derive(Debug)]
pub(crate) struct Auditor {
    store: Arc<dyn Store>,
    environment: Arc<dyn Environment>,
    recent: Mutex<Recent>,
}

impl Auditor {
    pub(crate) fn new(store: Arc<dyn Store>, environment: Arc<dyn Environment>) -> Self {
        Self {
            store,
            environment,
            recent: Mutex::default(),
        }
    }

    /// Adds the refusals that were only counted to their records: those of past minutes, or all before the server ends.
    pub(crate) async fn flush(&self, all: bool) {
        let now = self.environment.now();
        let counted = self.lock().take_counted(now, all);
        if counted.is_empty() {
            return;
        }
        if let Err(failure) = self.store.count_refusals(counted.clone()).await {
            let lost = self.lock().put_back(counted);
            tracing::error!(error = %failure, lost, "repeated refusals are not yet counted in the audit trail");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
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
        let entry = AuditEntry {
            org: self.org,
            actor: self.actor,
            action: self.action.into(),
            subject: self.subject.chars().take(SUBJECT_MOST).collect(),
            result: AuditResult::Refused(error.message.clone()),
            at: now,
        };
        let Some(entry) = auditor.lock().add(entry, error.code) else {
            return error;
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
