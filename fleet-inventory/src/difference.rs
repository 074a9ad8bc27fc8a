//! What changed between two results of scans. [`difference`] assigns every device of both to one [`Group`].
//!
//! The crate does not know how a result is stored. Its caller resolves merged records first, so that one device has one
//! id in both results.

mod zero;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use fleet_core::{DeviceFacts, DeviceId, Endpoint, EndpointOutcome, NodeId, SiteId};
pub use zero::{Counts, explain_zero};

/// An endpoint of a site. An address means one host only within a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The site; 0 for the server's own network.
    pub site: SiteId,
    /// The endpoint.
    pub endpoint: Endpoint,
}

/// A device at an endpoint where a scan saw it, with the facts that the scan reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The device, which is the surviving record of a merge.
    pub device: DeviceId,
    /// The site of the node that reported it; 0 for the server's own network.
    pub site: SiteId,
    /// The node that reported it; 0 for the server itself.
    pub node: NodeId,
    /// Where it answered.
    pub endpoint: Endpoint,
    /// The reported facts. An empty text means unknown.
    pub facts: DeviceFacts,
}

impl Seen {
    /// Where it answered, with its site.
    pub fn location(&self) -> Location {
        Location {
            site: self.site,
            endpoint: self.endpoint,
        }
    }
}

/// The later of the two results.
#[derive(Clone, Debug, Default)]
pub struct Later<'a> {
    /// The devices that it saw.
    pub seen: &'a [Seen],
    /// The devices whose reports were rejected, for example because another node owns them. They exist.
    pub rejected: BTreeSet<DeviceId>,
    /// What its scan shows about locations. A location that is absent here is not one of its targets.
    pub outcomes: BTreeMap<Location, EndpointOutcome>,
}

/// The group of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Seen only by the later scan.
    New,
    /// Seen only by the earlier scan, and its endpoint was probed and found silent or refused.
    Missing,
    /// Seen by both at different addresses or sites. Its facts can differ as well.
    Moved,
    /// Seen by both at the same address, with different facts or another port.
    Changed,
    /// Seen by both, with the same facts at the same endpoint.
    Unchanged,
    /// A host of the later scan that answered without being identified.
    Unidentified,
    /// A reported device that the server rejected.
    Rejected,
    /// Seen only by the earlier scan, and the later scan does not show whether it is missing.
    Undecided,
}

impl Group {
    /// Every group, in the order of display.
    pub const ALL: [Self; 8] = [
        Self::New,
        Self::Missing,
        Self::Moved,
        Self::Changed,
        Self::Unchanged,
        Self::Unidentified,
        Self::Rejected,
        Self::Undecided,
    ];

    /// The name in the API, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Missing => "missing",
            Self::Moved => "moved",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Unidentified => "unidentified",
            Self::Rejected => "rejected",
            Self::Undecided => "undecided",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a group: use new, missing, moved, changed, unchanged, unidentified, rejected or undecided"
)]
pub struct UnknownGroup(String);

impl FromStr for Group {
    type Err = UnknownGroup;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|group| group.as_str() == text);
        found.ok_or_else(|| {
            UnknownGroup(text.chars().take(32).flat_map(char::escape_debug).collect())
        })
    }
}

/// A fact that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// The address.
    Address,
    /// The site.
    Site,
    /// The port.
    Port,
    /// The URL scheme.
    Scheme,
    /// The make.
    Manufacturer,
    /// The model.
    Model,
    /// The firmware version.
    Firmware,
    /// The hardware address.
    Mac,
    /// The serial number.
    Serial,
}

impl Field {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Site => "site",
            Self::Port => "port",
            Self::Scheme => "scheme",
            Self::Manufacturer => "manufacturer",
            Self::Model => "model",
            Self::Firmware => "firmware",
            Self::Mac => "mac",
            Self::Serial => "serial",
        }
    }
}

/// Why a device is missing, or why that is undecided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// What the later scan shows about the endpoint.
    Outcome(EndpointOutcome),
    /// Another device answers at the endpoint.
    Replaced,
    /// The later scan reported the device, and the server rejected the report.
    Rejected,
}

impl Reason {
    /// The reason as part of a sentence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outcome(EndpointOutcome::NotATarget) => "its address was not a target",
            Self::Outcome(EndpointOutcome::PortNotScanned) => "its port was not scanned",
            Self::Outcome(EndpointOutcome::Skipped) => "its address was skipped",
            Self::Outcome(EndpointOutcome::NotReached) => "its address was not reached",
            Self::Outcome(EndpointOutcome::NotAnnounced) => {
                "it sent no announcement, and the scan probed only announced hosts"
            }
            Self::Outcome(EndpointOutcome::Unknown) => {
                "the node reported no outcome for its address"
            }
            Self::Outcome(EndpointOutcome::Silent) => "its address did not answer",
            Self::Outcome(EndpointOutcome::Refused) => "its address refused the connection",
            Self::Outcome(EndpointOutcome::Answered) => {
                "its address answered without being identified"
            }
            Self::Replaced => "another device answers at its address",
            Self::Rejected => "it was reported, and the report was rejected",
        }
    }
}

/// A device in one or both results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The group: never `Unidentified` or `Rejected`, which are not devices of a result.
    pub group: Group,
    /// The device.
    pub device: DeviceId,
    /// The earlier sighting; none for a new device.
    pub before: Option<Seen>,
    /// The later sighting; none for a missing or undecided device.
    pub after: Option<Seen>,
    /// The facts that differ, in the order of [`Field`].
    pub changed: Vec<Field>,
    /// Why the device is missing or undecided.
    pub reason: Option<Reason>,
}

/// Compares two results. Every device of either is in exactly one row; rows are ordered by group, then by endpoint,
/// then by device.
///
/// - A device is missing only if the later scan probed its endpoint, found it silent or refused, and reported the
///   device nowhere. In every other case of absence it is undecided, with the reason.
/// - A device that was seen at several endpoints moved only if none of its addresses is in both results.
/// - A fact that one of the results does not know is not a difference.
pub fn difference(before: &[Seen], later: &Later<'_>) -> Vec<Row> {
    let before = by_device(before);
    let after = by_device(later.seen);
    let occupied: BTreeSet<Location> = later.seen.iter().map(Seen::location).collect();
    let devices: BTreeSet<DeviceId> = before.keys().chain(after.keys()).copied().collect();
    let row = |device: DeviceId| match (before.get(&device), after.get(&device)) {
        (Some(was), Some(is)) => in_both(was, is),
        (Some(was), None) => absent(was, later, &occupied),
        (None, is) => is.and_then(|is| is.first().copied()).map(|is| Row {
            group: Group::New,
            device,
            before: None,
            after: Some(is.clone()),
            changed: Vec::new(),
            reason: None,
        }),
    };
    let mut rows: Vec<Row> = devices.into_iter().filter_map(row).collect();
    rows.sort_by_key(|row| (row.group, row.endpoint(), row.device));
    rows
}

impl Row {
    /// Where the device is now, or where it was.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let seen = self.after.as_ref().or(self.before.as_ref());
        seen.map(|seen| seen.endpoint)
    }
}

/// The sightings of each device, in the order of their endpoints.
fn by_device(seen: &[Seen]) -> BTreeMap<DeviceId, Vec<&Seen>> {
    let mut devices: BTreeMap<DeviceId, Vec<&Seen>> = BTreeMap::new();
    for one in seen {
        devices.entry(one.device).or_default().push(one);
    }
    for sightings in devices.values_mut() {
        sightings.sort_by_key(|seen| seen.endpoint);
    }
    devices
}

fn in_both(before: &[&Seen], after: &[&Seen]) -> Option<Row> {
    let (was, is) = pair(before, after)?;
    let changed = fields(was, is);
    let group = match changed.first() {
        Some(Field::Address | Field::Site) => Group::Moved,
        Some(_) => Group::Changed,
        None => Group::Unchanged,
    };
    Some(Row {
        group,
        device: is.device,
        before: Some(was.clone()),
        after: Some(is.clone()),
        changed,
        reason: None,
    })
}

/// The sightings to compare: of the same endpoint, else of the same address, else the first of each.
fn pair<'a>(before: &[&'a Seen], after: &[&'a Seen]) -> Option<(&'a Seen, &'a Seen)> {
    let common = |same: fn(&Seen, &Seen) -> bool| {
        before.iter().find_map(|was| {
            let is = after.iter().find(|is| same(was, is))?;
            Some((*was, *is))
        })
    };
    common(|was, is| was.location() == is.location())
        .or_else(|| common(|was, is| was.site == is.site && was.endpoint.ip == is.endpoint.ip))
        .or_else(|| Some((*before.first()?, *after.first()?)))
}

fn fields(was: &Seen, is: &Seen) -> Vec<Field> {
    let texts = |was: &str, is: &str| !was.is_empty() && !is.is_empty() && was != is;
    let (old, new) = (&was.facts, &is.facts);
    [
        (Field::Address, was.endpoint.ip != is.endpoint.ip),
        (Field::Site, was.site != is.site),
        (Field::Port, was.endpoint.port != is.endpoint.port),
        (Field::Scheme, texts(&old.scheme, &new.scheme)),
        (
            Field::Manufacturer,
            texts(&old.manufacturer, &new.manufacturer),
        ),
        (Field::Model, texts(&old.model, &new.model)),
        (Field::Firmware, texts(&old.firmware, &new.firmware)),
        (
            Field::Mac,
            old.mac.zip(new.mac).is_some_and(|(was, is)| was != is),
        ),
        (
            Field::Serial,
            old.serial
                .as_ref()
                .zip(new.serial.as_ref())
                .is_some_and(|(was, is)| was != is),
        ),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect()
}

/// A device that the later scan did not see. The sighting with the strongest outcome decides, so that a device of two
/// endpoints is missing only if neither of them answered.
fn absent(before: &[&Seen], later: &Later<'_>, occupied: &BTreeSet<Location>) -> Option<Row> {
    let reason_at = |seen: &Seen| {
        if later.rejected.contains(&seen.device) {
            return Reason::Rejected;
        }
        if occupied.contains(&seen.location()) {
            return Reason::Replaced;
        }
        let outcome = later.outcomes.get(&seen.location()).copied();
        Reason::Outcome(outcome.unwrap_or_default())
    };
    let is_missing = |reason: Reason| match reason {
        Reason::Outcome(outcome) => outcome.is_absent(),
        Reason::Replaced | Reason::Rejected => false,
    };
    let reasons = before.iter().map(|seen| (*seen, reason_at(seen)));
    // A sighting that leaves the device undecided weighs more than one that shows it missing.
    let (was, reason) = reasons.min_by_key(|(_, reason)| is_missing(*reason))?;
    let group = if is_missing(reason) {
        Group::Missing
    } else {
        Group::Undecided
    };
    Some(Row {
        group,
        device: was.device,
        before: Some(was.clone()),
        after: None,
        changed: Vec::new(),
        reason: Some(reason),
    })
}

#[cfg(test)]
mod tests;
