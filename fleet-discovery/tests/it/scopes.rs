//! Membership in a scope against a naive set.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use fleet_core::{Endpoint, Port, RejectReason};
use fleet_discovery::{AddressList, Scope};
use proptest::prelude::*;

proptest! {
    #![proptest_config(fleet_core::regressions!("scopes"))]

    #[test]
    fn an_exact_scope_holds_its_addresses_and_no_others(
        addresses in prop::collection::btree_set(0_u32..64, 1..40),
        ports in prop::collection::btree_set(1_u16..12, 1..6),
    ) {
        let ip = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_00f0 + n));
        let list: AddressList = addresses.iter().map(|n| ip(*n)).collect();
        let text = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let scope: Scope = format!("1|exact|{list}|{text}").parse().expect("a scope");
        let naive: BTreeSet<(u32, u16)> = addresses.iter().flat_map(|n| ports.iter().map(|port| (*n, *port))).collect();
        prop_assert_eq!(scope.quota(), naive.len() as u64);
        for n in 0..64 {
            for port in 1..12 {
                let endpoint = Endpoint { ip: ip(n), port: Port::new(port).expect("a port") };
                let expected = match (naive.contains(&(n, port)), addresses.contains(&n)) {
                    (true, _) => Ok(()),
                    (false, true) => Err(RejectReason::PortOutOfScope),
                    (false, false) => Err(RejectReason::AddressOutOfScope),
                };
                prop_assert_eq!(scope.check(endpoint), expected);
            }
        }
    }
}
