//! Reverts a merge or an identifier change that a report caused: an operator states that two identifiers are two
//! devices.
//!
//! The record with the stronger identifier keeps its id, endpoint and history. It keeps its binding unless the
//! binding came from the other record. The weaker identifier gets a record of its own, without an endpoint until it
//! is reported. The two are kept apart, so the next report does not merge them again. Another identity that the
//! device shows is new evidence and may merge them.

use fleet_core::{DeviceId, DeviceIdentifier};

use crate::DeviceRecord;

/// A change that a report caused: a record got another identifier, or was merged into another record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityChange {
    /// The record that has both identifiers. If it was merged since, the record that it was merged into.
    pub device: DeviceId,
    /// The record that was merged into it; none if only the identifier changed.
    pub merged: Option<DeviceId>,
    /// The weaker identifier.
    pub former: DeviceIdentifier,
    /// The identifier that remained.
    pub became: DeviceIdentifier,
    /// Whether the change was already reverted.
    pub undone: bool,
}

/// The writes that revert a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// The record to restore; none if a new record with the former identifier is created.
    pub revive: Option<DeviceId>,
    /// Further identifiers from which the weaker record is kept apart.
    pub keep_apart: Vec<DeviceIdentifier>,
}

/// Why a change cannot be reverted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UndoRefusal {
    /// The change was already reverted.
    #[error("the change was taken back already")]
    Undone,
    /// A live record has the identifier.
    #[error("device {device} goes by {identifier} already: the two are apart")]
    Taken {
        /// The id of that record.
        device: DeviceId,
        /// The identifier.
        identifier: DeviceIdentifier,
    },
}

/// Decides whether to revert a change. `survivor` is the live record that `change.device` names. `holder` is the live
/// record with the former identifier, if there is one.
///
/// # Errors
///
/// [`UndoRefusal`] states why the change stays. Nothing must be written.
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
    // The record may have got a stronger identifier since the change.
    if survivor.identifier != change.became {
        keep_apart.push(survivor.identifier.clone());
    }
    Ok(Undo {
        revive: change.merged,
        keep_apart,
    })
}

/// Maximum number of identifiers from which a record is kept apart. Each one requires a call by an operator.
pub const KEPT_APART_MOST: usize = 16;

/// Adds identifiers to those from which a record is kept apart, each once. Above the limit the oldest are dropped.
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
