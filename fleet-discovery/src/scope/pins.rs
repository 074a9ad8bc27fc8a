//! The names of a scope and their pinned addresses. The node pins each name once, before its first report.

use std::{collections::BTreeSet, net::IpAddr};

use fleet_core::{AddressPolicy, limits};

use crate::{HostName, shown::shown};

/// A name and the node's answer for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    name: HostName,
    answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The node has not answered.
    None,
    /// One to eight canonical addresses, each once, in the node's order.
    Addresses(Vec<IpAddr>),
    /// The name is skipped for this reason; escaped and bounded.
    Skipped(String),
}

/// The effect of a node's answer for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// The name is pinned to addresses.
    Pinned,
    /// The name is skipped, with a reason.
    Skipped,
    /// The answer repeats an earlier one. Nothing changes.
    Unchanged,
}

/// Why a node's answer for a name is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The command does not include the name.
    #[error("`{0}` is not a name that this command asked for")]
    UnknownName(String),
    /// The node gave a different answer before. The first answer counts.
    #[error("`{0}` was pinned otherwise before")]
    AlreadyPinned(HostName),
}

impl PinError {
    pub(super) fn unknown(name: &str) -> Self {
        Self::UnknownName(shown(name))
    }
}

impl Pin {
    pub(super) fn unanswered(name: HostName) -> Self {
        Self::new(name, Answer::None)
    }

    pub(super) fn new(name: HostName, answer: Answer) -> Self {
        Self { name, answer }
    }

    pub(super) fn name(&self) -> &HostName {
        &self.name
    }

    pub(super) fn is_of(&self, name: &str) -> bool {
        self.name.as_str().eq_ignore_ascii_case(name)
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.answer == Answer::None
    }

    pub(super) fn answer(&self) -> &Answer {
        &self.answer
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        match &self.answer {
            Answer::Addresses(addresses) => addresses,
            Answer::None | Answer::Skipped(_) => &[],
        }
    }

    pub(super) fn skipped(&self) -> Option<&str> {
        match &self.answer {
            Answer::Skipped(reason) => Some(reason),
            Answer::None | Answer::Addresses(_) => None,
        }
    }

    /// Returns the number of addresses that the name has or can get.
    pub(super) fn most_addresses(&self) -> u64 {
        match &self.answer {
            Answer::None => limits::NAME_ADDRESSES as u64,
            Answer::Addresses(addresses) => addresses.len() as u64,
            Answer::Skipped(_) => 0,
        }
    }
}

/// Returns the addresses of all names in order, each once.
pub(super) fn addresses(pins: &[Pin]) -> impl Iterator<Item = IpAddr> + '_ {
    let mut seen = BTreeSet::new();
    pins.iter()
        .flat_map(|pin| pin.addresses().iter().copied())
        .filter(move |ip| seen.insert(*ip))
}

pub(super) fn answer(
    pins: &mut [Pin],
    name: &str,
    answer: Result<&[IpAddr], &str>,
    policy: AddressPolicy,
) -> Result<Pinned, PinError> {
    let pin = pins
        .iter_mut()
        .find(|pin| pin.is_of(name))
        .ok_or_else(|| PinError::unknown(name))?;
    let answer = judge(answer, policy);
    // A node sends its pins again on every new stream.
    if pin.answer == answer {
        return Ok(Pinned::Unchanged);
    }
    // A name that resolves to another address later must not move the scope under accepted reports.
    if pin.answer != Answer::None {
        return Err(PinError::AlreadyPinned(pin.name.clone()));
    }
    pin.answer = answer;
    Ok(match pin.skipped() {
        None => Pinned::Pinned,
        Some(_) => Pinned::Skipped,
    })
}

/// Returns the addresses to which a name may be pinned, canonical and each once, in the order of the answer. The node
/// that resolves a name and the server that receives the answer both apply this check.
///
/// # Errors
///
/// Why the name is skipped: it has no address, more than eight, or one that may not be scanned. One such address is
/// enough, because a mixed answer lets the owner of a name reach into a network.
pub fn pinnable(answered: &[IpAddr], policy: AddressPolicy) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    for ip in answered {
        match policy.admit(*ip) {
            Ok(ip) if addresses.contains(&ip) => {}
            Ok(ip) => addresses.push(ip),
            Err(refused) => {
                return Err(format!(
                    "it resolves to {}, a {} address",
                    refused.ip,
                    refused.class.as_str()
                ));
            }
        }
        if addresses.len() > limits::NAME_ADDRESSES {
            return Err(format!(
                "it resolves to more than {} addresses",
                limits::NAME_ADDRESSES
            ));
        }
    }
    if addresses.is_empty() {
        return Err("it resolves to no address".to_owned());
    }
    Ok(addresses)
}

fn judge(answer: Result<&[IpAddr], &str>, policy: AddressPolicy) -> Answer {
    match answer {
        Ok(answered) => pinnable(answered, policy).map_or_else(Answer::Skipped, Answer::Addresses),
        Err(reason) => Answer::Skipped(format!("the node left it out: {}", shown(reason))),
    }
}
