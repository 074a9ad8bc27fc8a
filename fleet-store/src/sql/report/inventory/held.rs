//! A device in memory, as the rows of a report change it.

use fleet_core::DeviceReport;
use fleet_inventory::{Appearance, Change as Changed, Day, changes};

use crate::sql::{details, devices, entity::device, prelude::*};

/// A device in memory. Until it is saved, a new one has the provisional id that the rules assigned.
pub(super) struct Held {
    model: device::Model,
    change: Change,
    /// Whether any field that operators see has changed.
    visibly: bool,
    /// The last report before this one; none for a new device.
    seen_before: Option<Timestamp>,
    /// Whether this report shows the device.
    is_seen: bool,
    /// The stored device before this report; none for a new one.
    before: Option<Appearance>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Updated,
    Created,
}

impl Held {
    pub(super) fn stored(model: device::Model) -> Self {
        Self {
            seen_before: Some(model.last_seen.0),
            before: Some(details::appearance(&model)),
            model,
            change: Change::None,
            visibly: false,
            is_seen: false,
        }
    }

    pub(super) fn new(model: device::Model) -> Self {
        Self {
            model,
            change: Change::Created,
            visibly: true,
            seen_before: None,
            is_seen: false,
            before: None,
        }
    }

    pub(super) fn model(&self) -> &device::Model {
        &self.model
    }

    pub(super) fn change(&self) -> Change {
        self.change
    }

    pub(super) fn is_visibly_changed(&self) -> bool {
        self.visibly
    }

    /// What this report changed on a device that was not merged.
    pub(super) fn changes(&self) -> Vec<Changed> {
        match &self.before {
            Some(before) if self.model.deleted_at.is_none() => {
                changes(before, &details::appearance(&self.model))
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Whether this report shows the device for the first time on a day.
    pub(super) fn is_first_of(&self, day: Day) -> bool {
        let is_live = self.model.deleted_at.is_none();
        let before = |seen| Day::of(seen) < day;
        is_live && self.is_seen && self.seen_before.is_none_or(before)
    }

    /// Copies the facts of a row. Empty fields keep their known value.
    pub(super) fn learn(&mut self, owner: NodeId, report: &DeviceReport, now: Timestamp) {
        let model = &mut self.model;
        let mut facts = devices::take_facts(model);
        self.visibly |= facts.update(&report.facts);
        devices::put_facts(model, facts);
        model.node_id = Some(owner.0);
        model.ip = Some(AsText(report.endpoint.ip));
        model.port = Some(i64::from(report.endpoint.port.number()));
        model.last_seen = Micros(now);
        model.missing_since = None;
        self.is_seen = true;
        self.touch();
    }

    /// Notes that other devices show the identifier too.
    pub(super) fn share(&mut self) {
        if !self.model.shared {
            self.model.shared = true;
            self.touch();
        }
    }

    /// Notes that the device was claimed from a revoked node by its endpoint only.
    pub(super) fn claim(&mut self, from: NodeId) {
        self.model.claimed_from_node_id = Some(from.0);
        self.visibly = true;
        self.touch();
    }

    /// Clears the endpoint, because another device answers there. The current endpoint is unknown.
    pub(super) fn displace(&mut self) {
        self.model.ip = None;
        self.model.port = None;
        self.touch();
    }

    /// Changes the identifier.
    pub(super) fn rename(&mut self, identifier: DeviceIdentifier) {
        self.model.identifier = AsText(identifier);
        self.visibly = true;
        self.touch();
    }

    /// Marks the record as merged into another. Its row keeps its facts.
    pub(super) fn end(&mut self, now: Timestamp) {
        self.displace();
        self.model.deleted_at = Some(Micros(now));
    }

    /// Copies missing facts from a record that was merged into this one.
    pub(super) fn absorb(&mut self, ended: &device::Model) {
        let model = &mut self.model;
        let mut facts = devices::take_facts(model);
        facts.fill(&devices::facts(ended));
        devices::put_facts(model, facts);
        if ended.first_seen.0 < model.first_seen.0 {
            model.first_seen = ended.first_seen;
        }
        self.visibly = true;
        self.touch();
    }

    fn touch(&mut self) {
        if self.change == Change::None {
            self.change = Change::Updated;
        }
    }
}
