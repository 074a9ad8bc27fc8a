//! Bounds of the questions about the audit trail.

use super::{Checked, Validate, at_most, not_negative, text};
use crate::fleet::{GetAuditHeadRequest, ListAuditLinksRequest, ListAuditRequest};

super::unbounded!(GetAuditHeadRequest);

impl Validate for ListAuditRequest {
    fn validate(&self) -> Checked {
        at_most("limit", self.limit.into(), 200)?;
        not_negative("before", self.before)?;
        text("action", &self.action, 0, 64)?;
        not_negative("operator_id", self.operator_id)?;
        not_negative("fleet_node_id", self.fleet_node_id)
    }
}

impl Validate for ListAuditLinksRequest {
    fn validate(&self) -> Checked {
        at_most("limit", self.limit.into(), 1_000)
    }
}
