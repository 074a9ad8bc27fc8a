//! Removes the targets that a site excludes from a selection.

use std::net::IpAddr;

use super::{
    PlanError,
    select::{Selection, TargetGroup},
};
use crate::{AddressList, Exclusion};

/// Removes excluded addresses. Each exclusion that covers a target is a skip with its reason, and a note with its
/// targets.
///
/// # Errors
///
/// Only the node knows the addresses of a target, so that the exclusions cannot be applied to it.
pub(super) fn exclude(
    selection: &mut Selection,
    exclusions: &[Exclusion],
) -> Result<(), PlanError> {
    let Some(first) = exclusions.first() else {
        return Ok(());
    };
    let unknown = |target: String| PlanError::ExcludedUnknown {
        target,
        exclusion: first.skipped(),
    };
    let all = match &selection.group {
        TargetGroup::Named(name) => return Err(unknown(name.to_string())),
        TargetGroup::LocalSubnet => return Err(unknown(crate::LOCAL_SUBNET.to_owned())),
        TargetGroup::Listed { addresses, names } | TargetGroup::Written { addresses, names } => {
            if let Some(name) = names.first() {
                return Err(unknown(name.to_string()));
            }
            addresses
        }
        TargetGroup::Aimed { addresses, .. }
        | TargetGroup::Announced(addresses)
        | TargetGroup::Announcing { addresses, .. } => addresses,
    };
    let is_excluded = |ip: IpAddr| exclusions.iter().any(|one| one.contains(ip));
    let kept = all.filtered(|ip| !is_excluded(ip));
    if kept.len() == all.len() {
        return Ok(());
    }
    if let TargetGroup::Announcing { listening, .. } = &selection.group {
        return Err(unknown(format!("mDNS service {}", listening.service)));
    }
    let mut rest = all.clone();
    for exclusion in exclusions {
        let covered = rest.filtered(|ip| exclusion.contains(ip));
        let Some(example) = covered.iter().next() else {
            continue;
        };
        // An address that two exclusions cover is skipped once.
        rest = rest.filtered(|ip| !exclusion.contains(ip));
        let reason = exclusion.skipped();
        selection.notes.push(note(exclusion, &covered));
        selection.skip(&reason, covered.len(), example);
    }
    selection.keep(kept);
    Ok(())
}

fn note(exclusion: &Exclusion, covered: &AddressList) -> String {
    let target = exclusion.target().to_string();
    match covered.len() {
        1 => format!("{covered} is skipped: {}", exclusion.skipped()),
        count => format!(
            "{count} addresses of {target} are skipped: {}",
            exclusion.skipped()
        ),
    }
}

impl Selection {
    /// Whether it has no target, not even one that only its node knows.
    pub(super) fn is_empty(&self) -> bool {
        match &self.group {
            TargetGroup::Listed { addresses, names }
            | TargetGroup::Written { addresses, names } => addresses.is_empty() && names.is_empty(),
            TargetGroup::Aimed { addresses, .. }
            | TargetGroup::Announced(addresses)
            | TargetGroup::Announcing { addresses, .. } => addresses.is_empty(),
            TargetGroup::Named(_) | TargetGroup::LocalSubnet => false,
        }
    }

    /// Replaces the addresses with some of them.
    pub(super) fn keep(&mut self, kept: AddressList) {
        match &mut self.group {
            TargetGroup::Listed { addresses, .. }
            | TargetGroup::Written { addresses, .. }
            | TargetGroup::Announced(addresses)
            | TargetGroup::Announcing { addresses, .. } => *addresses = kept,
            TargetGroup::Aimed { addresses, .. } if *addresses == kept => {}
            // The target as it was written would make an upstream node scan all of it.
            TargetGroup::Aimed { .. } => {
                self.group = TargetGroup::Written {
                    addresses: kept,
                    names: Vec::new(),
                }
            }
            TargetGroup::Named(_) | TargetGroup::LocalSubnet => {}
        }
    }
}
