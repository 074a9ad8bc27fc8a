//! What an ended scan shows about devices that is new. Start with [`observe`].

use std::{collections::BTreeMap, net::IpAddr};

use fleet_core::{DeviceId, EndpointOutcome, Timestamp};

use super::AlertEvent;
use crate::difference::{Field, Group, Later, Row, Seen, difference};

/// A device as earlier scans showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it answered last, and its facts.
    pub seen: Seen,
    /// The address before that, if it moved.
    pub former: Option<IpAddr>,
    /// The number of scans in a row that found it missing.
    pub missed: u32,
}

/// An ended scan.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// What it saw, rejected and probed.
    pub later: Later<'a>,
    /// When the inventory saw these devices first.
    pub first_seen: BTreeMap<DeviceId, Timestamp>,
}

/// A fact about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceFact {
    /// No scan showed it before.
    New(Seen),
    /// It did not answer.
    Missing {
        /// Where it was.
        was: Seen,
        /// The number of scans in a row.
        scans: u32,
    },
    /// It answers at another address.
    Moved {
        /// The former address.
        from: IpAddr,
        /// Where it is.
        is: Seen,
    },
    /// It has another firmware.
    Firmware {
        /// The former firmware.
        from: String,
        /// The device with its new firmware.
        is: Seen,
    },
}

impl DeviceFact {
    /// The event of the fact.
    pub fn event(&self) -> AlertEvent {
        match self {
            Self::New(_) => AlertEvent::NewDevice,
            Self::Missing { .. } => AlertEvent::DeviceMissing,
            Self::Moved { .. } => AlertEvent::DeviceMoved,
            Self::Firmware { .. } => AlertEvent::FirmwareChanged,
        }
    }

    /// The device, where it is or was.
    pub fn seen(&self) -> &Seen {
        match self {
            Self::New(seen)
            | Self::Missing { was: seen, .. }
            | Self::Moved { is: seen, .. }
            | Self::Firmware { is: seen, .. } => seen,
        }
    }
}

/// The facts of a scan, and the state after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The facts, by event and endpoint.
    pub facts: Vec<DeviceFact>,
    /// The devices whose state changed. The caller stores them together with the messages, which makes each fact occur
    /// once.
    pub changed: Vec<Known>,
}

/// Compares an ended scan with the state of its sites. `since` is when devices of the organization were first watched:
/// one that was first seen before is not new.
///
/// - A device is missing once more only if the scan probed its endpoint, found it silent or refused, and reported the
///   device nowhere. A scan that says nothing about it does not count.
/// - A device with addresses in two ranges that are scanned in turn moves once: a return to the former address counts
///   only if the scan probed the other one.
/// - An unknown firmware is not a change.
pub fn observe(
    known: &BTreeMap<DeviceId, Known>,
    scan: &Observed<'_>,
    since: Timestamp,
) -> Observation {
    let before: Vec<Seen> = known.values().map(|known| known.seen.clone()).collect();
    let mut observation = Observation::default();
    for row in difference(&before, &scan.later) {
        match (&row.after, known.get(&row.device)) {
            (Some(is), None) => observation.first(scan, is, since),
            (Some(is), Some(known)) => observation.again(scan, &row, known, is),
            (None, Some(known)) if row.group == Group::Missing => {
                let scans = known.missed.saturating_add(1);
                observation.facts.push(DeviceFact::Missing {
                    was: known.seen.clone(),
                    scans,
                });
                observation.changed.push(Known {
                    missed: scans,
                    ..known.clone()
                });
            }
            (None, _) => {}
        }
    }
    let order = |fact: &DeviceFact| (fact.event(), fact.seen().endpoint, fact.seen().device);
    observation.facts.sort_by_key(order);
    observation
}

impl Observation {
    fn first(&mut self, scan: &Observed<'_>, is: &Seen, since: Timestamp) {
        let first_seen = scan.first_seen.get(&is.device);
        if first_seen.is_some_and(|first_seen| *first_seen >= since) {
            self.facts.push(DeviceFact::New(is.clone()));
        }
        self.changed.push(Known {
            seen: is.clone(),
            former: None,
            missed: 0,
        });
    }

    fn again(&mut self, scan: &Observed<'_>, row: &Row, known: &Known, is: &Seen) {
        let mut next = Known {
            seen: is.clone(),
            former: known.former,
            missed: 0,
        };
        let was = &known.seen;
        if row.changed.contains(&Field::Address) {
            let outcome = scan.later.outcomes.get(&was.location()).copied();
            let is_return =
                known.former == Some(is.endpoint.ip) && !is_probed(outcome.unwrap_or_default());
            if !is_return {
                self.facts.push(DeviceFact::Moved {
                    from: was.endpoint.ip,
                    is: is.clone(),
                });
            }
            next.former = Some(was.endpoint.ip);
        }
        if row.changed.contains(&Field::Firmware) {
            self.facts.push(DeviceFact::Firmware {
                from: was.facts.firmware.clone(),
                is: is.clone(),
            });
        }
        if next.seen.facts.firmware.is_empty() {
            next.seen.facts.firmware.clone_from(&was.facts.firmware);
        }
        let same = |next: &Known| {
            next.seen.endpoint == was.endpoint
                && next.seen.facts.firmware == was.facts.firmware
                && (next.former, next.missed) == (known.former, known.missed)
        };
        if !same(&next) {
            self.changed.push(next);
        }
    }
}

/// Whether a scan says something about the host at an endpoint. Upstream nodes report no outcomes.
fn is_probed(outcome: EndpointOutcome) -> bool {
    match outcome {
        EndpointOutcome::NotATarget
        | EndpointOutcome::PortNotScanned
        | EndpointOutcome::Skipped
        | EndpointOutcome::NotReached
        | EndpointOutcome::NotAnnounced => false,
        EndpointOutcome::Unknown
        | EndpointOutcome::Silent
        | EndpointOutcome::Refused
        | EndpointOutcome::Answered => true,
    }
}
