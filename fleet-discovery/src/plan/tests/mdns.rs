//! Tables of mDNS scans: one command, or a refusal.

use super::*;

fn listening(subnets: &[&str], max_targets: u32) -> NodeProfile {
    NodeProfile::announced(Announcement {
        capabilities: &texts(&["big-commands", "outcomes", "mdns"]),
        default_ports: &texts(&["80", "4028"]),
        local_subnets: &texts(subnets),
        max_targets,
        max_ports: 64,
        ..Announcement::default()
    })
}

#[test]
fn an_mdns_scan_is_one_command_over_the_announced_subnets() {
    let node = listening(&["10.77.0.0/22", "10.77.1.0/24", "fd00::/64"], 16_384);
    let plan = planned(mdns("_HTTP._tcp.local.", "Local", 0), &[], &node);
    assert_eq!(
        summary(&plan),
        [
            "_http._tcp for 5 s: 1|announced|10.77.0.1-10.77.0.255,10.77.1.1-10.77.1.254,10.77.2.0-10.77.3.254|~80,4028"
        ]
    );
    assert_eq!((plan.targets, plan.open_scope), (1_024, false));
    assert_eq!(plan.estimate.as_secs(), 6);
    assert!(plan.notes.iter().any(|note| note.contains("silent")));
    assert!(plan.notes.iter().any(|note| note.contains("fd00::/64")));
    // An mDNS scan covers exactly the addresses of the keyword.
    let swept = planned(target(LOCAL_SUBNET), &[], &node);
    let addresses = |plan: &Plan| plan.chunks[0].scope.addresses().collect::<Vec<_>>();
    assert_eq!(addresses(&plan), addresses(&swept));
    assert_eq!(skips(&plan), skips(&swept));
    let plan = planned(mdns("", "", 60), &[], &node);
    assert!(summary(&plan)[0].starts_with("_http._tcp for 60 s: "));
}

#[test]
fn an_impossible_mdns_scan_is_refused_with_the_remedy() {
    use Code::{FailedPrecondition, InvalidArgument};
    let subnets = &["10.77.0.0/22"][..];
    for (mode, ports, subnets, most, code, words) in [
        (
            mdns("http", "", 0),
            &[][..],
            subnets,
            1_024,
            InvalidArgument,
            &["`http`", "_http._tcp"][..],
        ),
        (
            mdns("_a._b._sub._http._tcp", "", 0),
            &[],
            subnets,
            1_024,
            InvalidArgument,
            &["one label", "_axeos._sub._http._tcp"],
        ),
        (
            mdns("", "example.com", 0),
            &[],
            subnets,
            1_024,
            InvalidArgument,
            &["`example.com`", "only in `local`"],
        ),
        (
            mdns("", "", 61),
            &[],
            subnets,
            1_024,
            InvalidArgument,
            &["61 seconds", "1 to 60"],
        ),
        (
            mdns("", "", -5),
            &[],
            subnets,
            1_024,
            InvalidArgument,
            &["-5 seconds"],
        ),
        (
            mdns("", "", 0),
            &["80"],
            subnets,
            1_024,
            InvalidArgument,
            &["port 80", "leave the ports out"],
        ),
        (
            mdns("", "", 0),
            &[],
            &["10.0.0.0/21"],
            1_024,
            FailedPrecondition,
            &["2048", "10.0.0.0/21", "1024", "--local-subnet"],
        ),
        (
            mdns("", "", 0),
            &[],
            &["10.0.0.0/16"],
            16_384,
            FailedPrecondition,
            &["65536", "16384"],
        ),
        (
            mdns("", "", 0),
            &[],
            &["8.8.8.0/24"],
            16_384,
            FailedPrecondition,
            &["8.8.8.0/24", "--local-subnet"],
        ),
        (
            mdns("", "", 0),
            &[],
            &[],
            16_384,
            FailedPrecondition,
            &["none that it announced", "addresses"],
        ),
    ] {
        let node = listening(subnets, most);
        let error =
            plan_for(mode.clone(), ports, &node, PlanPolicy::default()).expect_err("no plan");
        for word in words {
            assert!(error.to_string().contains(word), "{mode:?}: {error}");
        }
        assert_eq!(error.code(), code, "{mode:?}");
    }
    let node = NodeProfile {
        mdns: true,
        ..NodeProfile::upstream()
    };
    let error =
        plan_for(mdns("", "", 0), &[], &node, PlanPolicy::default()).expect_err("no subnets");
    assert_eq!(error.code(), FailedPrecondition);
}
