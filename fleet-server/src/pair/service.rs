//! `fleet.v1.DevicePairingService`: pairing that is started, looked at and canceled by calls of their own.

use std::str::FromStr;

use fleet_core::{NodeId, PairingId};
use fleet_store::PairingRow;
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        CancelPairingRequest, CancelPairingResponse, DevicePairing, DevicePairingService,
        GetPairingRequest, GetPairingResponse, StartPairingRequest, StartPairingResponse,
    },
};

use super::{Wanted, cancel, page, start};
use crate::{auth::calling_operator, convert, operators::OperatorApi};

impl DevicePairingService for OperatorApi {
    async fn start_pairing(
        &self,
        context: Context,
        request: StartPairingRequest,
    ) -> Result<Reply<StartPairingResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let wanted = Wanted {
            node: NodeId(request.fleet_node_id),
            identifiers: request.device_identifiers,
            all_unpaired: request.all_unpaired,
            credentials: request.credentials,
        };
        let started = start(&self.app, operator, actor, wanted).await?;
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
        let (operator, _) = calling_operator(&context)?;
        let pairing = pairing_id(&request.pairing_id)?;
        let page = page(&self.app, operator, pairing, request.after).await?;
        let next_cursor = page
            .results
            .last()
            .map_or(request.after, |last| last.sequence);
        Ok(Reply::new(GetPairingResponse {
            pairing: Some(on_the_wire(page.pairing)),
            results: page.results.into_iter().map(convert::paired).collect(),
            next_cursor,
        }))
    }

    async fn cancel_pairing(
        &self,
        context: Context,
        request: CancelPairingRequest,
    ) -> Result<Reply<CancelPairingResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let pairing = pairing_id(&request.pairing_id)?;
        cancel(&self.app, operator, actor, pairing).await?;
        Ok(Reply::new(CancelPairingResponse {}))
    }
}

fn pairing_id(text: &str) -> Result<PairingId, RpcError> {
    PairingId::from_str(text)
        .map_err(|error| RpcError::invalid_argument(format!("pairing_id: {error}")))
}

fn on_the_wire(row: PairingRow) -> DevicePairing {
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
