//! [`OperatorCall`]: the caller of an operator's procedure, with its actor for the audit trail and the time.

use std::{net::IpAddr, ops::Deref};

use fleet_core::Timestamp;
use fleet_store::{Actor, OperatorIdentity, Principal};
use fleet_wire::{Context, RpcError};

use crate::{app::App, audit::Attempt, auth};

/// A call of an operator. Dereferences to the operator's identity.
#[derive(Clone, Debug)]
pub(crate) struct OperatorCall {
    identity: OperatorIdentity,
    pub(crate) from: IpAddr,
    /// When the call arrived.
    pub(crate) now: Timestamp,
}

impl Deref for OperatorCall {
    type Target = OperatorIdentity;

    fn deref(&self) -> &OperatorIdentity {
        &self.identity
    }
}

impl OperatorCall {
    /// # Errors
    ///
    /// UNAUTHENTICATED when the caller is not an operator.
    pub(crate) fn new(app: &App, context: &Context) -> Result<Self, RpcError> {
        let (operator, from) = auth::calling_operator(context)?;
        Ok(Self {
            identity: operator.clone(),
            from,
            now: app.environment.now(),
        })
    }

    /// The author of the call's audit records.
    pub(crate) fn actor(&self) -> Actor {
        Actor {
            principal: Principal::Operator(self.operator),
            from: Some(self.from),
        }
    }

    /// The call as it is recorded if it is refused.
    pub(crate) fn attempt(&self, action: &'static str, subject: impl Into<String>) -> Attempt {
        Attempt {
            org: Some(self.org),
            actor: self.actor(),
            action,
            subject: subject.into(),
        }
    }
}
