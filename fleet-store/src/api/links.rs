//! Operators who sign in through an OpenID provider.

use async_trait::async_trait;
use fleet_core::{
    OperatorId, OrgId, SecretHash, Timestamp,
    sso::{SignInPolicy, SignInProblem, TokenClaims},
};

use crate::{Actor, MemberError, StoreError};

/// A sign-in with an ID token that was checked.
#[derive(Clone, Debug)]
pub struct ProviderSignIn {
    /// The name of the organization whose operators the provider signs in. Without it, there must be only one.
    pub org: Option<String>,
    /// The claims of the token.
    pub claims: TokenClaims,
    /// Who may sign in.
    pub policy: SignInPolicy,
    /// The hash of the browser's attempt. It opens one session.
    pub attempt: SecretHash,
    /// When the attempt ends. The hash is kept until then.
    pub attempt_expires: Timestamp,
    /// The hash of the token of the session.
    pub token: SecretHash,
    /// When the session expires.
    pub expires: Timestamp,
    /// The browser's user agent, bounded by the caller.
    pub agent: String,
}

/// A sign-in that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProviderSignedIn {
    /// The operator.
    pub operator: OperatorId,
    /// The operator's organization.
    pub org: OrgId,
    /// Whether the operator's role was changed.
    pub role_changed: bool,
}

/// Why a sign-in through the provider was refused.
#[derive(Debug, thiserror::Error)]
pub enum ProviderSignInError {
    /// The attempt has opened a session already.
    #[error("this sign-in was used before: start again")]
    Used,
    /// The organization does not exist, or several exist and none is configured.
    #[error(
        "the organization of the sign-in provider is not known: have the administrator set oidc.organization"
    )]
    NoOrganization,
    /// The account may not sign in.
    #[error("{why}")]
    Refused {
        /// The organization.
        org: OrgId,
        /// The reason.
        why: SignInProblem,
    },
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Accounts of an OpenID provider and their operators.
#[async_trait]
pub trait Links: Send + Sync {
    /// Signs the operator of an account in: links or creates the operator at the first sign-in, refreshes the role if
    /// roles are configured, and opens a browser session, with an audit record of each. The last administrator keeps the
    /// role.
    async fn sign_in_by_provider(
        &self,
        new: ProviderSignIn,
        actor: Actor,
        now: Timestamp,
    ) -> Result<ProviderSignedIn, ProviderSignInError>;

    /// Removes the link of an operator and ends the sessions that the account opened. Audited.
    async fn unlink_member(
        &self,
        org: OrgId,
        operator: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), MemberError>;
}
