//! Tables of requests, each with its chunks or its error.

mod mdns;
mod sites;

use fleet_core::{AddressPolicy, RejectReason, outcome::Code};

use super::*;
use crate::{Announcement, LOCAL_SUBNET};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn list(entries: &[&str]) -> Mode {
    Mode::List(texts(entries))
}

fn range(start: &str, end: &str) -> Mode {
    Mode::Range {
        start: start.to_owned(),
        end: end.to_owned(),
    }
}

fn target(text: &str) -> Mode {
    Mode::Target(text.to_owned())
}

fn ours() -> NodeProfile {
    NodeProfile::announced(Announcement {
        capabilities: &texts(&["big-commands", "pins", "outcomes", "cancel", "progress"]),
        default_ports: &texts(&["80", "443", "4028"]),
        local_subnets: &texts(&["10.77.0.0/22"]),
        max_targets: 16_384,
        max_ports: 64,
        ..Announcement::default()
    })
}

fn plan_for(
    mode: Mode,
    ports: &[&str],
    node: &NodeProfile,
    policy: PlanPolicy,
) -> Result<Plan, PlanError> {
    let request = ScanRequest {
        mode,
        ports: texts(ports),
        rate: 0,
    };
    plan(&request, node, &policy)
}

fn planned(mode: Mode, ports: &[&str], node: &NodeProfile) -> Plan {
    plan_for(mode, ports, node, PlanPolicy::default()).expect("a plan")
}

/// Formats each chunk as its command and its scope; of a long list, only the length.
fn summary(plan: &Plan) -> Vec<String> {
    plan.chunks
        .iter()
        .map(|chunk| {
            let command = match &chunk.command {
                ChunkCommand::List(entries) if entries.len() > 4 => {
                    format!("list of {}", entries.len())
                }
                ChunkCommand::List(entries) => format!("list {}", entries.join(" ")),
                ChunkCommand::Target(target) => format!("target {target}"),
                ChunkCommand::Mdns(listening) => {
                    format!("{} for {} s", listening.service, listening.seconds())
                }
            };
            format!("{command}: {}", chunk.scope)
        })
        .collect()
}

fn skips(plan: &Plan) -> Vec<(&str, u64, &str)> {
    plan.skipped
        .iter()
        .map(|tally| (tally.reason.as_str(), tally.count, tally.example.as_str()))
        .collect()
}

#[test]
fn a_list_is_canonical_and_counted_once() {
    let plan = planned(
        list(&[
            "10.0.0.9",
            "::ffff:10.0.0.9",
            "fd00::1",
            "10.0.0.1",
            "FD00:0::1",
        ]),
        &["4028", "80", "4028"],
        &ours(),
    );
    assert_eq!(
        summary(&plan),
        ["list 10.0.0.1 10.0.0.9 fd00::1: 1|exact|10.0.0.1,10.0.0.9,fd00::1|80,4028"]
    );
    assert_eq!((plan.targets, plan.open_scope), (3, false));
    assert_eq!(
        plan.ports
            .iter()
            .map(|port| port.number())
            .collect::<Vec<_>>(),
        [4028, 80]
    );
    assert_eq!(plan.chunks[0].ports, plan.ports);
}

#[test]
fn ports_that_are_not_given_come_from_the_node() {
    let mode = || list(&["10.0.0.1"]);
    let plan = planned(mode(), &[], &ours());
    assert_eq!(
        summary(&plan),
        ["list 10.0.0.1: 1|exact|10.0.0.1|~80,443,4028"]
    );
    assert!(plan.ports.is_empty() && plan.notes.is_empty() && !plan.open_scope);
    let plan = planned(mode(), &[], &NodeProfile::upstream());
    assert_eq!(summary(&plan), ["list 10.0.0.1: 1|exact|10.0.0.1|*"]);
    assert!(plan.open_scope);
    assert_eq!(plan.notes.len(), 1);
}

#[test]
fn a_range_includes_all_of_its_addresses() {
    for (start, end, list) in [
        ("10.0.0.0", "10.0.0.3", "10.0.0.0-10.0.0.3"),
        ("10.0.0.1", "10.0.0.3", "10.0.0.1-10.0.0.3"),
        ("10.0.0.255", "10.0.1.1", "10.0.0.255-10.0.1.1"),
        ("10.255.255.255", "10.255.255.255", "10.255.255.255"),
    ] {
        for mode in [range(start, end), target(&format!("{start}..{end}"))] {
            let plan = planned(mode, &["80"], &ours());
            let scope = &plan.chunks[0].scope;
            assert_eq!(scope.to_string(), format!("1|exact|{list}|80"));
            assert_eq!((skips(&plan), plan.targets), (vec![], scope.targets()));
        }
    }
}

#[test]
fn a_set_is_scanned_without_edges_and_excludes() {
    let set = "10.0.0.0/30 10.0.0.3, 10.0.1.1-10.0.1.9 !10.0.1.4/31";
    let list = "10.0.0.1-10.0.0.3,10.0.1.1-10.0.1.3,10.0.1.6-10.0.1.9";
    for mode in [target(set), list_of(set)] {
        let plan = planned(mode, &["80"], &ours());
        assert_eq!(
            plan.chunks[0].scope.to_string(),
            format!("1|exact|{list}|80")
        );
        assert_eq!(
            skips(&plan),
            [
                ("network address", 1, "10.0.0.0"),
                ("excluded", 2, "10.0.1.4")
            ]
        );
        assert_eq!(plan.targets, 13);
    }
}

fn list_of(set: &str) -> Mode {
    Mode::List(set.split(' ').map(str::to_owned).collect())
}

#[test]
fn an_upstream_node_gets_the_ranges_of_a_set_as_targets() {
    let plan = planned(
        target("10.0.0.250-10.0.1.20 10.0.3.7"),
        &["80"],
        &NodeProfile::upstream(),
    );
    assert_eq!(
        summary(&plan),
        [
            "target 10.0.1.0-20: 1|exact|10.0.1.0-10.0.1.20|80",
            "list of 7: 1|exact|10.0.0.250-10.0.0.255,10.0.3.7|80",
        ]
    );
}

#[test]
fn a_network_loses_its_own_edges_only() {
    let upstream = NodeProfile::upstream();
    let plan = planned(target("10.0.5.7/21"), &["80"], &upstream);
    assert_eq!(
        summary(&plan),
        [
            "target 10.0.0.0/22: 1|exact|10.0.0.1-10.0.3.255|80",
            "target 10.0.4.0/22: 1|exact|10.0.4.0-10.0.7.254|80",
        ]
    );
    assert_eq!(
        skips(&plan),
        [
            ("network address", 1, "10.0.0.0"),
            ("broadcast address", 1, "10.0.7.255")
        ]
    );
    assert_eq!(plan.targets, 2_048);
    for (text, scope) in [
        ("10.0.0.9/24", "1|exact|10.0.0.1-10.0.0.254|80"),
        ("10.0.0.9/30", "1|exact|10.0.0.9-10.0.0.10|80"),
        ("10.0.0.9/31", "1|exact|10.0.0.8-10.0.0.9|80"),
        ("10.0.0.9/32", "1|exact|10.0.0.9|80"),
        ("10.0.0.0-255", "1|exact|10.0.0.0-10.0.0.255|80"),
        ("10.0.0.9-9", "1|exact|10.0.0.9|80"),
        ("fd00::9", "1|exact|fd00::9|80"),
    ] {
        for node in [&upstream, &ours()] {
            let plan = planned(target(text), &["80"], node);
            assert_eq!(plan.chunks.len(), 1, "{text}");
            assert_eq!(plan.chunks[0].scope.to_string(), scope, "{text}");
            let aimed = matches!(plan.chunks[0].command, ChunkCommand::Target(_));
            assert_eq!(aimed, !node.big_commands, "{text}");
        }
    }
}

#[test]
fn commands_stay_within_their_nodes_limits() {
    let sizes = |mode, ports: &[&str], node: &NodeProfile| {
        planned(mode, ports, node)
            .chunks
            .iter()
            .map(|chunk| (chunk.scope.targets(), chunk.ports.len()))
            .collect::<Vec<_>>()
    };
    let whole = || range("10.0.0.2", "10.0.255.255");
    let upstream = NodeProfile::upstream();
    assert_eq!(
        sizes(target("10.0.0.0/16"), &["80"], &ours()),
        [(16_384, 1), (16_384, 1), (16_384, 1), (16_382, 1)]
    );
    assert_eq!(sizes(whole(), &["80"], &upstream).len(), 64);
    assert!(
        sizes(whole(), &["80"], &upstream)
            .iter()
            .all(|(targets, _)| *targets <= 1_024)
    );
    // An upstream node would exceed its time on a list of 1,024 silent addresses and two ports.
    assert_eq!(
        sizes(range("10.0.0.2", "10.0.4.1"), &["80", "443"], &upstream),
        [(800, 2), (224, 2)]
    );
    let twelve: Vec<String> = (1..=12).map(|port| port.to_string()).collect();
    let twelve: Vec<&str> = twelve.iter().map(String::as_str).collect();
    assert_eq!(
        sizes(list(&["10.0.0.1"]), &twelve, &upstream),
        [(1, 10), (1, 2)]
    );
    assert_eq!(sizes(list(&["10.0.0.1"]), &twelve, &ours()), [(1, 12)]);
}

#[test]
fn names_need_a_node_that_pins_or_a_policy() {
    let upstream = NodeProfile::upstream();
    let lax = PlanPolicy {
        unpinned_names: true,
        ..PlanPolicy::default()
    };
    let mode = || list(&["b.lan", "10.0.0.1", "A.lan", "b.LAN"]);
    let plan = planned(mode(), &["80"], &ours());
    assert_eq!(
        summary(&plan),
        [
            "list 10.0.0.1: 1|exact|10.0.0.1|80",
            "list a.lan b.lan: 1|pinned|a.lan=?,b.lan=?|80",
        ]
    );
    assert_eq!((plan.targets, plan.open_scope), (3, false));
    for mode in [mode(), target("a.lan")] {
        let error = plan_for(mode, &["80"], &upstream, PlanPolicy::default())
            .expect_err("an upstream node");
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(
            error.to_string().contains(".lan` is a host name"),
            "{error}"
        );
    }
    let plan = plan_for(mode(), &["80"], &upstream, lax).expect("a lax policy");
    assert_eq!(
        summary(&plan),
        [
            "list 10.0.0.1: 1|exact|10.0.0.1|80",
            "list a.lan: 1|unpinned|a.lan=|80",
            "list b.lan: 1|unpinned|b.lan=|80",
        ]
    );
    assert!(plan.open_scope && plan.notes.len() == 1);
    let plan = plan_for(target("A.lan"), &["80"], &upstream, lax).expect("a lax policy");
    assert_eq!(summary(&plan), ["target a.lan: 1|unpinned|a.lan=|80"]);
    let plan = plan_for(target("A.lan"), &["80"], &ours(), lax).expect("a node that pins");
    assert_eq!(summary(&plan), ["list a.lan: 1|pinned|a.lan=?|80"]);
}

#[test]
fn the_local_subnet_is_the_announced_one() {
    let node = |subnets: &[&str]| {
        NodeProfile::announced(Announcement {
            capabilities: &texts(&["big-commands"]),
            local_subnets: &texts(subnets),
            max_targets: 16_384,
            max_ports: 64,
            ..Announcement::default()
        })
    };
    let word = || target(LOCAL_SUBNET);
    let plan = planned(word(), &["80"], &ours());
    assert_eq!(
        summary(&plan),
        ["list of 1022: 1|announced|10.77.0.1-10.77.3.254|80"]
    );
    assert_eq!(plan.targets, 1_024);
    let plan = planned(
        word(),
        &["80"],
        &node(&["10.0.0.0/24", "10.0.0.0/25", "10.9.0.0/31"]),
    );
    assert_eq!(
        plan.chunks[0].scope.to_string(),
        "1|announced|10.0.0.1-10.0.0.126,10.0.0.128-10.0.0.254,10.9.0.0-10.9.0.1|80"
    );
    assert_eq!(plan.targets, 258);
    let plan = planned(
        word(),
        &["80"],
        &node(&["fd00::/64", "8.8.8.0/24", "10.0.0.0/30"]),
    );
    assert_eq!(
        plan.chunks[0].scope.to_string(),
        "1|announced|10.0.0.1-10.0.0.2|80"
    );
    assert_eq!(plan.notes.len(), 2, "{:?}", plan.notes);
    // A message has room for thousands of repetitions.
    let repeated = list(&[LOCAL_SUBNET; 1_000]);
    let subnets = node(&["fd00::/64", "8.8.8.0/24", "10.0.0.0/30"]);
    let repeated = planned(repeated, &["80"], &subnets);
    assert_eq!(
        (repeated.targets, repeated.notes),
        (plan.targets, plan.notes)
    );
    for (subnets, named) in [
        (&["10.0.0.0/8"][..], "10.0.0.0/8"),
        (&["10.0.0.0/16", "10.1.0.0/24"], "10.1.0.0/24"),
        (&["fd00::/64"], "fd00::/64"),
        (&["8.8.8.0/24"], "8.8.8.0/24"),
    ] {
        let error =
            plan_for(word(), &["80"], &node(subnets), PlanPolicy::default()).expect_err("no plan");
        assert!(error.to_string().contains(named), "{error}");
        assert_eq!(error.code(), Code::FailedPrecondition);
    }
}

#[test]
fn a_node_that_announces_nothing_picks_its_subnet() {
    let mut plan = planned(target(LOCAL_SUBNET), &["80"], &NodeProfile::upstream());
    assert_eq!(
        summary(&plan),
        ["target fleetnode-local-subnet: 1|subnet|?|80"]
    );
    assert_eq!((plan.targets, plan.open_scope), (0, true));
    let scope = &mut plan.chunks[0].scope;
    assert!(scope.pin("a", Err(""), AddressPolicy::default()).is_err());
    let outside = "10.0.0.1".parse().expect("a literal");
    let port = fleet_core::Port::new(81).expect("a port");
    assert_eq!(
        scope.check(fleet_core::Endpoint { ip: outside, port }),
        Err(RejectReason::PortOutOfScope)
    );
}

#[test]
fn refusals_name_the_entry_and_the_remedy() {
    use Code::{FailedPrecondition, InvalidArgument};
    let many: Vec<String> = (1..=65).map(|port| port.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (mode, ports, code, words) in [
        (
            list(&[]),
            &["80"][..],
            InvalidArgument,
            &["list is empty"][..],
        ),
        (
            list(&["10.0.0.1", ""]),
            &["80"],
            InvalidArgument,
            &["``", "empty"],
        ),
        (
            list(&["10.0.0.1", "999.1.1.1"]),
            &["80"],
            InvalidArgument,
            &["`999.1.1.1`", "four decimals"],
        ),
        (
            list(&["10.0.0.0/30", "!10.0.0.0/24"]),
            &["80"],
            InvalidArgument,
            &["every target is excluded"],
        ),
        (
            list(&["10.0.0.1", LOCAL_SUBNET]),
            &["80"],
            FailedPrecondition,
            &[LOCAL_SUBNET, "scan it alone"],
        ),
        (
            list(&["8.8.8.8"]),
            &["80"],
            InvalidArgument,
            &["8.8.8.8", "public", "private"],
        ),
        (
            list(&["::ffff:8.8.8.8"]),
            &["80"],
            InvalidArgument,
            &["8.8.8.8"],
        ),
        (
            list(&["169.254.169.254"]),
            &["80"],
            InvalidArgument,
            &["link-local"],
        ),
        (
            list(&["fd00:ec2::254"]),
            &["80"],
            InvalidArgument,
            &["metadata"],
        ),
        (
            list(&["127.0.0.1"]),
            &["80"],
            InvalidArgument,
            &["loopback"],
        ),
        (
            list(&["100.64.0.1"]),
            &["80"],
            InvalidArgument,
            &["carrier-shared"],
        ),
        (
            range("x", "10.0.0.1"),
            &["80"],
            InvalidArgument,
            &["start", "`x`"],
        ),
        (
            range("10.0.0.1", "fd00::1"),
            &["80"],
            InvalidArgument,
            &["end", "`fd00::1`"],
        ),
        (
            range("10.0.0.9", "10.0.0.5"),
            &["80"],
            InvalidArgument,
            &["10.0.0.9", "10.0.0.5", "exchange"],
        ),
        (
            range("10.0.0.0", "10.1.0.0"),
            &["80"],
            InvalidArgument,
            &["65537", "65536", "10.0.0.0-10.1.0.0"],
        ),
        (
            range("10.0.0.0", "192.168.0.0"),
            &["80"],
            InvalidArgument,
            &["3064463361"],
        ),
        (
            range("0.0.0.0", "255.255.255.255"),
            &["80"],
            InvalidArgument,
            &["0.0.0.0", "unspecified"],
        ),
        (
            range("10.255.255.0", "11.0.0.9"),
            &["80"],
            InvalidArgument,
            &["11.0.0.9"],
        ),
        (
            target("8.8.8.0/24"),
            &["80"],
            InvalidArgument,
            &["`8.8.8.0/24`", "8.8.8.0", "public"],
        ),
        (
            target("10.0.0.0/12"),
            &["80"],
            InvalidArgument,
            &["/12", "/16"],
        ),
        (target("fd00::/120"), &["80"], InvalidArgument, &["IPv6"]),
        (
            target("10.0-255.0-255.*"),
            &["80"],
            InvalidArgument,
            &["`10.*.*.*`", "16777216"],
        ),
        (
            target("10.0.0.1"),
            &["80/tcp"],
            InvalidArgument,
            &["`80/tcp`"],
        ),
        (target("10.0.0.1"), &many, InvalidArgument, &["65", "64"]),
        (
            mdns("_http._tcp", "local", 5),
            &["80"],
            FailedPrecondition,
            &["mDNS", "another node", "addresses"][..1],
        ),
    ] {
        let error = plan_for(
            mode.clone(),
            ports,
            &NodeProfile::upstream(),
            PlanPolicy::default(),
        )
        .expect_err("no plan");
        for word in words {
            assert!(error.to_string().contains(word), "{mode:?}: {error}");
        }
        assert_eq!(error.code(), code, "{mode:?}");
    }
}

fn mdns(service_type: &str, domain: &str, timeout_seconds: i32) -> Mode {
    Mode::Mdns {
        service_type: service_type.to_owned(),
        domain: domain.to_owned(),
        timeout_seconds,
    }
}

#[test]
fn the_limit_counts_a_name_as_its_most_addresses() {
    let names = |count: usize| (0..count).map(|n| format!("m{n}.lan")).collect::<Vec<_>>();
    let node = ours();
    let plan = plan_for(
        Mode::List(names(8_192)),
        &["80"],
        &node,
        PlanPolicy::default(),
    )
    .expect("65,536 addresses");
    assert!(
        plan.chunks
            .iter()
            .all(|chunk| chunk.scope.quota() <= 16_384)
    );
    let error = plan_for(
        Mode::List(names(8_193)),
        &["80"],
        &node,
        PlanPolicy::default(),
    )
    .expect_err("too many");
    assert!(
        matches!(error, PlanError::TooManyTargets { count: 65_544, .. }),
        "{error}"
    );
}

#[test]
fn the_first_estimate_assumes_that_some_addresses_answer() {
    let seconds =
        |mode, ports: &[&str], node: &NodeProfile| planned(mode, ports, node).estimate.as_secs();
    // 1,022 probes, 32 at a time, 10 s each.
    assert_eq!(
        seconds(target("10.0.0.0/22"), &["80"], &NodeProfile::upstream()),
        320
    );
    // 65,534 targets, each port 1.38 times at 4,850 per second, and the tails of four commands.
    assert_eq!(seconds(target("10.0.0.0/16"), &["80"], &ours()), 21);
    assert_eq!(seconds(target("10.0.0.0/16"), &[], &ours()), 58);
}

#[test]
fn the_policy_of_the_site_is_named_before_the_scan() {
    let node = NodeProfile::announced(Announcement {
        capabilities: &texts(&["big-commands"]),
        default_ports: &texts(&["80"]),
        denied_ports: &texts(&["22", "23"]),
        allowed_networks: &texts(&["10.0.0.0/24", "10.0.0.0/25"]),
        max_targets: 16_384,
        max_ports: 64,
        ..Announcement::default()
    });
    for (text, ports, notes) in [
        ("10.0.0.0/24", &["80"][..], &[][..]),
        (
            "10.0.0.0/24",
            &[],
            &["the node's site denies these ports, so they are not scanned: 22, 23"],
        ),
        (
            "10.0.0.0/24",
            &["22", "80"],
            &["the node's site denies these ports, and the node refuses a command with them: 22"],
        ),
        (
            "10.0.0.0/23",
            &["80"],
            &[
                "the node skips 255 addresses outside the networks that its site allows, first 10.0.1.0",
            ],
        ),
    ] {
        let plan = planned(target(text), ports, &node);
        assert_eq!(plan.notes, notes, "{text} {ports:?}");
    }
}

#[test]
fn an_upstream_node_of_command_protocol_v1_gets_a_slash_20_in_one_command() {
    let v1 = NodeProfile::announced(Announcement {
        max_targets: 4_096,
        ..Announcement::default()
    });
    let chunks = |node: &NodeProfile, text: &str| planned(target(text), &["80"], node).chunks.len();
    assert_eq!(chunks(&v1, "10.0.0.0/20"), 1);
    assert_eq!(chunks(&v1, "10.0.0.0/18"), 4);
    assert_eq!(chunks(&NodeProfile::upstream(), "10.0.0.0/20"), 4);
}
