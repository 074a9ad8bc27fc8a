//! Bounds of what looks after operators, keys and sessions.

use super::{BrokenBound, Checked, Validate, id, not_negative, text};
use crate::fleet::{
    ChangePasswordRequest, CreateKeyRequest, CreateOperatorRequest, EndSessionRequest,
    ListKeysRequest, ListOperatorsRequest, ListSessionsRequest, RemoveOperatorRequest,
    ResetOperatorPasswordRequest, RevokeKeyRequest, RotateKeyRequest, SetOperatorRoleRequest,
};

/// The longest that a key may be told to live: ten years.
const MAX_KEY_SECONDS: i64 = 3_653 * 24 * 3_600;
/// The shortest: what is over before it is copied helps nobody.
const MIN_KEY_SECONDS: i64 = 60;
/// The longest that an older key lives on: 30 days.
const MAX_GRACE_SECONDS: i64 = 30 * 24 * 3_600;
/// Longer than any password may be.
const PASSWORD: usize = 1_024;

super::unbounded!(ListKeysRequest, ListOperatorsRequest, ListSessionsRequest);

fn seconds(field: &str, wanted: Option<&pbjson_types::Duration>, least: i64, most: i64) -> Checked {
    match wanted {
        Some(wanted) if !(least..=most).contains(&wanted.seconds) => Err(BrokenBound::new(
            field,
            format_args!("{least} to {most} seconds, found {}", wanted.seconds),
        )),
        Some(_) | None => Ok(()),
    }
}

impl Validate for CreateKeyRequest {
    fn validate(&self) -> Checked {
        text("name", &self.name, 1, 64)?;
        let wanted = self.expires_in.as_ref();
        seconds("expires_in", wanted, MIN_KEY_SECONDS, MAX_KEY_SECONDS)?;
        not_negative("operator_id", self.operator_id)
    }
}

impl Validate for RevokeKeyRequest {
    fn validate(&self) -> Checked {
        id("key_id", self.key_id)
    }
}

impl Validate for RotateKeyRequest {
    fn validate(&self) -> Checked {
        id("key_id", self.key_id)?;
        seconds("grace", self.grace.as_ref(), 0, MAX_GRACE_SECONDS)
    }
}

impl Validate for CreateOperatorRequest {
    fn validate(&self) -> Checked {
        text("email", &self.email, 3, 254)?;
        text("role", &self.role, 1, 16)
    }
}

impl Validate for SetOperatorRoleRequest {
    fn validate(&self) -> Checked {
        id("operator_id", self.operator_id)?;
        text("role", &self.role, 1, 16)
    }
}

impl Validate for RemoveOperatorRequest {
    fn validate(&self) -> Checked {
        id("operator_id", self.operator_id)
    }
}

impl Validate for ResetOperatorPasswordRequest {
    fn validate(&self) -> Checked {
        id("operator_id", self.operator_id)
    }
}

impl Validate for EndSessionRequest {
    fn validate(&self) -> Checked {
        id("session_id", self.session_id)
    }
}

impl Validate for ChangePasswordRequest {
    fn validate(&self) -> Checked {
        text("current_password", &self.current_password, 0, PASSWORD)?;
        text("new_password", &self.new_password, 1, PASSWORD)
    }
}
