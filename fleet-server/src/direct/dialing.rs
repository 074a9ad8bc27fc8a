//! Releases addresses before the server dials them, and returns them afterwards. Both the scan and the pairing use it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use fleet_core::{OrgId, ScanId, limits};
use fleet_store::{DialRequest, ReleaseError, Released};
use fleet_wire::RpcError;
use ipnetwork::IpNetwork;

use crate::{app::App, dial_permit::DialPermit, failure::Refusal};

/// Time between closing the permit and returning the addresses: a connection whose permit was just checked has begun by
/// then.
const SETTLE: Duration = Duration::from_millis(100);

/// How often a busy release is retried.
const BUSY_RETRIES: u32 = 60;

/// The organization for which the server dials, and the networks that it may dial.
#[derive(Clone)]
pub(super) struct Dialing {
    pub(super) app: Arc<App>,
    pub(super) networks: Vec<IpNetwork>,
    pub(super) org: OrgId,
    /// The id of the scan or pairing.
    pub(super) run: ScanId,
}

impl Dialing {
    /// Releases addresses for dialing. While another server dials for the organization it retries every `pause`, and
    /// awaits `wait` before each retry. [`Dialing::end`] must follow a success.
    pub(super) async fn acquire<E, F>(
        &self,
        addresses: &[IpAddr],
        pause: Duration,
        wait: impl Fn(Duration) -> F,
    ) -> Result<(DialPermit, Released), E>
    where
        E: From<RpcError>,
        F: Future<Output = Result<(), E>>,
    {
        for _ in 0..BUSY_RETRIES {
            match self.release(addresses).await {
                Ok(released) => return Ok(released),
                Err(ReleaseError::Busy(_)) => wait(pause).await?,
                Err(ReleaseError::Storage(error)) => return Err(error.refusal().into()),
            }
        }
        Err(RpcError::resource_exhausted(
            "another server still dials for your organization: try again when it is over",
        )
        .with_reason("DIRECT_BUSY")
        .into())
    }

    async fn release(&self, addresses: &[IpAddr]) -> Result<(DialPermit, Released), ReleaseError> {
        let environment = &self.app.environment;
        // Read before the release, so that the permit never outlasts it by either clock.
        let from = (environment.instant(), environment.now());
        let request = DialRequest {
            org: self.org,
            scan: self.run,
            addresses: addresses.to_vec(),
            until: from.1.plus(limits::DIRECT_HOLD),
            now: from.1,
        };
        // A check alone is not enough: a node can report an address right after it (decision 0003).
        let released = self.app.store.release_for_dialing(request).await?;
        let permit = DialPermit::new(
            environment.clone(),
            released.allowed.iter().copied().collect(),
            self.app.config.addresses,
            self.networks.clone(),
            from,
        );
        Ok((permit, released))
    }

    /// Closes the permit and returns the released addresses.
    pub(super) async fn end(&self, permit: &DialPermit) {
        permit.close();
        tokio::time::sleep(SETTLE).await;
        // If this fails, the release expires.
        if let Err(error) = self.app.store.give_back(self.org, self.run).await {
            tracing::warn!(run = %self.run, %error, "released addresses were not returned");
        }
    }
}
