//! The server's own network as operators call it: `pairing.v1` in the upstream shape, and `fleet.v1` in a
//! scan's.

use std::{future::ready, sync::Arc};

use fleet_wire::{
    BoxStream, Context, Reply, RpcError,
    fleet::{DirectService, ScanOwnNetworkRequest, WatchScanResponse},
    pairing::{DiscoverRequest, DiscoverResponse, PairRequest, PairResponse, PairingService},
};
use futures::StreamExt;

use crate::{
    app::App,
    auth::calling_operator,
    direct::{self, pair},
    discover::upstream,
    operators::{scan_request, watched},
};

/// The direct path.
#[derive(Clone, Debug)]
pub(crate) struct OwnNetwork {
    pub(crate) app: Arc<App>,
}

impl PairingService for OwnNetwork {
    async fn discover(
        &self,
        context: Context,
        request: DiscoverRequest,
    ) -> Result<Reply<BoxStream<DiscoverResponse>>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let request = scan_request(Some(request))?;
        let items = direct::start(&self.app, operator, actor, request).await?;
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
        let (operator, actor) = calling_operator(&context)?;
        let failed_device_ids = pair::pair(&self.app, operator, actor, request).await?;
        Ok(Reply::new(PairResponse { failed_device_ids }))
    }
}

impl DirectService for OwnNetwork {
    async fn scan_own_network(
        &self,
        context: Context,
        request: ScanOwnNetworkRequest,
    ) -> Result<Reply<BoxStream<WatchScanResponse>>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let request = scan_request(request.request)?;
        let items = direct::start(&self.app, operator, actor, request).await?;
        Ok(Reply::stream(items.map(|item| item.map(watched))))
    }
}
