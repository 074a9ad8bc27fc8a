//! The operations of enrollment, each a transaction around its steps. Start with [`members`] for what a
//! node goes through, [`invitations`] for the code it begins with.

mod invitations;
mod members;

use async_trait::async_trait;
use fleet_core::{NodeId, OrgId, PendingEnrollmentId, SecretHash, Timestamp};

use super::nodes::{self, Which};
use crate::{
    Actor, CancelCodeError, ConfirmError, CreateCodeError, Enrollment, Invitation, NewCode,
    NewNode, NodeRow, RegisterError, Registered, RevokeError, Revoked, SqlStore, StoreError,
};


