//! Plans of any request.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use fleet_core::{AddressPolicy, Port, limits};
use fleet_discovery::{
    Announcement, ChunkCommand, Ledger, LedgerFacts, Mode, NodeProfile, Plan, PlanPolicy,
    ScanRequest, Scope, ScopeKind, plan, settle,
};
use proptest::prelude::*;

fn node() -> impl Strategy<Value = NodeProfile> {
    let ours = (
        any::<bool>(),
        1_u32..20_000,
        1_u32..80,
        prop::collection::vec(1_u16.., 0..4),
    )
        .prop_map(|(pins, max_targets, max_ports, ports)| {
            let mut capabilities = vec![
                "big-commands".to_owned(),
                "outcomes".to_owned(),
                "mdns".to_owned(),
            ];
            capabilities.extend(pins.then(|| "pins".to_owned()));
            NodeProfile::announced(Announcement {
                capabilities: &capabilities,
                default_ports: &ports.iter().map(u16::to_string).collect::<Vec<_>>(),
                local_subnets: &[
                    "10.1.0.0/24".to_owned(),
                    "10.1.0.128/25".to_owned(),
                    "10.2.0.0/30".to_owned(),
                ],
                max_targets,
                max_ports,
                ..Announcement::default()
            })
        });
    prop_oneof![Just(NodeProfile::upstream()), ours]
}

fn mode() -> impl Strategy<Value = Mode> {
    let ip = |n: u32| Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
    prop_oneof![
        prop::collection::vec(0_u32..6_000, 1..40)
            .prop_map(move |ns| Mode::List(ns.into_iter().map(ip).collect())),
        (0_u32..9_000, 0_u32..9_000).prop_map(move |(start, more)| Mode::Range {
            start: ip(start),
            end: ip(start + more)
        }),
        (0_u32..70_000, 16_u8..=32)
            .prop_map(move |(n, prefix)| Mode::Target(format!("{}/{prefix}", ip(n)))),
        (0_u32..70_000, 0_u32..256)
            .prop_map(move |(n, last)| Mode::Target(format!("{}-{last}", ip(n)))),
        Just(Mode::Target(fleet_discovery::LOCAL_SUBNET.to_owned())),
        (0_i32..=60).prop_map(|timeout_seconds| Mode::Mdns {
            service_type: "_http._tcp".to_owned(),
            domain: String::new(),
            timeout_seconds,
        }),
    ]
}

/// The addresses that an upstream node would understand by a target.
fn meant(target: &str) -> BTreeSet<IpAddr> {
    let target: fleet_discovery::Target = target.parse().expect("a target of ours");
    target
        .addresses()
        .map(|list| list.iter().collect())
        .unwrap_or_default()
}

/// Every address that the operator asked for.
fn asked(mode: &Mode) -> BTreeSet<IpAddr> {
    let ip = |text: &str| text.parse::<IpAddr>().expect("a literal");
    let bits = |text: &str| text.parse::<Ipv4Addr>().expect("a literal").to_bits();
    match mode {
        Mode::List(entries) => entries.iter().map(|entry| ip(entry)).collect(),
        Mode::Range { start, end } => (bits(start)..=bits(end))
            .map(|n| IpAddr::V4(Ipv4Addr::from_bits(n)))
            .collect(),
        Mode::Target(text) => meant(text),
        Mode::Mdns { .. } => BTreeSet::new(),
    }
}

fn skipped(plan: &Plan) -> u64 {
    plan.skipped.iter().map(|tally| tally.count).sum()
}

proptest! {
    #![proptest_config(fleet_core::regressions!("plans", 96))]

    #[test]
    fn every_address_is_asked_for_once_a_port_and_nothing_else_is(
        mode in mode(),
        ports in prop::collection::btree_set(1_u16.., 0..30),
        node in node(),
    ) {
        let request = ScanRequest { mode: mode.clone(), ports: ports.iter().map(u16::to_string).collect(), rate: 0 };
        let Ok(plan) = plan(&request, &node, &PlanPolicy::default()) else {
            return Ok(());
        };
        let mut probes: BTreeMap<(IpAddr, Option<Port>), u32> = BTreeMap::new();
        for chunk in &plan.chunks {
            let scope: Vec<IpAddr> = chunk.scope.addresses().collect();
            match &chunk.command {
                ChunkCommand::List(entries) => {
                    let sent: Vec<IpAddr> = entries.iter().filter_map(|entry| entry.parse().ok()).collect();
                    prop_assert_eq!(&sent, &scope, "outcome bytes follow the list");
                    prop_assert!(entries.len() <= node.max_targets.min(limits::COMMAND_TARGETS));
                }
                ChunkCommand::Target(target) => {
                    prop_assert!(!node.big_commands || chunk.scope.kind() == ScopeKind::Open);
                    let meant = meant(target);
                    prop_assert!(meant.len() <= node.max_targets.clamp(limits::UPSTREAM_COMMAND_TARGETS, limits::UPSTREAM_V1_COMMAND_TARGETS));
                    prop_assert!(scope.iter().all(|ip| meant.contains(ip)));
                    prop_assert!(meant.len() as u64 <= scope.len() as u64 + skipped(&plan));
                }
                ChunkCommand::Mdns(_) => {
                    prop_assert_eq!(plan.chunks.len(), 1);
                    prop_assert!(scope.len() <= node.max_targets.min(limits::COMMAND_TARGETS));
                }
            }
            prop_assert!(chunk.ports.len() <= node.max_ports.min(limits::COMMAND_PORTS));
            prop_assert_eq!(chunk.scope.to_string().parse::<Scope>(), Ok(chunk.scope.clone()));
            for ip in scope {
                prop_assert!(AddressPolicy::default().admit(ip).is_ok());
                if chunk.ports.is_empty() {
                    *probes.entry((ip, None)).or_default() += 1;
                }
                for port in &chunk.ports {
                    *probes.entry((ip, Some(*port))).or_default() += 1;
                }
            }
        }
        prop_assert!(probes.values().all(|times| *times == 1));
        let groups = ports.len().max(1) as u64;
        let covered: BTreeSet<IpAddr> = probes.keys().map(|(ip, _)| *ip).collect();
        prop_assert_eq!(probes.len() as u64, covered.len() as u64 * groups);
        let announced = match &mode {
            Mode::Target(word) => word == fleet_discovery::LOCAL_SUBNET,
            Mode::Mdns { .. } => true,
            Mode::List(_) | Mode::Range { .. } => false,
        };
        if !announced {
            let asked = asked(&mode);
            prop_assert!(covered.is_subset(&asked));
            prop_assert_eq!(asked.len() as u64, plan.targets);
        }
        prop_assert_eq!(covered.len() as u64 + skipped(&plan), plan.targets);
        // Before anything was done, the ledger has every target of the plan as not reached or skipped.
        let ledger: Ledger = settle(LedgerFacts {
            skipped: &plan.skipped,
            chunks: plan.chunks.iter().map(|chunk| fleet_discovery::ChunkFacts { scope: &chunk.scope, outcomes: None, grade: None }).collect(),
            ..LedgerFacts::default()
        });
        prop_assert!(ledger.adds_up());
        prop_assert_eq!((ledger.targets, ledger.skipped), (plan.targets, skipped(&plan)));
        prop_assert_eq!(ledger.not_reached, covered.len() as u64);
    }
}
