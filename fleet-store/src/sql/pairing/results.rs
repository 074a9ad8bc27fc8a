//! Recording the pairing results that a node reports, in one transaction. `fleet_pairing` judges each device
//! under its lock.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{PairRejectReason, PairResult, PairingStatus};
use fleet_pairing::{Binding, PairReply, decide_result, may_settle};

use super::{
    bindings::{
        attribute, forget_credentials, lock_devices, pairings, write_binding, write_status,
    },
    ends,
};
use crate::{
    NewPairResults, PairRow, ReportError, SealedCredentials,
    sql::{
        audit, devices,
        entity::{device, device_credential, node, pairing, pairing_target},
        inserts,
        prelude::*,
    },
};

/// Judges and stores the results of one part. Returns the number of accepted and refused results.
pub(super) async fn record(
    tx: &DatabaseTransaction,
    new: &NewPairResults,
    pairing: &mut pairing::Model,
    part: i64,
) -> Result<(u64, u64), Failure<ReportError>> {
    let mut report = Report::load(tx, new, pairing, part).await?;
    for row in &new.rows {
        report.judge(row);
    }
    let counts = (report.accepted, report.rejected());
    report.save(tx, pairing).await?;
    Ok(counts)
}

/// A device of the command, read under its lock.
struct Held {
    target: pairing_target::Model,
    /// `None` when the record was deleted.
    device: Option<device::Model>,
    binding: Binding,
    owner_live: bool,
    status: PairingStatus,
    /// The change to write, if any.
    change: Option<Change>,
}

#[derive(Default)]
struct Change {
    bind: bool,
    learned: Option<PairResult>,
    sealed: Option<SealedCredentials>,
}

struct Report<'n> {
    new: &'n NewPairResults,
    held: BTreeMap<String, Held>,
    accepted: u64,
    refused: BTreeMap<PairRejectReason, (u64, String)>,
}

impl<'n> Report<'n> {
    /// Loads the targets that the report names, and locks their devices in the order of their ids.
    async fn load(
        tx: &DatabaseTransaction,
        new: &'n NewPairResults,
        pairing: &pairing::Model,
        part: i64,
    ) -> Result<Self, DbErr> {
        let names: BTreeSet<&str> = new
            .rows
            .iter()
            .flatten()
            .map(|row| row.result.identifier.as_str())
            .collect();
        let of_part = || {
            pairing_target::Entity::find()
                .filter(pairing_target::Column::PairingId.eq(pairing.id))
                .filter(pairing_target::Column::Part.eq(part))
                .filter(pairing_target::Column::Identifier.is_in(names.iter().copied()))
        };
        let ids: Vec<i64> = of_part()
            .all(tx)
            .await?
            .iter()
            .map(|target| target.device_id)
            .collect();
        let mut devices: BTreeMap<i64, device::Model> =
            lock_devices(tx, new.org, ids.iter().copied())
                .await?
                .into_iter()
                .map(|device| (device.id, device))
                .collect();
        // Read again under the devices' locks, because a device may have been released in the meantime.
        let targets = of_part().all(tx).await?;
        let known = pairings(tx, new.org, &ids).await?;
        let live = live_owners(tx, devices.values()).await?;
        let held = |target: pairing_target::Model| {
            let device = devices.remove(&target.device_id);
            let known = known.get(&DeviceId(target.device_id));
            let owner = device.as_ref().and_then(|device| device.node_id);
            let held = Held {
                binding: known.map_or(Binding::Free, |known| known.binding),
                status: known.map_or(PairingStatus::Unpaired, |known| known.status),
                owner_live: owner.is_some_and(|owner| live.contains(&owner)),
                device,
                change: None,
                target,
            };
            (held.target.identifier.clone(), held)
        };
        Ok(Self {
            new,
            held: targets.into_iter().map(held).collect(),
            accepted: 0,
            refused: BTreeMap::new(),
        })
    }

    fn rejected(&self) -> u64 {
        self.refused.values().map(|(count, _)| count).sum()
    }

    fn judge(&mut self, row: &Result<PairRow, (PairRejectReason, String)>) {
        let judged = match row {
            Ok(row) => self
                .decide(row)
                .map_err(|reason| (reason, row.result.identifier.clone())),
            Err((reason, example)) => Err((*reason, example.clone())),
        };
        match judged {
            Ok(()) => self.accepted += 1,
            Err((reason, example)) => {
                let refused = self.refused.entry(reason).or_insert((0, example));
                refused.0 += 1;
            }
        }
    }

    fn decide(&mut self, row: &PairRow) -> Result<(), PairRejectReason> {
        let result = &row.result;
        let Some(held) = self.held.get_mut(&result.identifier) else {
            return Err(PairRejectReason::NotAskedFor);
        };
        let reported = (Some(AsText(result.outcome)), result.default_password);
        if held.target.outcome.is_some() {
            // A node repeats a report if it did not receive the answer.
            let same = reported == (held.target.outcome, held.target.default_password);
            return if same {
                Ok(())
            } else {
                Err(PairRejectReason::AlreadyReported)
            };
        }
        let Some(device) = held
            .device
            .as_ref()
            // A device that was released has a result already (`release`).
            .filter(|_| held.target.result.is_none())
        else {
            return Err(PairRejectReason::Released);
        };
        let owner = device.node_id.map(NodeId);
        may_settle(self.new.node, held.binding, owner, held.owner_live)
            .map_err(PairRejectReason::Record)?;
        let reply = PairReply::Result {
            outcome: result.outcome,
            default_password: result.default_password,
            open: result.open,
        };
        let settled = decide_result(reply, held.status);
        (held.target.outcome, held.target.default_password) = reported;
        held.target.result = Some(AsText(settled.reported));
        held.target.error.clone_from(&result.error);
        held.status = settled.status;
        held.change = Some(Change {
            // A device that is bound to this node keeps its row.
            bind: settled.bind && held.binding == Binding::Free,
            learned: settled.bind.then(|| result.clone()),
            sealed: row.sealed.clone().filter(|_| settled.bind),
        });
        Ok(())
    }

    async fn save(
        self,
        tx: &DatabaseTransaction,
        pairing: &mut pairing::Model,
    ) -> Result<(), Failure<ReportError>> {
        let (org, node, now) = (self.new.org, self.new.node, self.new.now);
        let (mut statuses, mut judged, mut sealed) = (Vec::new(), Vec::new(), Vec::new());
        let mut bound = 0_usize;
        for held in self.held.into_values() {
            let (Some(change), Some(device)) = (held.change, held.device) else {
                continue;
            };
            statuses.push((device.id, held.status, held.target.error.clone()));
            judged.push(held.target);
            if change.bind {
                bound += 1;
                forget_credentials(tx, [device.id]).await?;
                write_binding(tx, &device, Some(node), Some(pairing.operator_id), now).await?;
            }
            if let Some(learned) = change.learned {
                if let Some(ip) = attribute(tx, &device, node, now).await? {
                    return refuse(ReportError::BeingDialed(ip));
                }
                learn(tx, &device, &learned).await?;
            }
            if let Some(credentials) = change.sealed {
                sealed.push(device_credential::ActiveModel {
                    device_id: Set(device.id),
                    org_id: Set(org.0),
                    node_id: Set(node.0),
                    username: Set(credentials.username),
                    password: Set(credentials.password),
                    stored_at: Set(Micros(now)),
                });
            }
        }
        use device_credential::Column as C;
        let newest = OnConflict::column(C::DeviceId)
            .update_columns([C::NodeId, C::Username, C::Password, C::StoredAt])
            .to_owned();
        inserts::all_or(tx, sealed, newest).await?;
        let results = statuses.len();
        write_status(tx, org, statuses, now).await?;
        ends::publish(tx, pairing, judged).await?;
        let subject = format!("pairing {} on node {node}", pairing.id.0);
        let actor = Actor {
            principal: Principal::Node(node),
            from: self.new.from,
        };
        if results > 0 {
            let done = format!("{subject}: {results} results, {bound} bound");
            audit::done(tx, org, &actor, "pairing.result", done, now).await?;
        }
        let refusal = |(reason, (times, example)): (PairRejectReason, (u64, String))| {
            let entry = AuditEntry {
                org: Some(org),
                actor: actor.clone(),
                action: "pairing.refuse".into(),
                subject: subject.clone(),
                result: AuditResult::Refused(format!("{reason}, such as {example}")),
                at: now,
            };
            let fold = format!("pairing/{}/{reason}", self.new.command);
            (entry, count(times), Some(fold))
        };
        audit::write_counted(tx, self.refused.into_iter().map(refusal)).await?;
        Ok(())
    }
}

/// The owners of these devices, without revoked nodes.
async fn live_owners(
    tx: &DatabaseTransaction,
    devices: impl Iterator<Item = &device::Model>,
) -> Result<BTreeSet<i64>, DbErr> {
    let owners: BTreeSet<i64> = devices.filter_map(|device| device.node_id).collect();
    let live: Vec<i64> = node::Entity::find()
        .select_only()
        .column(node::Column::Id)
        .filter(node::Column::Id.is_in(owners))
        .filter(node::Column::DeletedAt.is_null())
        .into_tuple()
        .all(tx)
        .await?;
    Ok(live.into_iter().collect())
}

/// Stores the facts that a device returned after sign-in. An empty value never replaces a known one. The
/// device's next report determines its identity.
async fn learn(
    tx: &DatabaseTransaction,
    device: &device::Model,
    result: &PairResult,
) -> Result<(), DbErr> {
    let mut facts = devices::facts(device);
    if !facts.update(&result.facts) {
        return Ok(());
    }
    let mut learned = device.clone();
    devices::put_facts(&mut learned, facts);
    let change = device::ActiveModel {
        search_text: Set(devices::search_text(&learned)),
        model: Set(learned.model),
        manufacturer: Set(learned.manufacturer),
        firmware: Set(learned.firmware),
        mac: Set(learned.mac),
        serial: Set(learned.serial),
        ..Default::default()
    };
    device::Entity::update_many()
        .set(change)
        .filter(device::Column::Id.eq(device.id))
        .exec(tx)
        .await?;
    Ok(())
}
