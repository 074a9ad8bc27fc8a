//! The server's own network: `pairing.v1.PairingService` in the upstream format, and `fleet.v1.DirectService`.

use std::future::ready;

use fleet_discovery::ScanRequest;
use fleet_wire::{
    BoxStream, Context, Reply, RpcError,
    fleet::{DirectService, ScanOwnNetworkRequest, WatchScanResponse},
    pairing::{DiscoverRequest, DiscoverResponse, PairRequest, PairResponse, PairingService},
};
use futures::StreamExt;

use super::Api;
use crate::{convert, direct, discover::upstream, watch};

impl PairingService for Api {
    async fn discover(
        &self,
        context: Context,
        request: DiscoverRequest,
    ) -> Result<Reply<BoxStream<DiscoverResponse>>, RpcError> {
        let call = self.operator(&context)?;
        let request = at_own_rate(convert::scan_request(Some(request))?)?;
        let items = direct::scan(&self.app, &call, request).await?;
        let messages = items.filter_map(|item| {
            ready(match item {
                Ok(item) => upstream(item),
                Err(error) => Some(Err(error)),
            })
        });
        Ok(Reply::stream(messages))
    }

    async fn pair(
        &self,
        context: Context,
        request: PairRequest,
    ) -> Result<Reply<PairResponse>, RpcError> {
        let call = self.operator(&context)?;
        let failed_device_ids = direct::pair(&self.app, &call, request).await?;
        Ok(Reply::new(PairResponse { failed_device_ids }))
    }
}

impl DirectService for Api {
    async fn scan_own_network(
        &self,
        context: Context,
        request: ScanOwnNetworkRequest,
    ) -> Result<Reply<BoxStream<WatchScanResponse>>, RpcError> {
        let call = self.operator(&context)?;
        let request = at_own_rate(convert::scan_request(request.request)?)?;
        let items = direct::scan(&self.app, &call, request).await?;
        Ok(Reply::stream(items.map(|item| item.map(watch::message))))
    }
}

/// The server's own scans have its rate, so a request cannot name one.
fn at_own_rate(request: ScanRequest) -> Result<ScanRequest, RpcError> {
    if request.rate > 0 {
        return Err(RpcError::invalid_argument(format!(
            "max_rate is {}: scans of the server's own network have the rate of the server; leave it unset",
            request.rate
        ))
        .with_reason("INVALID_FIELD")
        .with_fact("field", "max_rate"));
    }
    Ok(request)
}
