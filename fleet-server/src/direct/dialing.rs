//! The frame around every dial of the server's own: addresses are released before it and given back after.

use std::{net::IpAddr, sync::Arc, time::Duration};

use fleet_core::{OrgId, ScanId, limits};
use fleet_store::{DialRequest, ReleaseError, Released};
use ipnetwork::IpNetwork;

use super::prober::Leave;
use crate::app::App;

/// Between the last dial that was let through and the release's end: a connection whose leave was just
/// checked has begun by then.
const SETTLE: Duration = Duration::from_millis(100);

/// On whose behalf the server dials, and where it may.
#[derive(Clone)]
pub(super) struct Dialing {
    pub(super) app: Arc<App>,
    pub(super) networks: Vec<IpNetwork>,
    pub(super) org: OrgId,
    /// Names the scan or pairing.
    pub(super) run: ScanId,
}

impl Dialing {
    /// Has addresses released; those that are may be dialed as long as the leave says so. [`Dialing::end`]
    /// must follow.
    pub(super) async fn release(
        &self,
        addresses: &[IpAddr],
    ) -> Result<(Leave, Released), ReleaseError> {
        let environment = &self.app.environment;
        // Before the release, so that it is older than the leave by any clock.
        let from = (environment.instant(), environment.now());
        let request = DialRequest {
            org: self.org,
            scan: self.run,
            addresses: addresses.to_vec(),
            until: from.1.plus(limits::DIRECT_HOLD),
            now: from.1,
        };
        let released = self.app.store.release_for_dialing(request).await?;
        let leave = Leave::new(
            environment.clone(),
            released.allowed.iter().copied().collect(),
            self.app.config.addresses,
            self.networks.clone(),
            from,
        );
        Ok((leave, released))
    }

    /// Lets nothing through any more, and gives back what was released.
    pub(super) async fn end(&self, leave: &Leave) {
        leave.close();
        tokio::time::sleep(SETTLE).await;
        // Where this fails, the release ends by itself.
        if let Err(error) = self.app.store.give_back(self.org, self.run).await {
            tracing::warn!(run = %self.run, %error, "released addresses were not given back");
        }
    }
}
