//! Taking back what a report has made one: an operator says that two names are two devices.
//!
//! The record with the stronger name keeps its id, place, history and, unless it came with the other, its
//! binding. The weaker name stands by itself again, without a place until it is reported, and is kept
//! apart from the stronger one: the next report does not make them one again. Another identity that
//! the device shows is new evidence and may.

use fleet_core::{DeviceId, DeviceIdentifier};

use crate::DeviceRecord;

/// What a report made one: a record that goes by another identifier since, or one that has ended in
/// another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityChange {
    /// The record that goes by both names: the one it was, or the one in which that has ended since.
    pub device: DeviceId,
    /// The record that ended in it; none when it only changed its identifier.
    pub merged: Option<DeviceId>,
    /// The weaker name.
    pub former: DeviceIdentifier,
    /// The name that stayed.
    pub became: DeviceIdentifier,
    /// Whether it was taken back already.
    pub undone: bool,
}

/// What taking back writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// The record that lives again; none when one is made anew with the former identifier.
    pub revive: Option<DeviceId>,
    /// What the weaker record is kept apart from, besides what it was.
    pub keep_apart: Vec<DeviceIdentifier>,
}

/// Why a change is not taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UndoRefusal {
    /// It was before.
    #[error("the change was taken back already")]
    Undone,
    /// A live record has the name.
    #[error("device {device} goes by {identifier} already: the two are apart")]
    Taken {
        /// That record.
        device: DeviceId,
        /// The name.
        identifier: DeviceIdentifier,
    },
}

/// Decides about taking back a change. `survivor` is the live record that `change.device` names, `holder`
/// the live record that goes by the former name, if one does.
///
/// # Errors
///
/// [`UndoRefusal`]; nothing is to be written.
pub fn decide_undo(
    change: &IdentityChange,
    survivor: &DeviceRecord,
    holder: Option<DeviceId>,
) -> Result<Undo, UndoRefusal> {
    if change.undone {
        return Err(UndoRefusal::Undone);
    }
    if let Some(device) = holder {
        return Err(UndoRefusal::Taken {
            device,
            identifier: change.former.clone(),
        });
    }
    let mut keep_apart = vec![change.became.clone()];
    if survivor.identifier != change.became {
        keep_apart.push(survivor.identifier.clone());
    }
    Ok(Undo {
        revive: change.merged,
        keep_apart,
    })
}

/// Names that a record is kept apart from at the most; each costs an operator's call.
pub const KEPT_APART_MOST: usize = 16;

/// Adds names to what a record is kept apart from, each once; over the bound the oldest go.
pub fn keep_apart(
    known: &[DeviceIdentifier],
    more: impl IntoIterator<Item = DeviceIdentifier>,
) -> Vec<DeviceIdentifier> {
    let mut all = known.to_vec();
    for identifier in more {
        all.retain(|known| *known != identifier);
        all.push(identifier);
    }
    all.split_off(all.len().saturating_sub(KEPT_APART_MOST))
}

#[cfg(test)]
mod tests;
