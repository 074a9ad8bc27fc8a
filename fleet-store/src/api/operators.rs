//! Operators, their keys and their browser sessions.

use async_trait::async_trait;
use fleet_core::{KeyId, OperatorId, OrgId, Role, SecretHash, Timestamp};

use crate::{Actor, StoreError};

/// An operator to create.
#[derive(Clone, Debug)]
pub struct NewOperator {
    /// The organization's name; created when it does not exist.
    pub org: String,
    /// Unique over all organizations, compared in lower case.
    pub email: String,
    /// What the operator may do.
    pub role: Role,
    /// Now.
    pub now: Timestamp,
}

/// Who a credential belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorIdentity {
    /// The operator.
    pub operator: OperatorId,
    /// The operator's organization.
    pub org: OrgId,
    /// Its name.
    pub org_name: String,
    /// The operator's e-mail.
    pub email: String,
    /// What the operator may do.
    pub role: Role,
    /// The key that was presented, or that opened the session.
    pub key: KeyId,
}

/// Why an operator could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateOperatorError {
    /// The e-mail is taken.
    #[error(
        "an operator with the e-mail `{0}` exists already: make another key for it with create-key, or choose another e-mail"
    )]
    EmailTaken(String),
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a key could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateKeyError {
    /// There is no such operator.
    #[error("no operator has the e-mail `{0}`: create one with create-operator first")]
    UnknownEmail(String),
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Operators, their keys and their browser sessions.
#[async_trait]
pub trait Operators: Send + Sync {
    /// Answers whether the database can be reached; for readiness.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Whether any operator exists.
    async fn has_operators(&self) -> Result<bool, StoreError>;

    /// Creates an operator, and the organization when its name is new.
    async fn create_operator(
        &self,
        new: NewOperator,
        actor: Actor,
    ) -> Result<OperatorId, CreateOperatorError>;

    /// Stores a key's hash for the operator of this e-mail.
    async fn create_operator_key(
        &self,
        email: &str,
        key: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, CreateKeyError>;

    /// Who holds this key; none when it is unknown or revoked.
    async fn operator_by_key(
        &self,
        key: SecretHash,
    ) -> Result<Option<OperatorIdentity>, StoreError>;

    /// Opens a browser session for the holder of a key, with its audit record.
    async fn open_operator_session(
        &self,
        identity: &OperatorIdentity,
        token: SecretHash,
        expires: Timestamp,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Who holds this browser session; none when it is unknown, over, or its key revoked.
    async fn operator_by_session(
        &self,
        token: SecretHash,
        now: Timestamp,
    ) -> Result<Option<OperatorIdentity>, StoreError>;

    /// Ends a browser session; nothing happens when it is unknown.
    async fn close_operator_session(&self, token: SecretHash) -> Result<(), StoreError>;
}
