//! Passwords, browser sessions, API keys and members of an organization.

use std::net::IpAddr;

use async_trait::async_trait;
use fleet_core::{BrowserSessionId, KeyId, OperatorId, OrgId, Role, SecretHash, Timestamp};

use crate::{Actor, Credential, ListPage, PasswordHash, StoreError};

/// The most keys that one operator can hold. Revoked keys do not count.
pub const KEYS_OF_AN_OPERATOR: u64 = 100;

/// The data that a sign-in by password is checked against.
#[derive(Clone, Debug)]
pub struct Account {
    /// The owner.
    pub operator: OperatorId,
    /// The operator's organization.
    pub org: OrgId,
    /// The e-mail in canonical form.
    pub email: String,
    /// The stored password; `None` for an operator that has only keys.
    pub password: Option<PasswordHash>,
    /// Whether the operator has signed in from this source address before.
    pub known_source: bool,
}

/// A browser session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserSession {
    /// Its id.
    pub id: BrowserSessionId,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The address it was opened from.
    pub from: Option<IpAddr>,
    /// The browser's user agent.
    pub agent: String,
    /// The key it was opened with.
    pub key: Option<KeyId>,
    /// The issuer whose account opened it. Without key and issuer, a password opened it.
    pub issuer: Option<String>,
}

/// A key that is not revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorKey {
    /// Its id.
    pub id: KeyId,
    /// The owner.
    pub operator: OperatorId,
    /// The operator's e-mail.
    pub email: String,
    /// The name that the operator gave it.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// When it expires, if it does.
    pub expires_at: Option<Timestamp>,
    /// The key that created this one. It expires with that key and is revoked with it.
    pub made_by: Option<KeyId>,
}

/// A key to create.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The owner, of the same organization.
    pub operator: OperatorId,
    /// Its name, 1 to 64 characters.
    pub name: String,
    /// The hash of the key.
    pub hash: SecretHash,
    /// When it expires, if it does.
    pub expires_at: Option<Timestamp>,
    /// The credential that makes it.
    pub maker: Option<Credential>,
}

/// A key that was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedKey {
    /// Its id.
    pub id: KeyId,
    /// When it expires, if it does: not later than the key that made it.
    pub expires_at: Option<Timestamp>,
}

/// The replacement of a key.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// The key to replace.
    pub key: KeyId,
    /// The hash of the new key.
    pub hash: SecretHash,
    /// When the old key expires at the latest.
    pub old_until: Timestamp,
    /// The credential that makes the new key.
    pub maker: Option<Credential>,
}

/// The set of keys that a caller may manage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyScope {
    /// The caller's own keys.
    Own(OperatorId),
    /// Every key of the organization.
    Org,
}

/// Why a key could not be created, revoked or rotated.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The caller manages no live key of this id.
    #[error("no key {0} that you can manage: `fleetctl keys list` shows the keys")]
    NotFound(KeyId),
    /// No such operator in the organization.
    #[error("no operator {0} in this organization: `fleetctl operators list` shows them")]
    NoOperator(OperatorId),
    /// The operator holds the most keys allowed.
    #[error("operator {0} has {KEYS_OF_AN_OPERATOR} keys, the limit: revoke some first")]
    TooMany(OperatorId),
    /// The credential of the call has ended.
    #[error("the key or session of this call is no longer valid: sign in again")]
    MakerEnded,
    /// The key of the call was made with the key that it would replace.
    #[error(
        "key {0} made the key of this call, which ends with it: replace {0} with {0} itself, or sign in with a password"
    )]
    MadeByIt(KeyId),
    /// The database failed.
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
    /// The operator's role.
    pub role: Role,
    /// When the operator was created.
    pub created_at: Timestamp,
    /// Whether the operator can sign in with a password.
    pub has_password: bool,
    /// The issuer of the account that is linked.
    pub issuer: Option<String>,
    /// Keys that are neither revoked nor expired.
    pub keys: u32,
}

/// A browser session and its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSession {
    /// The owner.
    pub operator: OperatorId,
    /// The owner's e-mail.
    pub email: String,
    /// The session.
    pub session: BrowserSession,
}

/// Why an operator could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// No such operator in the organization.
    #[error("no operator {0} in this organization: `fleetctl operators list` shows them")]
    NotFound(OperatorId),
    /// The organization would have no administrator left.
    #[error(
        "operator {0} is the last administrator of this organization: give another operator the role admin first"
    )]
    LastAdmin(OperatorId),
    /// No account of a sign-in provider is linked.
    #[error("operator {0} is linked to no account of a sign-in provider")]
    NotLinked(OperatorId),
    /// The password was changed since it was verified.
    #[error("the password of operator {0} was changed meanwhile: sign in with the new one")]
    PasswordChanged(OperatorId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Passwords and browser sessions of operators.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Returns the account to check a sign-in against: the one of the named organization, or the oldest one with this
    /// e-mail. It takes the same time whether or not the operator and the organization exist.
    async fn account_in(
        &self,
        org: Option<&str>,
        email: &str,
        source: Option<IpAddr>,
    ) -> Result<Option<Account>, StoreError>;

    /// The same without an organization.
    async fn account(
        &self,
        email: &str,
        source: Option<IpAddr>,
    ) -> Result<Option<Account>, StoreError> {
        self.account_in(None, email, source).await
    }

    /// The names of the organizations in which an operator has this e-mail, oldest account first.
    async fn orgs_of_email(&self, email: &str) -> Result<Vec<String>, StoreError>;

    /// Sets an operator's password and ends the operator's browser sessions except `keep`. If an organization
    /// is given, the operator must be a member of it. Audited.
    async fn set_password(
        &self,
        org: Option<OrgId>,
        operator: OperatorId,
        password: PasswordHash,
        keep: Option<BrowserSessionId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError>;

    /// Sets an operator's own password as [`Accounts::set_password`] does, if the stored hash is still the one that was
    /// verified. A reset by an administrator in between therefore wins, and a one-time password is exchanged once.
    async fn replace_password(
        &self,
        operator: OperatorId,
        verified: Option<String>,
        password: PasswordHash,
        keep: Option<BrowserSessionId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError>;

    /// Lists an operator's live browser sessions, newest first.
    async fn list_browser_sessions(
        &self,
        operator: OperatorId,
        now: Timestamp,
    ) -> Result<Vec<BrowserSession>, StoreError>;

    /// Ends one of an operator's browser sessions, audited. Returns whether the session existed.
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
    /// Lists the live keys that the caller manages, oldest first, at most `limit`.
    async fn list_keys(
        &self,
        org: OrgId,
        reach: KeyScope,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<OperatorKey>, StoreError>;

    /// Creates a key. It expires with the key that made it, at the latest, and is revoked with it. Audited.
    async fn create_key(
        &self,
        org: OrgId,
        new: NewKey,
        actor: Actor,
        now: Timestamp,
    ) -> Result<CreatedKey, KeyError>;

    /// Revokes a key and all keys that were made with it, and ends the browser sessions that they opened. Audited.
    async fn revoke_key(
        &self,
        org: OrgId,
        reach: KeyScope,
        key: KeyId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), KeyError>;

    /// Creates a key with the name and expiry of an older key, and shortens the expiry of the older one. Keys that the
    /// older one made belong to the new one. Audited.
    async fn rotate_key(
        &self,
        org: OrgId,
        reach: KeyScope,
        rotation: Rotation,
        actor: Actor,
        now: Timestamp,
    ) -> Result<KeyId, KeyError>;
}

/// Management of an organization's operators by administrators.
#[async_trait]
pub trait Members: Send + Sync {
    /// Lists the operators of an organization, oldest first.
    async fn list_members(
        &self,
        org: OrgId,
        page: ListPage,
        now: Timestamp,
    ) -> Result<Vec<Member>, StoreError>;

    /// Lists the live browser sessions of all operators of an organization, newest first, at most `limit`.
    async fn list_member_sessions(
        &self,
        org: OrgId,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<MemberSession>, StoreError>;

    /// Ends a browser session of any operator of an organization, audited. Returns whether the session existed.
    async fn end_member_session(
        &self,
        org: OrgId,
        session: BrowserSessionId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Changes the role of an operator. Audited.
    async fn set_role(
        &self,
        org: OrgId,
        operator: OperatorId,
        role: Role,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError>;

    /// Removes an operator. Its keys and sessions end, its e-mail can be used again, and its audit records
    /// stay. Audited.
    async fn remove_member(
        &self,
        org: OrgId,
        operator: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError>;
}
