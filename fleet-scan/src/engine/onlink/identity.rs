//! Decides which hardware addresses identify a device. Pure.
//!
//! A router that answers for other hosts (proxy ARP) would otherwise merge all of them into one device.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{DeviceFacts, Mac};

use super::table::{Entry, State};

/// The longest evidence in characters.
const EVIDENCE: usize = 512;

/// A host's hardware address in the neighbor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Neighbor {
    /// It answered for this address of the scan only.
    Own(Mac),
    /// It belongs to a router, or answered for other addresses too.
    Shared(Mac),
}

impl Neighbor {
    /// The address, if it is the host's own.
    pub(in crate::engine) fn own(self) -> Option<Mac> {
        match self {
            Self::Own(mac) => Some(mac),
            Self::Shared(_) => None,
        }
    }

    /// Adds the address to the evidence of a device. A device that reports neither MAC nor serial takes it as its own.
    /// What a device reports has precedence, because several devices can share one hardware address.
    pub(in crate::engine) fn apply_to(self, device: &mut DeviceFacts) {
        let has_identity = device.mac.is_some() || device.serial.is_some();
        let (mac, label) = match self {
            Self::Own(mac) => (mac, "neighbor table:"),
            Self::Shared(mac) => (mac, "neighbor table, shared with other hosts:"),
        };
        if matches!(self, Self::Own(_)) && !has_identity {
            device.mac = Some(mac);
        }
        let separator = if device.evidence.is_empty() { "" } else { "; " };
        let evidence = format!("{}{separator}{label} {mac}", device.evidence);
        if evidence.chars().count() <= EVIDENCE {
            device.evidence = evidence;
        }
    }
}

/// Classifies the addresses that answered for each host. `gateways` are the hardware addresses of this machine's routers.
pub(super) fn classify(
    answered: &BTreeMap<u32, Mac>,
    gateways: &BTreeSet<Mac>,
) -> BTreeMap<u32, Neighbor> {
    let mut hosts_of: BTreeMap<Mac, u32> = BTreeMap::new();
    for mac in answered.values() {
        *hosts_of.entry(*mac).or_default() += 1;
    }
    let neighbor = |mac: Mac| {
        let alone = hosts_of.get(&mac) == Some(&1);
        if alone && !gateways.contains(&mac) {
            Neighbor::Own(mac)
        } else {
            Neighbor::Shared(mac)
        }
    };
    answered
        .iter()
        .filter(|(_, mac)| !mac.is_placeholder())
        .map(|(host, mac)| (*host, neighbor(*mac)))
        .collect()
}

/// The address that answers for this host and for no other one. A router or repeater answers for several, which proves
/// nothing about one of them.
pub(super) fn own_address(ip: IpAddr, entries: &[Entry]) -> Option<Mac> {
    let answers = |entry: &&Entry| match entry.state {
        State::Answered | State::Fixed => true,
        State::Unresolved | State::Failed => false,
    };
    let answered = || entries.iter().filter(answers);
    let mac = answered().find(|entry| entry.ip == ip)?.mac?;
    let is_shared = answered().any(|entry| entry.ip != ip && entry.mac == Some(mac));
    (!is_shared && !mac.is_placeholder()).then_some(mac)
}

#[cfg(test)]
mod tests {
    use fleet_core::Serial;
    use proptest::prelude::*;

    use super::*;

    fn mac(last: u8) -> Mac {
        Mac::new([2, 0, 0, 0, 0, last])
    }

    #[test]
    fn an_entry_proves_a_host_only_if_its_address_answers_for_no_other_one() {
        let entry = |last: u8, state, address: Mac| Entry {
            ip: IpAddr::from([10, 0, 0, last]),
            state,
            mac: Some(address),
            age: std::time::Duration::ZERO,
            confirmed: std::time::Duration::ZERO,
        };
        let entries = [
            entry(1, State::Answered, mac(1)),
            entry(2, State::Answered, mac(9)),
            entry(3, State::Answered, mac(9)),
            entry(4, State::Failed, mac(4)),
            entry(5, State::Fixed, mac(5)),
            entry(6, State::Answered, Mac::new([0; 6])),
            // It failed since, so it does not answer for 10.0.0.5.
            entry(7, State::Failed, mac(5)),
        ];
        for (last, expected) in [
            (1, Some(mac(1))),
            (2, None),
            (3, None),
            (4, None),
            (5, Some(mac(5))),
            (6, None),
            (8, None),
        ] {
            let found = own_address(IpAddr::from([10, 0, 0, last]), &entries);
            assert_eq!(found, expected, "10.0.0.{last}");
        }
    }

    #[test]
    fn an_address_that_answers_for_one_host_belongs_to_it() {
        let placeholder = Mac::new([0; 6]);
        let answered = [
            (1, mac(1)),
            (2, mac(9)),
            (3, mac(9)),
            (4, mac(7)),
            (5, placeholder),
        ];
        let neighbors = classify(&answered.into(), &[mac(7)].into());
        let expected = [
            (1, Neighbor::Own(mac(1))),
            (2, Neighbor::Shared(mac(9))),
            (3, Neighbor::Shared(mac(9))),
            (4, Neighbor::Shared(mac(7))),
        ];
        assert_eq!(neighbors, expected.into());
    }

    #[test]
    fn a_device_takes_the_address_only_if_it_reports_no_identity() {
        let (own, shared) = (Neighbor::Own(mac(1)), Neighbor::Shared(mac(1)));
        let (its, serial) = (Some(mac(5)), Serial::new("S1"));
        for (neighbor, says, serial, expected) in [
            (own, None, None, Some(mac(1))),
            (own, its, None, its),
            (own, None, serial, None),
            (shared, None, None, None),
        ] {
            let mut device = device(says, serial);
            neighbor.apply_to(&mut device);
            assert_eq!(device.mac, expected);
            assert!(device.evidence.contains("02:00:00:00:00:01"));
        }
        let mut talkative = device(None, None);
        talkative.evidence = "x".repeat(EVIDENCE);
        own.apply_to(&mut talkative);
        assert_eq!(talkative.evidence.len(), EVIDENCE);
        assert!(talkative.mac.is_some());
    }

    fn device(mac: Option<Mac>, serial: Option<Serial>) -> DeviceFacts {
        DeviceFacts {
            driver: "test".to_owned(),
            mac,
            serial,
            evidence: "said so".to_owned(),
            ..DeviceFacts::default()
        }
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("identity", 64))]

        #[test]
        fn no_two_hosts_and_no_router_share_an_identity(
            answered in prop::collection::btree_map(0u32..50, (0u8..20).prop_map(mac), 0..50),
            gateways in prop::collection::btree_set((0u8..20).prop_map(mac), 0..4),
        ) {
            let neighbors = classify(&answered, &gateways);
            prop_assert_eq!(neighbors.len(), answered.len());
            let mut seen = BTreeSet::new();
            for (host, neighbor) in neighbors {
                let (Neighbor::Own(found) | Neighbor::Shared(found)) = neighbor;
                prop_assert_eq!(Some(&found), answered.get(&host));
                if let Neighbor::Own(mac) = neighbor {
                    prop_assert!(seen.insert(mac) && !gateways.contains(&mac));
                }
            }
        }
    }
}
