//! Operators, their keys and their browser sessions.

use std::net::IpAddr;

use async_trait::async_trait;
use fleet_core::{BrowserSessionId, KeyId, OperatorId, OrgId, Role, SecretHash, Timestamp};

use crate::{Actor, StoreError};

/// An operator to create.
#[derive(Clone, Debug)]
pub struct NewOperator {
    /// The organization's name; created when it does not exist.
    pub org: String,
    /// Unique within the organization, compared in lower case.
    pub email: String,
    /// What the operator may do.
    pub role: Role,
    /// The current time.
    pub now: Timestamp,
}

/// The credential that a caller presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// An API key.
    Key(KeyId),
    /// A browser's session.
    Session(BrowserSessionId),
}

/// The operator that a credential belongs to.
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
    /// The credential that was presented.
    pub credential: Credential,
}

/// A stored password.
#[derive(Clone)]
pub struct PasswordHash {
    /// The hash with its parameters and salt (PHC string format).
    pub phc: String,
    /// The expiry of a one-time password, which only serves to set another; `None` for other passwords.
    pub one_time_until: Option<Timestamp>,
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordHash")
            .field("one_time_until", &self.one_time_until)
            .finish_non_exhaustive()
    }
}

/// The credential that opens a browser session.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A key.
    Key(KeyId),
    /// A password, if its hash is still this one. The source is remembered as the operator's own.
    Password {
        /// The hash that was verified.
        phc: String,
        /// The source that sign-ins are counted by.
        source: Option<IpAddr>,
    },
}

/// A browser session to open.
#[derive(Clone, Debug)]
pub struct NewBrowserSession {
    /// The owner.
    pub operator: OperatorId,
    /// The credential.
    pub proof: Proof,
    /// The hash of its token.
    pub token: SecretHash,
    /// When it expires.
    pub expires: Timestamp,
    /// The browser's user agent, bounded by the caller.
    pub agent: String,
}

/// Why a browser session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenBrowserSessionError {
    /// The operator, the key or the password has changed.
    #[error("the credential is not valid any more")]
    Refused,
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why an operator could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateOperatorError {
    /// The e-mail is taken.
    #[error(
        "an operator of this organization has the e-mail `{0}` already: create another key for it with create-key, or choose another e-mail"
    )]
    EmailTaken(String),
    /// An organization has this name in another case.
    #[error(
        "there is no organization `{named}`, but there is `{existing}`: write the name in the same way, or choose another one"
    )]
    OrgDiffersInCase {
        /// The name that was given.
        named: String,
        /// The name of the existing organization.
        existing: String,
    },
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a key could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateKeyError {
    /// There is no such operator.
    #[error("no operator has the e-mail `{0}`: create one with create-operator first")]
    UnknownEmail(String),
    /// Operators of several organizations have this e-mail.
    #[error("operators of several organizations have the e-mail `{0}`: name one with --org")]
    AmbiguousEmail(String),
    /// The operator holds the most keys allowed.
    #[error("operator {0} has {limit} keys, the limit: revoke some first", limit = crate::KEYS_OF_AN_OPERATOR)]
    TooMany(OperatorId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Operators, their keys and their browser sessions.
#[async_trait]
pub trait Operators: Send + Sync {
    /// Returns whether the database can be reached; for readiness.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Whether any operator exists.
    async fn has_operators(&self) -> Result<bool, StoreError>;

    /// Creates an operator, and the organization when its name is new; with a password if one is given.
    async fn create_operator_with(
        &self,
        new: NewOperator,
        password: Option<PasswordHash>,
        actor: Actor,
    ) -> Result<OperatorId, CreateOperatorError>;

    /// Creates an operator without a password.
    async fn create_operator(
        &self,
        new: NewOperator,
        actor: Actor,
    ) -> Result<OperatorId, CreateOperatorError> {
        self.create_operator_with(new, None, actor).await
    }

    /// Stores a key's hash for the operator of this e-mail in the named organization, under a name.
    async fn create_operator_key_in(
        &self,
        org: Option<&str>,
        email: &str,
        key: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, CreateKeyError>;

    /// The same where the e-mail is in one organization only.
    async fn create_operator_key(
        &self,
        email: &str,
        key: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, CreateKeyError> {
        self.create_operator_key_in(None, email, key, actor, now)
            .await
    }

    /// Whether there is more than one organization.
    async fn has_several_orgs(&self) -> Result<bool, StoreError>;

    /// Whether the server's own network is an organization's: it has the name of the owner, in any case; without an owner,
    /// it is the only organization.
    async fn owns_network(&self, org: OrgId, owner: Option<&str>) -> Result<bool, StoreError>;

    /// The owner of a key; `None` when it is unknown, expired or revoked. Records the use, to the minute.
    async fn operator_by_key(
        &self,
        key: SecretHash,
        now: Timestamp,
    ) -> Result<Option<OperatorIdentity>, StoreError>;

    /// The owner of a browser session; `None` when it or its key is unknown or expired.
    async fn operator_by_session(
        &self,
        token: SecretHash,
        now: Timestamp,
    ) -> Result<Option<OperatorIdentity>, StoreError>;

    /// The owner of a credential that was valid before, if it still is.
    async fn operator_by_credential(
        &self,
        credential: Credential,
        now: Timestamp,
    ) -> Result<Option<OperatorIdentity>, StoreError>;

    /// Opens a browser session, with its audit record. Of more than 32 of one operator the oldest end.
    async fn open_browser_session(
        &self,
        new: NewBrowserSession,
        actor: Actor,
        now: Timestamp,
    ) -> Result<BrowserSessionId, OpenBrowserSessionError>;

    /// Ends a browser session, with its audit record; nothing happens when it is unknown.
    async fn close_browser_session(
        &self,
        token: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), StoreError>;
}
