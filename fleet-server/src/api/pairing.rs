//! `fleet.v1.DevicePairingService`: pairing on nodes, with separate calls to start, follow and cancel it.

use fleet_core::NodeId;
use fleet_store::PairingRow;
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        CancelPairingRequest, CancelPairingResponse, DevicePairing, DevicePairingService,
        GetPairingRequest, GetPairingResponse, StartPairingRequest, StartPairingResponse,
    },
};

use super::Api;
use crate::{
    convert,
    pair::{self, PairRequest},
};

impl DevicePairingService for Api {
    async fn start_pairing(
        &self,
        context: Context,
        request: StartPairingRequest,
    ) -> Result<Reply<StartPairingResponse>, RpcError> {
        let call = self.operator(&context)?;
        let request = PairRequest {
            node: NodeId(request.fleet_node_id),
            identifiers: request.device_identifiers,
            all_unpaired: request.all_unpaired,
            credentials: request.credentials,
        };
        let started = pair::start(&self.app, &call, request).await?;
        Ok(Reply::new(StartPairingResponse {
            pairing_id: started.pairing.to_string(),
            refused: started.refused,
        }))
    }

    async fn get_pairing(
        &self,
        context: Context,
        request: GetPairingRequest,
    ) -> Result<Reply<GetPairingResponse>, RpcError> {
        let call = self.operator(&context)?;
        let pairing = convert::id("pairing_id", &request.pairing_id)?;
        let page = pair::page(&self.app, &call, pairing, request.after).await?;
        let next_cursor = page
            .results
            .last()
            .map_or(request.after, |last| last.sequence);
        Ok(Reply::new(GetPairingResponse {
            pairing: Some(message(page.pairing)),
            results: page.results.into_iter().map(convert::paired).collect(),
            next_cursor,
        }))
    }

    async fn cancel_pairing(
        &self,
        context: Context,
        request: CancelPairingRequest,
    ) -> Result<Reply<CancelPairingResponse>, RpcError> {
        let call = self.operator(&context)?;
        let pairing = convert::id("pairing_id", &request.pairing_id)?;
        pair::cancel(&self.app, &call, pairing).await?;
        Ok(Reply::new(CancelPairingResponse {}))
    }
}

fn message(row: PairingRow) -> DevicePairing {
    let ended = row.ended.is_some();
    let (code, reason) = row
        .ended
        .map(|(code, reason)| (code.to_string(), reason))
        .unwrap_or_default();
    DevicePairing {
        pairing_id: row.id.to_string(),
        fleet_node_id: row.node.0,
        created_at: Some(convert::timestamp(row.created_at)),
        targets: row.targets,
        done: row.done,
        ended,
        code,
        reason,
    }
}
