//! A device in memory, as the rows of a report change it.

use fleet_core::DeviceReport;

use crate::sql::{devices, entity::device, prelude::*};

/// A device in memory. Until it is saved, a new one goes by the provisional id of the rules.
pub(super) struct Held {
    model: device::Model,
    change: Change,
    /// What an operator sees of it has changed.
    visibly: bool,
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
            model,
            change: Change::None,
            visibly: false,
        }
    }

    pub(super) fn new(model: device::Model) -> Self {
        Self {
            model,
            change: Change::Created,
            visibly: true,
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

    /// Takes over what a row says: what it leaves blank stays as it was known.
    pub(super) fn learn(&mut self, reporter: NodeId, report: &DeviceReport, now: Timestamp) {
        let model = &mut self.model;
        let mut facts = devices::take_facts(model);
        self.visibly |= facts.update(&report.facts);
        devices::put_facts(model, facts);
        model.node_id = Some(reporter.0);
        model.ip = Some(AsText(report.endpoint.ip));
        model.port = Some(i64::from(report.endpoint.port.number()));
        model.last_seen = Micros(now);
        self.touch();
    }

    /// Another device is at its place: where it is now is not known.
    pub(super) fn displace(&mut self) {
        self.model.ip = None;
        self.model.port = None;
        self.touch();
    }

    /// It goes by another identifier.
    pub(super) fn rename(&mut self, identifier: DeviceIdentifier) {
        self.model.identifier = AsText(identifier);
        self.visibly = true;
        self.touch();
    }

    /// It is another record's device: what it knew stays in its row.
    pub(super) fn end(&mut self, now: Timestamp) {
        self.displace();
        self.model.deleted_at = Some(Micros(now));
    }

    /// Takes over from a record that ended in this one what it does not know.
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
