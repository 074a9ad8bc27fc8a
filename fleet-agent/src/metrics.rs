//! Metrics of a node, from the state that its agent publishes. Labels hold only the outcomes below.

use fleet_wire::{
    metrics::{self, register_gauge},
    server::HttpService,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, info::Info},
    registry::Registry,
};
use tokio::sync::watch;

use crate::agent::{AgentCounts, AgentStatus};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The service that answers `GET /metrics` of a node, for a listener of its own: it needs no credential. `halt` is that
/// of [`AgentOptions`](crate::AgentOptions).
pub fn metrics(
    status: watch::Receiver<AgentStatus>,
    halt: watch::Receiver<Option<String>>,
) -> HttpService {
    metrics::service(move |mut registry| {
        let halted = halt.borrow().is_some();
        fill(&mut registry, &status.borrow(), halted);
        std::future::ready(registry)
    })
}

fn fill(registry: &mut Registry, status: &AgentStatus, halted: bool) {
    let node = registry.sub_registry_with_prefix("fleet_node");
    let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    node.register("build", "Version of the node", version);
    let spooled = i64::try_from(status.spooled).unwrap_or(i64::MAX);
    for (name, help, value) in [
        (
            "connected",
            "Whether the server has accepted the control stream: 1 or 0",
            status.connected.into(),
        ),
        (
            "running_commands",
            "Commands that run or are being reported",
            status.running.is_some().into(),
        ),
        (
            "spooled_devices",
            "Found devices that the server has not accepted yet",
            spooled,
        ),
        (
            "halted",
            "Whether the administrator has halted the node: 1 or 0",
            halted.into(),
        ),
    ] {
        register_gauge(node, name, help, value);
    }
    let AgentCounts {
        streams,
        succeeded,
        partial,
        failed,
        identified,
        unidentified,
        refused,
        silent,
        not_probed,
        accepted,
        rejected,
        dropped,
    } = status.counts;
    let opened = Counter::<u64>::default();
    opened.inc_by(streams);
    let help = "Attempts to open the control stream";
    node.register("stream_attempts", help, opened);
    by_outcome(
        node,
        ("commands", "Ended commands by outcome"),
        &[
            ("succeeded", succeeded),
            ("partial", partial),
            ("failed", failed),
        ],
    );
    by_outcome(
        node,
        ("targets", "Targets of ended scans by outcome"),
        &[
            ("identified", identified),
            ("unidentified", unidentified),
            ("refused", refused),
            ("silent", silent),
            ("not_probed", not_probed),
        ],
    );
    by_outcome(
        node,
        ("reported_devices", "Devices in reports by outcome"),
        &[
            ("accepted", accepted),
            ("rejected", rejected),
            ("dropped", dropped),
        ],
    );
}

fn by_outcome(node: &mut Registry, (name, help): (&str, &str), counts: &[(&'static str, u64)]) {
    let family: Family<Outcome, Counter> = Family::default();
    for (outcome, count) in counts {
        family.get_or_create(&Outcome { outcome }).inc_by(*count);
    }
    node.register(name, help, family);
}
