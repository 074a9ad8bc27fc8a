//! Round trips of texts.

use std::net::{IpAddr, Ipv4Addr};

use fleet_core::limits;
use fleet_discovery::{AddressList, HostName, Listening, Scope, ServiceType, Target, fuzz};
use proptest::prelude::*;

/// Texts near the grammar: its letters in any order, and pieces of good targets.
fn near_target() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-fx.:/-]{0,24}",
        "[0-9]{1,3}(\\.[0-9]{1,3}){3}([-/][0-9]{1,3})?",
        "(0[xX]?)?[0-9a-f]{1,10}(\\.(0[xX]?)?[0-9a-f]{1,3}){0,4}",
        "[a-zA-Z0-9-]{1,8}(\\.[a-zA-Z0-9-]{1,8}){0,3}",
        ".{0,40}",
    ]
}

/// Texts near types of services.
fn near_service() -> impl Strategy<Value = String> {
    prop_oneof![
        "_?[a-zA-Z0-9-]{0,17}[._]{0,2}_?(tcp|TCP|udp|sctp)?(\\.?[lL]ocal)?\\.?",
        "[a-z0-9_.-]{0,24}",
        ".{0,40}",
    ]
}

proptest! {
    #![proptest_config(fleet_core::regressions!("grammar", 1024))]

    #[test]
    fn a_type_of_services_is_two_labels_that_dns_takes(
        text in near_service(),
        domain in "[a-zA-Z.]{0,8}",
        seconds: i32,
    ) {
        if let Ok(service) = text.parse::<ServiceType>() {
            let name = service.to_string();
            prop_assert_eq!(name.parse(), Ok(service.clone()));
            prop_assert_eq!(format!("{}.local.", name.to_uppercase()).parse(), Ok(service));
            let labels: Vec<&str> = name.split('.').collect();
            prop_assert!(matches!(labels.as_slice(), [name, "_tcp" | "_udp"] if (2..=16).contains(&name.len())));
        }
        if let Ok(read) = Listening::read(&text, &domain, seconds) {
            prop_assert!((1..=60).contains(&read.seconds()));
            prop_assert_eq!(Listening::read(read.service.as_str(), "local", read.seconds()), Ok(read));
        }
    }

    #[test]
    fn accepted_targets_mean_the_same_in_canonical_form(text in near_target()) {
        fuzz::target_grammar(text.as_bytes());
        fuzz::host_name(text.as_bytes());
        if let Ok(name) = text.parse::<HostName>() {
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            prop_assert!(text.parse::<IpAddr>().is_err());
        }
    }

    #[test]
    fn a_network_holds_the_address_it_was_written_with(bits: u32, prefix in limits::TARGET_PREFIX..=32) {
        let ip = Ipv4Addr::from_bits(bits);
        let target: Target = format!("{ip}/{prefix}").parse().expect("a CIDR");
        let addresses = target.addresses().expect("addresses");
        prop_assert!(addresses.contains(ip.into()));
        prop_assert_eq!(addresses.len(), 1_u64 << (32 - prefix));
    }

    #[test]
    fn address_lists_round_trip(numbers in prop::collection::vec((any::<bool>(), 0_u32..600), 0..120)) {
        let ip = |(v6, n): (bool, u32)| -> IpAddr {
            if v6 {
                (0xfd00_u128 << 112 | u128::from(n)).to_be_bytes().into()
            } else {
                Ipv4Addr::from_bits(0x0a00_0000 + n).into()
            }
        };
        let naive: std::collections::BTreeSet<IpAddr> = numbers.into_iter().map(ip).collect();
        let list: AddressList = naive.iter().copied().collect();
        prop_assert_eq!(list.to_string().parse(), Ok(list.clone()));
        prop_assert_eq!(list.len(), naive.len() as u64);
        prop_assert!(list.iter().eq(naive.iter().copied()));
        for (at, ip) in naive.iter().enumerate() {
            prop_assert_eq!(list.position(*ip), Some(at as u64));
        }
        for n in 0..600 {
            for v6 in [false, true] {
                prop_assert_eq!(list.contains(ip((v6, n))), naive.contains(&ip((v6, n))));
            }
        }
        let again: Vec<IpAddr> = list.chunks(7).iter().flat_map(|chunk| chunk.iter().collect::<Vec<_>>()).collect();
        prop_assert!(again.into_iter().eq(naive));
    }

    #[test]
    fn texts_near_a_scope_do_no_harm(text in "1\\|(exact|announced|pinned|subnet|unpinned)\\|[a-c0-9.:=+?!%,-]{0,24}\\|[~*]?[0-9,]{0,12}") {
        fuzz::scope_text(text.as_bytes());
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        fuzz::scope_text(&bytes);
        fuzz::target_grammar(&bytes);
        fuzz::host_name(&bytes);
    }
}

#[test]
fn a_list_of_a_whole_scan_is_read_back() {
    let every_other = (0..limits::SCAN_TARGETS as u32)
        .map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + 2 * n)));
    let list: AddressList = every_other.collect();
    let text = format!("1|exact|{list}|80");
    assert_eq!(
        text.parse::<Scope>().map(|scope| scope.targets()),
        Ok(limits::SCAN_TARGETS as u64)
    );
    let more = format!("1|exact|{list},11.0.0.0|80");
    assert!(more.parse::<Scope>().is_err());
}
