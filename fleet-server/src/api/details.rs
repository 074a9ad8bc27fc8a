//! `fleet.v1.DeviceDetailService`: one device with its timeline, labels and notes.

use std::collections::BTreeSet;

use fleet_core::{DeviceId, text::is_unsafe};
use fleet_inventory::Label;
use fleet_store::{DeviceEvent, DeviceNote};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        self, DeviceDetailService, GetDeviceDetailRequest, GetDeviceDetailResponse,
        LabelDevicesRequest, LabelDevicesResponse, SetDeviceNoteRequest, SetDeviceNoteResponse,
    },
};

use super::Api;
use crate::{convert::timestamp, failure::Answered};

impl DeviceDetailService for Api {
    async fn get_device_detail(
        &self,
        context: Context,
        request: GetDeviceDetailRequest,
    ) -> Result<Reply<GetDeviceDetailResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = DeviceId(request.device_id);
        let store = &self.app.store;
        let Some(found) = store.device_detail(call.org, id).await.answered()? else {
            let unknown = format!("no device {id} in this organization");
            return Err(RpcError::not_found(unknown)
                .with_reason("DEVICE_NOT_FOUND")
                .with_fact("value", id));
        };
        let device = self
            .with_pairings(call.org, vec![found.device])
            .await?
            .pop();
        Ok(Reply::new(GetDeviceDetailResponse {
            device,
            ports: found
                .ports
                .iter()
                .map(|port| port.number().into())
                .collect(),
            events: found.events.into_iter().map(event).collect(),
            note: found.note.map(note),
        }))
    }

    async fn label_devices(
        &self,
        context: Context,
        request: LabelDevicesRequest,
    ) -> Result<Reply<LabelDevicesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let devices: BTreeSet<DeviceId> = request.device_ids.into_iter().map(DeviceId).collect();
        let (add, remove) = (labels(&request.add)?, labels(&request.remove)?);
        if let Some(label) = add.intersection(&remove).next() {
            let both = format!("label `{label}` cannot be added and removed at once");
            return Err(RpcError::invalid_argument(both)
                .with_reason("INVALID_FIELD")
                .with_fact("field", "remove")
                .with_fact("value", label));
        }
        let subject = format!("{} devices", devices.len());
        let store = &self.app.store;
        let labeled = store.label_devices(call.org, devices, add, remove, call.actor(), call.now);
        call.attempt("device.label", subject)
            .or_refused(&self.app.auditor, labeled.await)
            .await?;
        Ok(Reply::new(LabelDevicesResponse {}))
    }

    async fn set_device_note(
        &self,
        context: Context,
        request: SetDeviceNoteRequest,
    ) -> Result<Reply<SetDeviceNoteResponse>, RpcError> {
        let call = self.operator(&context)?;
        let device = DeviceId(request.device_id);
        let text = request.text.trim().to_owned();
        if let Some(at) = text.chars().position(|c| is_unsafe(c) && c != '\n') {
            return Err(RpcError::invalid_argument(format!(
                "text: character {} is invisible or changes the order of text: write the note without it",
                at + 1
            ))
            .with_reason("INVALID_FIELD")
            .with_fact("field", "text"));
        }
        let store = &self.app.store;
        let set = store.set_device_note(
            call.org,
            device,
            text,
            call.operator,
            call.actor(),
            call.now,
        );
        call.attempt("device.note", format!("device {device}"))
            .or_refused(&self.app.auditor, set.await)
            .await?;
        Ok(Reply::new(SetDeviceNoteResponse {}))
    }
}

fn labels(texts: &[String]) -> Result<BTreeSet<Label>, RpcError> {
    let label = |text: &String| {
        let label = text.parse::<Label>();
        label.map_err(|error| {
            RpcError::invalid_argument(error.to_string())
                .with_reason("INVALID_FIELD")
                .with_fact("field", "label")
        })
    };
    texts.iter().map(label).collect()
}

fn event(event: DeviceEvent) -> fleet::DeviceEvent {
    fleet::DeviceEvent {
        kind: event.kind.to_string(),
        former: event.former,
        became: event.became,
        reason: event.reason,
        identity_change_id: event.undo.map_or(0, |change| change.0),
        fleet_node_id: event.node.map_or(0, |node| node.0),
        at: Some(timestamp(event.at)),
    }
}

fn note(note: DeviceNote) -> fleet::DeviceNote {
    fleet::DeviceNote {
        text: note.text,
        author: note.author,
        changed_at: Some(timestamp(note.changed_at)),
    }
}
