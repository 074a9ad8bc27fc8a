//! Sums of arbitrary node reports.

use std::net::{IpAddr, Ipv4Addr};

use fleet_core::outcome::Grade;
use fleet_discovery::{ChunkFacts, LedgerFacts, Scope, Tally, settle};
use proptest::prelude::*;

fn scope() -> impl Strategy<Value = Scope> {
    let list = (0_u8..6, 0_u8..6).prop_map(|(first, more)| match more {
        0 => format!("1|exact|10.0.0.{first}|80"),
        _ => format!("1|exact|10.0.0.{first}-10.0.0.{}|80", first + more),
    });
    let other = prop::sample::select(vec![
        "1|subnet|?|80",
        "1|subnet|10.0.0.0|*80",
        "1|unpinned|a.lan=|80",
        "1|unpinned|a.lan=10.0.0.1|80",
        "1|pinned|a.lan=10.0.0.3+10.0.0.1,b.lan=!gone,c.lan=?|80",
        "1|pinned|b.lan=?|443",
    ])
    .prop_map(str::to_owned);
    prop_oneof![list, other].prop_map(|text| text.parse().expect("a scope"))
}

fn grade() -> impl Strategy<Value = Option<Grade>> {
    prop::sample::select(vec![
        None,
        Some(Grade::Complete),
        Some(Grade::Partial),
        Some(Grade::Failed),
        Some(Grade::Fatal),
    ])
}

fn tallies() -> impl Strategy<Value = Vec<Tally>> {
    let tally = ("[ab]", 0_u64..1_000).prop_map(|(reason, count)| Tally {
        reason,
        count,
        example: String::new(),
    });
    prop::collection::vec(tally, 0..4)
}

proptest! {
    #![proptest_config(fleet_core::regressions!("ledger", 1024))]

    #[test]
    fn totals_add_up_for_every_sequence_of_reports(
        chunks in prop::collection::vec((scope(), prop::option::of(prop::collection::vec(0_u8..8, 0..10)), grade()), 0..5),
        devices in prop::collection::btree_set(0_u32..16, 0..6),
        skipped in tallies(),
        rejected in tallies(),
        accepted in 0_u64..1_000,
    ) {
        let devices: std::collections::BTreeSet<IpAddr> =
            devices.into_iter().map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n).into()).collect();
        let identified = devices.len() as u64;
        let known: std::collections::BTreeSet<IpAddr> =
            chunks.iter().flat_map(|(scope, ..)| scope.addresses()).chain(devices.iter().copied()).collect();
        let names: std::collections::BTreeSet<String> =
            chunks.iter().flat_map(|(scope, ..)| scope.names_without_address().map(|(name, _)| name.to_string())).collect();
        let left_out: u64 = skipped.iter().map(|tally| tally.count).sum();
        let owned_elsewhere: std::collections::BTreeMap<IpAddr, String> =
            known.iter().step_by(3).map(|ip| (*ip, "belongs to node 2 (barn)".to_owned())).collect();
        let elsewhere = owned_elsewhere.keys().filter(|ip| !devices.contains(ip)).count() as u64;
        let facts = LedgerFacts {
            skipped: &skipped,
            chunks: chunks
                .iter()
                .map(|(scope, outcomes, grade)| ChunkFacts { scope, outcomes: outcomes.as_deref(), grade: *grade })
                .collect(),
            devices,
            owned_elsewhere,
            accepted,
            rejected: &rejected,
            first_device_ms: None,
            elapsed_ms: 1,
        };
        let ledger = settle(facts);
        prop_assert!(ledger.adds_up(), "{ledger:?}");
        prop_assert_eq!(ledger.identified, identified);
        prop_assert_eq!(ledger.owned_elsewhere, elsewhere);
        prop_assert_eq!(ledger.targets, (known.len() + names.len()) as u64 + left_out);
        prop_assert_eq!(ledger.accepted, accepted);
    }
}
