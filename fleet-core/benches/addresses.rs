//! How long it takes to tell what an address is: the classifier is asked for every target, before every dial and for
//! every row of every report.

use std::{hint::black_box, net::IpAddr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fleet_core::{AddressPolicy, classify};

/// One of each kind that a site or an attacker sends.
const ADDRESSES: [&str; 8] = [
    "10.1.2.3",
    "172.31.255.254",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "8.8.8.8",
    "fd00:ec2::254",
    "::ffff:192.168.0.1",
];

fn classifier(criterion: &mut Criterion) {
    let addresses: Vec<IpAddr> = ADDRESSES
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let policy = AddressPolicy::default();
    let mut group = criterion.benchmark_group("classifier");
    group.throughput(Throughput::Elements(addresses.len() as u64));
    group.bench_function("class of an address", |bencher| {
        bencher.iter(|| {
            for address in &addresses {
                black_box(classify(black_box(*address)));
            }
        });
    });
    group.bench_function("admission of an address", |bencher| {
        bencher.iter(|| {
            for address in &addresses {
                black_box(policy.admit(black_box(*address))).ok();
            }
        });
    });
    group.finish();
}

criterion_group!(benches, classifier);
criterion_main!(benches);
