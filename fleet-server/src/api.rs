//! The RPC services. Each module implements the services of one area for [`Api`]: it reads the request, calls one
//! operation, and writes the response.

mod accounts;
mod admin;
mod alerts;
mod audit;
mod details;
mod devices;
mod direct;
mod enrollment;
mod gateway;
mod keys;
mod nodes;
mod operators;
mod overview;
mod pairing;
mod results;
mod scans;
mod schedules;
pub(crate) mod search;
mod sites;

use std::sync::Arc;

use fleet_core::OrgId;
use fleet_wire::{Context, RpcError};

use crate::{app::App, auth::call_permit, call::OperatorCall};

/// Implements every service.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) app: Arc<App>,
}

impl Api {
    fn operator(&self, context: &Context) -> Result<OperatorCall, RpcError> {
        OperatorCall::new(&self.app, context)
    }

    /// Waits for one of the organization's slots for answers that are in memory as a whole, and keeps it until the answer
    /// is sent.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint when too many calls wait.
    async fn answer_whole(&self, context: &Context, org: OrgId) -> Result<(), RpcError> {
        let slot = self.app.whole_answers.wait(org).await?;
        call_permit(context)?.hold(slot);
        Ok(())
    }
}
