//! A credential while its call goes on: streams and downloads end when it is no longer valid, or has lost the permission
//! that the call needs. Start with [`until_revoked`].

use std::{pin::Pin, sync::Arc, time::Duration};

use fleet_core::{OrgId, Permission};
use fleet_store::{Credential, OperatorIdentity};
use fleet_wire::{RpcError, listener::RequestGuard};
use futures::{Stream, StreamExt, stream};
use http::Extensions;
use tokio::sync::futures::OwnedNotified;
use tokio_util::task::AbortOnDropHandle;

use crate::app::App;

/// Interval of checks of a credential in use, in case the notification of its revocation is missed.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The shortest time between two checks of one call. Organizations share wake-ups, and each change of a credential would
/// otherwise cost a query for each stream of all of them.
const BETWEEN_CHECKS: Duration = Duration::from_millis(250);

/// The credential of a call in use, which must stay valid and keep a permission.
struct InUse {
    app: Arc<App>,
    credential: Credential,
    org: OrgId,
    permission: Permission,
    checks: tokio::time::Interval,
    /// Fires when credentials of the organization change.
    changed: Pin<Box<OwnedNotified>>,
    /// The last check.
    checked: tokio::time::Instant,
}

impl InUse {
    fn new(app: Arc<App>, identity: &OperatorIdentity, permission: Permission) -> Self {
        // The call itself was checked just now.
        let first = tokio::time::Instant::now() + CHECK_EVERY;
        let mut checks = tokio::time::interval_at(first, CHECK_EVERY);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let changed = Box::pin(app.wakeups.subscribe_owned(identity.org));
        Self {
            app,
            credential: identity.credential,
            org: identity.org,
            permission,
            checks,
            changed,
            checked: tokio::time::Instant::now(),
        }
    }

    /// Waits until the credential must be checked again. Cancel-safe.
    async fn due(&mut self) {
        tokio::select! {
            () = self.changed.as_mut() => {}
            _ = self.checks.tick() => {}
        }
        tokio::time::sleep_until(self.checked + BETWEEN_CHECKS).await;
    }

    /// Checks the credential, and returns the refusal. A storage failure refuses nothing.
    async fn check(&mut self) -> Result<(), RpcError> {
        // Before the check: a change after it must not be missed.
        self.changed.set(self.app.wakeups.subscribe_owned(self.org));
        self.checked = tokio::time::Instant::now();
        let (credential, now) = (self.credential, self.app.environment.now());
        let check = self.app.detached(move |app| async move {
            app.store.operator_by_credential(credential, now).await
        });
        match check.await {
            Ok(Some(identity)) if identity.role.may(self.permission) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "a credential in use could not be checked");
                Ok(())
            }
            Ok(_) => Err(RpcError::unauthenticated(
                "the key or session of this call is no longer valid, or lost its permission: sign in again",
            )
            .with_reason("CREDENTIAL_INVALID")),
        }
    }
}

/// Waits until the operator's credential is no longer valid or has lost the permission, also through another server,
/// and returns the refusal. A storage failure ends nothing. Dropping the future only stops the wait.
pub(crate) fn until_revoked(
    app: Arc<App>,
    identity: &OperatorIdentity,
    permission: Permission,
) -> impl Future<Output = RpcError> + Send + use<> {
    let mut in_use = InUse::new(app, identity, permission);
    async move {
        loop {
            in_use.due().await;
            if let Err(refusal) = in_use.check().await {
                return refusal;
            }
        }
    }
}

/// Passes a stream on while the operator's credential is valid and has the permission; then ends it with
/// UNAUTHENTICATED. A stream is polled only while its caller reads: when it reads on after a pause, the credential is
/// checked before the next item.
pub(crate) fn while_permitted<T, S>(
    app: Arc<App>,
    identity: &OperatorIdentity,
    permission: Permission,
    items: S,
) -> impl Stream<Item = Result<T, RpcError>> + Send + use<T, S>
where
    T: Send,
    S: Stream<Item = Result<T, RpcError>> + Send,
{
    let in_use = InUse::new(app, identity, permission);
    let state = Some((Box::pin(items), in_use));
    stream::unfold(state, |state| async move {
        let (mut items, mut in_use) = state?;
        loop {
            tokio::select! {
                biased;
                () = in_use.due() => {}
                item = items.next() => return Some((item?, Some((items, in_use)))),
            }
            if let Err(refusal) = in_use.check().await {
                return Some((Err(refusal), None));
            }
        }
    })
}

/// Cuts a download when the operator's credential is no longer valid or has lost the permission, also while its caller
/// does not read. Keep the value in the body: dropping it ends the watch over the credential.
pub(crate) fn cut_when_revoked(
    app: &Arc<App>,
    identity: &OperatorIdentity,
    permission: Permission,
    request: &Extensions,
) -> Option<AbortOnDropHandle<()>> {
    // Absent where the service is mounted without our listener.
    let request = request.get::<RequestGuard>()?.clone();
    let revoked = until_revoked(app.clone(), identity, permission);
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        let refusal = revoked.await;
        tracing::debug!(%refusal, "a download was cut");
        request.cut();
    })))
}
