//! Plans at sites that exclude targets, and plans over several nodes.

use fleet_core::NodeId;
use proptest::prelude::*;

use super::*;
use crate::{Exclusion, Participant, plan_at_site, plan_over};

fn exclusions(entries: &[(&str, &str)]) -> Vec<Exclusion> {
    let exclusion = |(target, reason): &(&str, &str)| Exclusion::new(target, "barn", reason);
    entries
        .iter()
        .map(exclusion)
        .collect::<Result<_, _>>()
        .expect("exclusions")
}

fn at_site(text: &str, node: &NodeProfile, entries: &[(&str, &str)]) -> Result<Plan, PlanError> {
    let request = ScanRequest {
        mode: Mode::Target(text.to_owned()),
        ports: texts(&["80"]),
        rate: 0,
    };
    plan_at_site(&request, node, &PlanPolicy::default(), &exclusions(entries))
}

#[test]
fn each_exclusion_is_skipped_with_its_reason() {
    let entries = [
        ("10.0.0.4", "printer"),
        ("10.0.0.4-6", "cameras"),
        ("10.9.0.0/24", "elsewhere"),
    ];
    let plan = at_site("10.0.0.0/28", &ours(), &entries).expect("a plan");
    assert_eq!(plan.targets, 16);
    assert_eq!(
        skips(&plan),
        [
            ("network address", 1, "10.0.0.0"),
            ("broadcast address", 1, "10.0.0.15"),
            ("excluded at site barn: printer", 1, "10.0.0.4"),
            ("excluded at site barn: cameras", 2, "10.0.0.5"),
        ]
    );
    assert_eq!(
        plan.notes,
        [
            "10.0.0.4 is skipped: excluded at site barn: printer",
            "2 addresses of 10.0.0.4-6 are skipped: excluded at site barn: cameras",
        ]
    );
    assert_eq!(
        plan.chunks[0].scope.address_list().to_string(),
        "10.0.0.1-10.0.0.3,10.0.0.7-10.0.0.14"
    );
}

#[test]
fn an_upstream_node_never_gets_a_network_with_an_excluded_address() {
    let upstream = NodeProfile::upstream();
    let plan = at_site("10.0.0.0/27", &upstream, &[("10.0.0.16", "printer")]).expect("a plan");
    assert_eq!(
        summary(&plan),
        [
            "target 10.0.0.1-15: 1|exact|10.0.0.1-10.0.0.15|80",
            "target 10.0.0.17-30: 1|exact|10.0.0.17-10.0.0.30|80",
        ]
    );
    // A network without excluded addresses stays one target.
    let plan = at_site("10.0.1.0/27", &upstream, &[("10.0.0.16", "printer")]).expect("a plan");
    assert_eq!(plan.chunks.len(), 1);
    assert!(
        matches!(&plan.chunks[0].command, ChunkCommand::Target(target) if target == "10.0.1.0/27")
    );
}

#[test]
fn targets_that_only_the_node_resolves_are_refused_where_addresses_are_excluded() {
    let printer = [("10.77.0.9", "printer")];
    let refused = |text: &str, node: &NodeProfile| at_site(text, node, &printer).expect_err(text);
    let name = refused("rig-1.lan", &ours());
    assert!(matches!(name, PlanError::ExcludedUnknown { .. }), "{name}");
    assert!(
        name.to_string().contains("excluded at site barn: printer"),
        "{name}"
    );
    let local = refused("fleetnode-local-subnet", &NodeProfile::upstream());
    assert!(
        matches!(local, PlanError::ExcludedUnknown { .. }),
        "{local}"
    );
    // A node of ours announces its subnets.
    let plan = at_site("fleetnode-local-subnet", &ours(), &printer).expect("a plan");
    assert!(plan.chunks.iter().all(|chunk| {
        !chunk
            .scope
            .address_list()
            .contains("10.77.0.9".parse().expect("an address"))
    }));
    let all = refused("10.77.0.9", &ours());
    assert_eq!(
        all.to_string(),
        "every target is excluded: 10.77.0.9 is skipped: excluded at site barn: printer"
    );
}

fn participant(id: i64, name: &str, subnets: &[&str], entries: &[(&str, &str)]) -> Participant {
    Participant {
        node: NodeId(id),
        name: name.to_owned(),
        connected: true,
        profile: NodeProfile {
            local_subnets: subnets
                .iter()
                .map(|text| text.parse().expect("a subnet"))
                .collect(),
            ..ours()
        },
        exclusions: exclusions(entries),
    }
}

fn over(mode: Mode, nodes: &[Participant]) -> Result<crate::JointPlan, PlanError> {
    let request = ScanRequest {
        mode,
        ports: texts(&["80"]),
        rate: 0,
    };
    plan_over(&request, nodes, &PlanPolicy::default())
}

#[test]
fn targets_are_split_by_the_subnets_of_the_nodes() {
    let nodes = [
        participant(1, "barn-1", &["10.0.0.0/28"], &[("10.0.0.3", "printer")]),
        participant(2, "barn-2", &["10.0.0.0/28", "10.0.0.16/28"], &[]),
    ];
    let joint = over(Mode::Target("10.0.0.1-35".to_owned()), &nodes).expect("a plan");
    let shares: Vec<_> = joint
        .shares
        .iter()
        .map(|share| {
            (
                share.node.0,
                share.plan.chunks[0].scope.address_list().to_string(),
            )
        })
        .collect();
    assert_eq!(
        shares,
        [
            (1, "10.0.0.1-10.0.0.2,10.0.0.4-10.0.0.15".to_owned()),
            (2, "10.0.0.16-10.0.0.31".to_owned()),
        ]
    );
    assert_eq!(joint.plan.targets, 35);
    assert_eq!(joint.uncovered.to_string(), "10.0.0.32-10.0.0.35");
    assert_eq!(
        skips(&joint.plan),
        [
            ("in the subnets of no node of the scan", 4, "10.0.0.32"),
            ("excluded at site barn: printer", 1, "10.0.0.3"),
        ]
    );
    assert_eq!(joint.plan.chunks.len(), 2);
    let notes = joint.plan.notes.join("\n");
    assert!(
        notes
            .contains("15 targets are in the subnets of both barn-1 and barn-2: barn-1 scans them"),
        "{notes}"
    );
    assert!(notes.contains("barn-1: 10.0.0.3 is skipped"), "{notes}");
    let left_out = "4 targets are in the subnets of no node of the scan and are not scanned (10.0.0.32-10.0.0.35)";
    assert!(notes.contains(left_out), "{notes}");
}

#[test]
fn the_local_subnet_word_stands_for_the_subnets_of_all_nodes() {
    let nodes = [
        participant(1, "barn-1", &["10.0.0.0/28"], &[]),
        participant(2, "barn-2", &["10.0.0.0/28", "10.0.0.16/28"], &[]),
    ];
    let joint = over(Mode::Target("fleetnode-local-subnet".to_owned()), &nodes).expect("a plan");
    assert_eq!(joint.plan.targets, 32);
    assert_eq!(
        joint
            .plan
            .skipped
            .iter()
            .map(|tally| tally.count)
            .sum::<u64>(),
        4
    );
    assert!(joint.uncovered.is_empty());
}

#[test]
fn requests_whose_targets_belong_to_no_subnet_are_refused() {
    let nodes = [participant(1, "barn-1", &["10.0.0.0/28"], &[])];
    let refused = |mode| over(mode, &nodes).expect_err("no plan");
    let target = |text: &str| Mode::Target(text.to_owned());
    assert!(matches!(
        refused(target("rig-1.lan")),
        PlanError::SplitName(_)
    ));
    assert!(matches!(
        refused(target("10.0.0.1 rig-1.lan")),
        PlanError::SplitName(_)
    ));
    assert!(matches!(
        refused(target("10.1.0.0/28")),
        PlanError::Uncovered { count: 14, .. }
    ));
    let mdns = Mode::Mdns {
        service_type: String::new(),
        domain: String::new(),
        timeout_seconds: 0,
    };
    assert_eq!(refused(mdns), PlanError::SplitMdns);
    let silent = [participant(1, "barn-1", &[], &[])];
    let error = over(target("fleetnode-local-subnet"), &silent).expect_err("no plan");
    assert_eq!(error, PlanError::SplitLocalSubnet);
}

proptest! {
    #[test]
    fn scanned_and_skipped_targets_add_up(
        first in 0_u8..200, length in 0_u8..50,
        subnets in prop::collection::vec((0_u8..8, 24_u8..30), 1..4),
        excluded in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let excluded: Vec<(String, &str)> = excluded.iter().map(|last| (format!("10.0.0.{last}"), "x")).collect();
        let excluded: Vec<(&str, &str)> = excluded.iter().map(|(target, why)| (target.as_str(), *why)).collect();
        let nodes: Vec<Participant> = subnets
            .iter()
            .enumerate()
            .map(|(at, (part, prefix))| {
                let subnet = format!("10.0.0.{}/{prefix}", part * 32);
                participant(at as i64 + 1, "n", &[&subnet], &excluded)
            })
            .collect();
        let text = format!("10.0.0.{first}-{}", first + length);
        let Ok(joint) = over(Mode::Target(text), &nodes) else { return Ok(()) };
        let scanned: u64 = joint.plan.chunks.iter().map(|chunk| chunk.scope.targets()).sum();
        let skipped: u64 = joint.plan.skipped.iter().map(|tally| tally.count).sum();
        prop_assert_eq!(scanned + skipped, joint.plan.targets);
        prop_assert_eq!(joint.plan.targets, u64::from(length) + 1);
        for (target, _) in &excluded {
            let ip = target.parse().expect("an address");
            prop_assert!(!joint.plan.chunks.iter().any(|chunk| chunk.scope.address_list().contains(ip)));
        }
    }
}
