//! Records of what was refused. What was done is recorded by the store, in the transaction that does it.

use std::{
    collections::HashSet,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
};

use fleet_core::{OrgId, Timestamp};
use fleet_store::{Actor, AuditEntry, AuditResult};
use fleet_wire::{Code, RpcError};

use crate::{
    app::App,
    limiter::{self, Limiter},
};

/// Longest subject of a record.
const SUBJECT_MOST: usize = 255;

/// Refusals of known actors that are remembered for a minute. Whatever is beyond costs a write each, and is one
/// record still: the store folds what is alike.
const REMEMBERED: usize = 16_384;

/// The refusals that are on record for this minute: one for each actor, action and code.
///
/// Operators and nodes are told apart exactly, so that no flood hides another's refusal. Strangers are as many as
/// they like: they share the cells of a limiter.
#[derive(Debug)]
pub(crate) struct Refusals {
    strangers: Limiter,
    known: Mutex<Minute>,
}

#[derive(Debug, Default)]
struct Minute {
    number: i64,
    refused: HashSet<(&'static str, i64, &'static str, Code)>,
}

impl Refusals {
    pub(crate) fn new() -> Self {
        Self {
            strangers: Limiter::per_minute(NonZeroU32::MIN),
            known: Mutex::default(),
        }
    }

    /// Whether such a refusal is not on record yet; asked once, it is.
    fn is_news(&self, actor: &Actor, action: &'static str, code: Code, now: Timestamp) -> bool {
        let (who, Some(id)) = actor.who.parts() else {
            let key = (actor.from.map(limiter::source), action, code);
            return self.strangers.take(key).is_ok();
        };
        let mut minute = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = now.as_millis().div_euclid(60_000);
        if minute.number != number {
            minute.number = number;
            minute.refused.clear();
        }
        let key = (who, id, action, code);
        if minute.refused.len() >= REMEMBERED {
            return !minute.refused.contains(&key);
        }
        minute.refused.insert(key)
    }
}

/// What was attempted, and by whom.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The tenant; none where nobody was recognized.
    pub(crate) org: Option<OrgId>,
    /// Who tried.
    pub(crate) actor: Actor,
    /// The action, named as when it is done: `node.confirm`.
    pub(crate) action: &'static str,
    /// What it was tried on, without secrets.
    pub(crate) subject: String,
}

impl Attempt {
    /// Records a guard's refusal and hands it on. One record a minute for each actor, action and kind of
    /// refusal, so that nobody can flood the trail; trouble is no refusal and leaves no record.
    pub(crate) async fn refused(self, app: &App, error: RpcError) -> RpcError {
        if !is_refusal(error.code) {
            return error;
        }
        let now = app.environment.now();
        if !app
            .refusals
            .is_news(&self.actor, self.action, error.code, now)
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

#[cfg(test)]
mod tests {
    use fleet_core::NodeId;
    use fleet_store::Who;

    use super::*;

    fn node(id: i64) -> Actor {
        Actor {
            who: Who::Node(NodeId(id)),
            from: None,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_refusal_is_news_once_a_minute_for_each_actor_action_and_code() {
        let refusals = Refusals::new();
        let is_news =
            |id, action, code, seconds| refusals.is_news(&node(id), action, code, at(seconds));
        assert!(is_news(1, "node.revoke", Code::NotFound, 60));
        assert!(!is_news(1, "node.revoke", Code::NotFound, 119));
        assert!(is_news(2, "node.revoke", Code::NotFound, 119));
        assert!(is_news(1, "node.confirm", Code::NotFound, 119));
        assert!(is_news(1, "node.revoke", Code::FailedPrecondition, 119));
        assert!(is_news(1, "node.revoke", Code::NotFound, 120));
    }

    #[test]
    fn no_flood_of_others_hides_a_refusal() {
        let refusals = Refusals::new();
        for id in 0..20_000 {
            assert!(
                refusals.is_news(&node(id), "node.call", Code::NotFound, at(0)),
                "{id}"
            );
        }
        assert!(refusals.known.lock().expect("not poisoned").refused.len() <= REMEMBERED);
    }
}
