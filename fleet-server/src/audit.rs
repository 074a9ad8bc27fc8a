//! Records of what was refused. What was done is recorded by the store, in the transaction that does it.

use fleet_core::OrgId;
use fleet_store::{Actor, AuditEntry, AuditResult};
use fleet_wire::{Code, RpcError};

use crate::{app::App, limiter};

/// Longest subject of a record.
const SUBJECT_MOST: usize = 255;

/// What was attempted, and by whom.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The tenant; none where nobody was recognized.
    pub(crate) org: Option<OrgId>,
    /// Who tried.
    pub(crate) actor: Actor,
    /// The deed, named as when it is done: `node.confirm`.
    pub(crate) action: &'static str,
    /// What it was tried on, without secrets.
    pub(crate) subject: String,
}

impl Attempt {
    /// Records a guard's refusal and hands it on. One record a minute for each actor, deed and kind of
    /// refusal, so that nobody can flood the trail; trouble is no refusal and leaves no record.
    pub(crate) async fn refused(self, app: &App, error: RpcError) -> RpcError {
        if !is_refusal(error.code) {
            return error;
        }
        let key = (
            format!("{:?}", self.actor.who),
            self.actor.from.map(limiter::source),
            self.action,
            error.code,
        );
        if app.refusals.take(key).is_err() {
            return error;
        }
        let entry = AuditEntry {
            org: self.org,
            actor: self.actor,
            action: self.action.into(),
            subject: self.subject.chars().take(SUBJECT_MOST).collect(),
            result: AuditResult::Refused(error.message.clone()),
            at: app.environment.now(),
        };
        if let Err(failure) = app.store.record_audit(entry).await {
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
