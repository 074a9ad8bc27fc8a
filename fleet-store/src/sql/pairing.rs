//! Pairing: each operation a transaction around its function. Whom a device is bound to is
//! `bindings.rs`, what nodes were asked to pair `commands.rs`,
//! how that ends `ends.rs`, what they say of it `results.rs`.

mod bindings;
pub(crate) mod commands;
pub(crate) mod ends;
mod results;
mod targets;

use std::collections::BTreeMap;

use async_trait::async_trait;
pub(crate) use bindings::{forget_pairing, hand_over, release_all_of};
use fleet_core::{
    CommandId, DeviceId, Epoch, NodeId, OrgId, PairingId, PairingStatus, Timestamp, outcome::Code,
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{devices, entity::device};
use crate::{
    Actor, BindError, BoundDevice, CancelPairingError, Changed, CreatePairingError, DevicePairing,
    DeviceRow, NewPairResults, NewPairing, PairPage, PairResultsAnswer, PairTargets, PairWish,
    Pairing, PairingStep, ReportError, SqlStore, StoreError, UnbindError,
};

#[async_trait]
impl Pairing for SqlStore {
    async fn bind_device(
        &self,
        org: OrgId,
        node: NodeId,
        device: DeviceId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, BindError> {
        self.transaction(
            "bind_device",
            (org, node, device, actor, now),
            |tx, (org, node, device, actor, now)| {
                Box::pin(bindings::bind(tx, *org, *node, *device, actor, *now))
            },
        )
        .await
    }

    async fn unbind_device(
        &self,
        org: OrgId,
        device: DeviceId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, UnbindError> {
        self.transaction(
            "unbind_device",
            (org, device, actor, now),
            |tx, (org, device, actor, now)| {
                Box::pin(bindings::unbind(tx, *org, *device, actor, *now))
            },
        )
        .await
    }

    async fn bind_to_server(
        &self,
        org: OrgId,
        device: DeviceId,
        status: PairingStatus,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, BindError> {
        self.transaction(
            "bind_to_server",
            (org, device, status, actor, now),
            |tx, (org, device, status, actor, now)| {
                Box::pin(bindings::bind_to_server(
                    tx, *org, *device, *status, actor, *now,
                ))
            },
        )
        .await
    }

    async fn list_bound_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
    ) -> Result<Vec<BoundDevice>, StoreError> {
        Self::reading(
            "list_bound_devices",
            bindings::bound_devices(self.reader(), org, node).await,
        )
    }

    async fn list_found_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        after: DeviceId,
        limit: u32,
    ) -> Result<Vec<DeviceRow>, StoreError> {
        let mut query = device::Entity::find()
            .filter(device::Column::OrgId.eq(org.0))
            .filter(device::Column::DeletedAt.is_null())
            .filter(device::Column::Id.gt(after.0));
        query = match node {
            Some(node) => query.filter(device::Column::NodeId.eq(node.0)),
            None => query.filter(device::Column::NodeId.is_not_null()),
        };
        let models = query
            .order_by_asc(device::Column::Id)
            .limit(u64::from(limit))
            .all(self.reader())
            .await;
        let rows = match models {
            Ok(models) => devices::rows(self.reader(), models).await,
            Err(error) => Err(error),
        };
        Self::reading("list_found_devices", rows)
    }

    async fn pairings_of(
        &self,
        org: OrgId,
        devices: &[DeviceId],
    ) -> Result<BTreeMap<DeviceId, DevicePairing>, StoreError> {
        let ids: Vec<i64> = devices.iter().map(|device| device.0).collect();
        Self::reading(
            "pairings_of",
            bindings::pairings(self.reader(), org, &ids).await,
        )
    }

    async fn pair_targets(
        &self,
        org: OrgId,
        node: NodeId,
        wish: PairWish,
    ) -> Result<PairTargets, StoreError> {
        Self::reading(
            "pair_targets",
            targets::targets(self.reader(), org, node, &wish).await,
        )
    }

    async fn create_pairing(
        &self,
        new: NewPairing,
        actor: Actor,
    ) -> Result<(), CreatePairingError> {
        self.transaction("create_pairing", (new, actor), |tx, (new, actor)| {
            Box::pin(commands::create(tx, new, actor))
        })
        .await
    }

    async fn issue_pairing(
        &self,
        pairing: PairingId,
        epoch: Option<Epoch>,
        command: CommandId,
        now: Timestamp,
    ) -> Result<PairingStep, StoreError> {
        self.transaction(
            "issue_pairing",
            (pairing, epoch, command, now),
            |tx, (pairing, epoch, command, now)| {
                Box::pin(commands::issue(tx, *pairing, *epoch, *command, *now))
            },
        )
        .await
    }

    async fn keep_pairing(&self, pairing: PairingId, now: Timestamp) -> Result<bool, StoreError> {
        self.transaction("keep_pairing", (pairing, now), |tx, (pairing, now)| {
            Box::pin(commands::keep(tx, *pairing, *now))
        })
        .await
    }

    async fn end_pairing(
        &self,
        pairing: PairingId,
        code: Code,
        reason: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transaction(
            "end_pairing",
            (pairing, code, reason, now),
            |tx, (pairing, code, reason, now)| {
                Box::pin(ends::end(tx, *pairing, *code, reason, *now))
            },
        )
        .await
    }

    async fn record_pair_results(
        &self,
        report: NewPairResults,
    ) -> Result<PairResultsAnswer, ReportError> {
        self.transaction("record_pair_results", report, |tx, report| {
            Box::pin(results::record(tx, report))
        })
        .await
    }

    async fn cancel_pairing(
        &self,
        org: OrgId,
        pairing: PairingId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<(NodeId, CommandId)>, CancelPairingError> {
        self.transaction(
            "cancel_pairing",
            (org, pairing, actor, now),
            |tx, (org, pairing, actor, now)| {
                Box::pin(ends::cancel(tx, *org, *pairing, actor, *now))
            },
        )
        .await
    }

    async fn sweep_pairings(&self, now: Timestamp) -> Result<Vec<(NodeId, CommandId)>, StoreError> {
        let operation = "sweep_pairings";
        let mut expired = Vec::new();
        // Each in a transaction of its own, so that a sweep holds no node for long.
        for (node, command) in Self::reading(operation, ends::overdue(self.reader(), now).await)? {
            let ended = self
                .transaction(
                    operation,
                    (node, command, now),
                    |tx, (node, command, now)| {
                        Box::pin(ends::expire_command(tx, *node, *command, *now))
                    },
                )
                .await?;
            if ended {
                expired.push((node, command));
            }
        }
        for pairing in Self::reading(operation, ends::abandoned(self.reader(), now).await)? {
            self.transaction(operation, (pairing, now), |tx, (pairing, now)| {
                Box::pin(ends::give_up(tx, *pairing, *now))
            })
            .await?;
        }
        Ok(expired)
    }

    async fn read_pairing(
        &self,
        org: OrgId,
        pairing: PairingId,
        after: i64,
        limit: u32,
    ) -> Result<Option<PairPage>, StoreError> {
        Self::reading(
            "read_pairing",
            commands::read(self.reader(), org, pairing, after, limit).await,
        )
    }
}
