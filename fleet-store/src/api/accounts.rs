//! What operators keep and administrators look after: passwords, sessions, keys, members of an organization.

use std::net::IpAddr;

use async_trait::async_trait;
use fleet_core::{BrowserSessionId, KeyId, OperatorId, OrgId, Role, SecretHash, Timestamp};

use crate::{Actor, PasswordHash, StoreError};

/// Keys of one operator that are not revoked.
pub const KEYS_OF_AN_OPERATOR: u64 = 100;

/// What a sign-in by password is judged by.
#[derive(Clone, Debug)]
pub struct Account {
    /// Whose.
    pub operator: OperatorId,
    /// The operator's organization.
    pub org: OrgId,
    /// The e-mail in canonical form.
    pub email: String,
    /// The stored password; none where the operator has keys only.
    pub password: Option<PasswordHash>,
    /// Whether the operator has signed in from this source before.
    pub known_source: bool,
}

/// A browser's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserSession {
    /// Its id.
    pub id: BrowserSessionId,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// From where it was opened.
    pub from: Option<IpAddr>,
    /// What the browser calls itself.
    pub agent: String,
    /// The key it was opened with; none for a password.
    pub key: Option<KeyId>,
}

/// A key that is not revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorKey {
    /// Its id.
    pub id: KeyId,
    /// Whose.
    pub operator: OperatorId,
    /// The operator's e-mail.
    pub email: String,
    /// What the operator calls it.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// A key to make.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Whose; of the same organization.
    pub operator: OperatorId,
    /// What the operator calls it, 1..=64 characters.
    pub name: String,
    /// The hash of the key.
    pub hash: SecretHash,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// A key that takes another one's place.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// The key to replace.
    pub key: KeyId,
    /// The hash of the new one.
    pub hash: SecretHash,
    /// When the older one dies at the latest.
    pub old_until: Timestamp,
}

/// Which keys a caller may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The caller's own.
    Own(OperatorId),
    /// Everybody's in the organization.
    Org,
}

/// Why a key could not be made, revoked or rotated.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No such live key within reach.
    #[error("key {0} is none that you look after: `fleetctl keys list` shows those there are")]
    NotFound(KeyId),
    /// No such operator in the organization.
    #[error("no operator {0} in this organization: `fleetctl operators list` shows them")]
    NoOperator(OperatorId),
    /// The operator has as many as may be.
    #[error("operator {0} has {KEYS_OF_AN_OPERATOR} keys, the limit: revoke some first")]
    TooMany(OperatorId),
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// An operator of an organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The operator.
    pub id: OperatorId,
    /// The e-mail.
    pub email: String,
    /// What the operator may do.
    pub role: Role,
    /// Since when.
    pub created_at: Timestamp,
    /// Whether there is a password to sign in with.
    pub has_password: bool,
    /// Keys that are neither revoked nor over.
    pub keys: u32,
}

/// Why an operator could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// No such operator in the organization.
    #[error("no operator {0} in this organization: `fleetctl operators list` shows them")]
    NotFound(OperatorId),
    /// Nobody would be left to administer the organization.
    #[error(
        "operator {0} is the last administrator of this organization: make somebody else an admin first"
    )]
    LastAdmin(OperatorId),
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Passwords and browser sessions of operators.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// What a sign-in by this e-mail from this source is judged by. Costs the same whether there is such an
    /// operator or not.
    async fn account(
        &self,
        email: &str,
        source: Option<IpAddr>,
    ) -> Result<Option<Account>, StoreError>;

    /// Sets an operator's password and ends the operator's browser sessions but `keep`. With an organization
    /// the operator must be its member. Audited.
    async fn set_password(
        &self,
        org: Option<OrgId>,
        operator: OperatorId,
        password: PasswordHash,
        keep: Option<BrowserSessionId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError>;

    /// An operator's browser sessions that are not over, newest first.
    async fn list_browser_sessions(
        &self,
        operator: OperatorId,
        now: Timestamp,
    ) -> Result<Vec<BrowserSession>, StoreError>;

    /// Ends one of an operator's browser sessions, audited. Answers whether there was such a one.
    async fn end_browser_session(
        &self,
        operator: OperatorId,
        session: BrowserSessionId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
}

/// API keys of operators.
#[async_trait]
pub trait Keys: Send + Sync {
    /// The keys within reach that are neither revoked nor over, oldest first; at most `limit`.
    async fn list_keys(
        &self,
        org: OrgId,
        reach: Reach,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<OperatorKey>, StoreError>;

    /// Makes a key. Audited.
    async fn create_key(
        &self,
        org: OrgId,
        new: NewKey,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, KeyError>;

    /// Revokes a key and ends the browser sessions that it opened. Audited.
    async fn revoke_key(
        &self,
        org: OrgId,
        reach: Reach,
        key: KeyId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), KeyError>;

    /// Makes a key of the same name and end as an older one, whose own end comes nearer. Audited.
    async fn rotate_key(
        &self,
        org: OrgId,
        reach: Reach,
        rotation: Rotation,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, KeyError>;
}

/// The operators of an organization, as administrators manage them.
#[async_trait]
pub trait Members: Send + Sync {
    /// The operators of an organization, oldest first.
    async fn list_members(&self, org: OrgId, now: Timestamp) -> Result<Vec<Member>, StoreError>;

    /// Gives an operator another role. Audited.
    async fn set_role(
        &self,
        org: OrgId,
        operator: OperatorId,
        role: Role,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError>;

    /// Removes an operator: keys and sessions are void, the e-mail is free, what the operator did stays on
    /// record. Audited.
    async fn remove_member(
        &self,
        org: OrgId,
        operator: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError>;
}
