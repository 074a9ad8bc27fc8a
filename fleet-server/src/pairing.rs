//! `pairing.v1`: the server's own network, which this version neither scans nor pairs on. The procedures are
//! there, so that callers are told what to do instead.

use fleet_wire::{
    BoxStream, Context, Reply, RpcError,
    pairing::{DiscoverRequest, DiscoverResponse, PairRequest, PairResponse, PairingService},
};

/// The direct path, switched off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnNetwork;

impl PairingService for OwnNetwork {
    async fn discover(
        &self,
        _: Context,
        _: DiscoverRequest,
    ) -> Result<Reply<BoxStream<DiscoverResponse>>, RpcError> {
        Err(RpcError::failed_precondition(
            "the server's own network is not scanned by this version: enroll a node there and scan with fleet.v1 StartScan or DiscoverOnFleetNode",
        ))
    }

    async fn pair(&self, _: Context, _: PairRequest) -> Result<Reply<PairResponse>, RpcError> {
        Err(RpcError::failed_precondition(
            "the server's own network is not scanned by this version, so there is nothing to pair: enroll a node there",
        ))
    }
}
