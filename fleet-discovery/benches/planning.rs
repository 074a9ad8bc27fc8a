//! How long it takes to read what an operator types, to plan it, and to check what a node says against it: the first
//! two are in an operator's way, the third in that of every row of every report.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fleet_core::{Endpoint, Port};
use fleet_discovery::{
    Announcement, Mode, NodeProfile, PlanPolicy, ScanRequest, Scope, Target, plan,
};

/// One of each form that is taken, and one that is not.
const TARGETS: [&str; 6] = [
    "10.20.30.40",
    "192.168.0.0/22",
    "10.0.0.1-254",
    "fleetnode-local-subnet",
    "miner-17.rack-4.site.example",
    "10.0-255.0.1",
];

fn grammar(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("grammar");
    group.throughput(Throughput::Elements(TARGETS.len() as u64));
    group.bench_function("targets", |bencher| {
        bencher.iter(|| {
            for text in TARGETS {
                black_box(black_box(text).parse::<Target>()).ok();
            }
        });
    });
    group.finish();
}

fn planner(criterion: &mut Criterion) {
    let capabilities = ["big-commands", "outcomes", "pins"].map(str::to_owned);
    let ports = ["4028", "443", "80"].map(str::to_owned);
    let ours = NodeProfile::announced(Announcement {
        capabilities: &capabilities,
        default_ports: &ports,
        local_subnets: &["10.20.0.0/16".to_owned()],
        max_targets: 16_384,
        max_ports: 64,
        ..Announcement::default()
    });
    let upstream = NodeProfile::upstream();
    let policy = PlanPolicy::default();
    let listed: Vec<String> = (0..4_096)
        .map(|host| Ipv4Addr::from_bits(0x0a14_0000 + host * 7).to_string())
        .collect();
    let mut group = criterion.benchmark_group("planner");
    for (name, node, mode, targets) in [
        (
            "a /16 for a node of ours",
            &ours,
            Mode::Target("10.20.0.0/16".to_owned()),
            65_536,
        ),
        (
            "a /16 for an upstream node",
            &upstream,
            Mode::Target("10.20.0.0/16".to_owned()),
            65_536,
        ),
        ("a list of 4,096", &ours, Mode::List(listed), 4_096),
    ] {
        let request = ScanRequest {
            mode,
            ports: ports.to_vec(),
            rate: 0,
        };
        group.throughput(Throughput::Elements(targets));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(plan(black_box(&request), node, &policy)).is_ok());
        });
    }
    group.finish();
}

fn scope(criterion: &mut Criterion) {
    let scattered: Vec<String> = (0..1_024)
        .map(|host| Ipv4Addr::from_bits(0x0a14_0000 + host * 3).to_string())
        .collect();
    let texts = [
        (
            "a /18",
            "1|exact|10.20.0.0-10.20.63.255|4028,443,80".to_owned(),
        ),
        (
            "1,024 scattered",
            format!("1|exact|{}|4028,443,80", scattered.join(",")),
        ),
    ];
    let endpoints: Vec<Endpoint> = (0..1_024_u32)
        .filter_map(|host| {
            Some(Endpoint {
                ip: IpAddr::V4(Ipv4Addr::from_bits(0x0a14_0000 + host * 2)),
                port: Port::new(if host % 3 == 0 { 80 } else { 4028 })?,
            })
        })
        .collect();
    let mut group = criterion.benchmark_group("scope");
    for (name, text) in texts {
        let scope: Scope = text
            .parse()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        group.throughput(Throughput::Elements(endpoints.len() as u64));
        group.bench_function(format!("rows against {name}"), |bencher| {
            bencher.iter(|| {
                for endpoint in &endpoints {
                    black_box(scope.check(black_box(*endpoint))).ok();
                }
            });
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("text of {name}"), |bencher| {
            bencher.iter(|| black_box(black_box(text.as_str()).parse::<Scope>()).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, grammar, planner, scope);
criterion_main!(benches);
