//! Which hardware addresses say who a device is. Pure.
//!
//! A router that answers for others (proxy ARP) would make all of them one device.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{DeviceFacts, Mac};

/// The longest evidence, in characters.
const EVIDENCE: usize = 512;

/// What the neighbor table says of a host's hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Neighbor {
    /// Its own: it answered for this one address of the scan.
    Own(Mac),
    /// A router's, or it answered for other addresses too.
    Shared(Mac),
}

impl Neighbor {
    /// Gives a device that shows no identity of its own the address that answered for it, and says so in its
    /// evidence. What a device says of itself counts more: several may share an address.
    pub(in crate::engine) fn vouch_for(self, device: &mut DeviceFacts) {
        let says_who = device.mac.is_some() || device.serial.is_some();
        let (mac, what) = match self {
            Self::Own(mac) => (mac, "the neighbor table has"),
            Self::Shared(mac) => (mac, "not its own, the neighbor table has"),
        };
        if matches!(self, Self::Own(_)) && !says_who {
            device.mac = Some(mac);
        }
        let separator = if device.evidence.is_empty() { "" } else { "; " };
        let evidence = format!("{}{separator}{what} {mac}", device.evidence);
        if evidence.chars().count() <= EVIDENCE {
            device.evidence = evidence;
        }
    }
}

/// Judges what answered for each host of a scan; `gateways` are the hardware addresses of this machine's routers.
pub(super) fn judge(
    answered: &BTreeMap<u32, Mac>,
    gateways: &BTreeSet<Mac>,
) -> BTreeMap<u32, Neighbor> {
    let mut hosts_of: BTreeMap<Mac, u32> = BTreeMap::new();
    for mac in answered.values() {
        *hosts_of.entry(*mac).or_default() += 1;
    }
    let judged = |mac: Mac| {
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
        .map(|(host, mac)| (*host, judged(*mac)))
        .collect()
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
    fn an_address_that_answers_for_one_host_is_that_hosts_own() {
        let placeholder = Mac::new([0; 6]);
        let answered = [
            (1, mac(1)),
            (2, mac(9)),
            (3, mac(9)),
            (4, mac(7)),
            (5, placeholder),
        ];
        let judged = judge(&answered.into(), &[mac(7)].into());
        let expected = [
            (1, Neighbor::Own(mac(1))),
            (2, Neighbor::Shared(mac(9))),
            (3, Neighbor::Shared(mac(9))),
            (4, Neighbor::Shared(mac(7))),
        ];
        assert_eq!(judged, expected.into());
    }

    #[test]
    fn a_device_is_vouched_for_only_if_it_says_nothing_of_itself() {
        let (own, shared) = (Neighbor::Own(mac(1)), Neighbor::Shared(mac(1)));
        let (its, serial) = (Some(mac(5)), Serial::new("S1"));
        for (neighbor, says, serial, expected) in [
            (own, None, None, Some(mac(1))),
            (own, its, None, its),
            (own, None, serial, None),
            (shared, None, None, None),
        ] {
            let mut device = device(says, serial);
            neighbor.vouch_for(&mut device);
            assert_eq!(device.mac, expected);
            assert!(device.evidence.contains("02:00:00:00:00:01"));
        }
        let mut talkative = device(None, None);
        talkative.evidence = "x".repeat(EVIDENCE);
        own.vouch_for(&mut talkative);
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
        fn no_two_hosts_and_no_router_have_one_identity(
            answered in prop::collection::btree_map(0u32..50, (0u8..20).prop_map(mac), 0..50),
            gateways in prop::collection::btree_set((0u8..20).prop_map(mac), 0..4),
        ) {
            let judged = judge(&answered, &gateways);
            prop_assert_eq!(judged.len(), answered.len());
            let mut seen = BTreeSet::new();
            for (host, neighbor) in judged {
                let (Neighbor::Own(found) | Neighbor::Shared(found)) = neighbor;
                prop_assert_eq!(Some(&found), answered.get(&host));
                if let Neighbor::Own(mac) = neighbor {
                    prop_assert!(seen.insert(mac) && !gateways.contains(&mac));
                }
            }
        }
    }
}
