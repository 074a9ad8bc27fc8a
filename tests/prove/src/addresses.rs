//! Classifies every IPv4 address, and every edge of the IPv6 registry, and compares the results with the IANA
//! registries. The registries and the explained differences come from the tests of fleet-core.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    thread,
};

use anyhow::{Result, anyhow, bail, ensure};
use fleet_core::{AddressClass, AddressPolicy, classify};

#[path = "../../../fleet-core/tests/it/registry.rs"]
mod registry;

use registry::{DIFFERENCES, Difference, Registry, explain};

/// Number of IPv4 addresses.
const ALL: u64 = 1 << 32;

/// Number of addresses by class, and by the block of the difference that explains them.
#[derive(Debug, Default)]
struct Counts {
    classes: BTreeMap<AddressClass, u64>,
    explained: BTreeMap<&'static str, u64>,
    admitted: u64,
}

/// A range of addresses for which the registry and the differences are the same.
struct AddressRange {
    first: u32,
    last: u32,
    class: AddressClass,
    difference: Option<&'static Difference>,
}

pub(crate) fn run() -> Result<Vec<String>> {
    let registry = Registry::read();
    let ranges = ranges(&registry)?;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let parts = u32::try_from(threads)?;
    let counts = thread::scope(|scope| {
        let workers: Vec<_> = (0..parts)
            .map(|part| {
                let bound = |part: u32| ALL * u64::from(part) / u64::from(parts);
                let (first, end) = (bound(part), bound(part + 1));
                let ranges = &ranges;
                scope.spawn(move || classify_all(first, end, ranges))
            })
            .collect();
        let counts = workers.into_iter().map(|worker| match worker.join() {
            Ok(counts) => counts,
            Err(_) => bail!("a worker crashed"),
        });
        counts.collect::<Result<Vec<Counts>>>()
    })?;
    let mut all = Counts::default();
    for part in counts {
        for (class, count) in part.classes {
            *all.classes.entry(class).or_default() += count;
        }
        for (block, count) in part.explained {
            *all.explained.entry(block).or_default() += count;
        }
        all.admitted += part.admitted;
    }
    let total: u64 = all.classes.values().sum();
    ensure!(total == ALL, "{total} addresses were classified, not {ALL}");
    let private = (1 << 24) + (1 << 20) + (1 << 16);
    ensure!(
        all.admitted == private,
        "{} addresses may be scanned, RFC 1918 has {private}",
        all.admitted
    );
    let mut figures = vec![format!(
        "{total} IPv4 addresses classified one by one on {threads} threads, {} of them may be scanned, 0 unexplained differences",
        all.admitted
    )];
    for (class, count) in &all.classes {
        figures.push(format!("{count:>10}  {}", class.as_str()));
    }
    for difference in DIFFERENCES {
        if let Some(count) = all.explained.get(difference.block) {
            figures.push(format!(
                "{count:>10}  in {}: {} to the registry, {} here ({})",
                difference.block,
                difference.theirs.as_str(),
                difference.ours.as_str(),
                difference.why
            ));
        }
    }
    figures.push(ipv6(&registry)?);
    Ok(figures)
}

/// Returns the expectation for all IPv4 addresses as contiguous ranges. The registry is constant within each range. The
/// check of every address proves that the classification is constant too.
fn ranges(registry: &Registry) -> Result<Vec<AddressRange>> {
    let edges = registry.edges();
    let mut starts: Vec<u32> = edges
        .iter()
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip.to_bits()),
            IpAddr::V6(_) => None,
        })
        .chain([0])
        .collect();
    starts.sort_unstable();
    starts.dedup();
    let ends = starts
        .iter()
        .skip(1)
        .map(|next| next - 1)
        .chain([u32::MAX])
        .collect::<Vec<_>>();
    let ranges = starts.iter().zip(ends).map(|(first, last)| {
        let ip = IpAddr::V4(Ipv4Addr::from_bits(*first));
        let difference = explain(registry, ip).map_err(|sentence| anyhow!(sentence))?;
        Ok(AddressRange {
            first: *first,
            last,
            class: difference.map_or(registry.class(ip), |difference| difference.ours),
            difference,
        })
    });
    ranges.collect()
}

fn classify_all(first: u64, end: u64, ranges: &[AddressRange]) -> Result<Counts> {
    let mut counts = Counts::default();
    let policy = AddressPolicy::default();
    for span in ranges {
        let from = first.max(span.first.into());
        let to = end.min(u64::from(span.last) + 1);
        if from >= to {
            continue;
        }
        for number in from..to {
            let ip = IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number)?));
            let class = classify(ip);
            ensure!(
                class == span.class,
                "{ip} is {class:?} here, {:?} is expected",
                span.class
            );
            counts.admitted += u64::from(policy.permits(class));
        }
        *counts.classes.entry(span.class).or_default() += to - from;
        if let Some(difference) = span.difference {
            *counts.explained.entry(difference.block).or_default() += to - from;
        }
    }
    Ok(counts)
}

/// Returns the edges of the IPv6 registry and of the differences.
fn ipv6(registry: &Registry) -> Result<String> {
    let edges: Vec<IpAddr> = registry
        .edges()
        .into_iter()
        .filter(IpAddr::is_ipv6)
        .collect();
    let mut explained = 0;
    for ip in &edges {
        let difference = explain(registry, *ip).map_err(|sentence| anyhow!(sentence))?;
        explained += usize::from(difference.is_some());
    }
    Ok(format!(
        "{} edges of {} IPv6 blocks, {explained} of them differ from the registry with a reason, 0 without",
        edges.len(),
        registry
            .blocks()
            .iter()
            .filter(|block| block.network.is_ipv6())
            .count()
    ))
}
