//! The sites, the tools that scan them, and the thresholds. Ratios decide; absolute figures are targets.

use std::time::Duration;

use super::tools::Tool;
use crate::lab::Layout;

/// One site and the tools that scan it.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) subnet: &'static str,
    pub(super) devices: usize,
    pub(super) layout: Layout,
    pub(super) ports: &'static [u16],
    pub(super) tools: &'static [Tool],
    /// Runs of our engine. Each must find every device.
    pub(super) runs: usize,
    /// Targets for our wall time, by tool.
    pub(super) aims: &'static [(Tool, Duration)],
    /// Target for our CPU time per device.
    pub(super) cpu: Option<Duration>,
    /// How many times as fast as each tool our full rate must be.
    pub(super) ratios: &'static [(Tool, f64)],
    /// How many times as fast our full rate must be as 32 connections at a time that wait 10 s each.
    pub(super) than_patience: Option<f64>,
}

/// Target for the time to the first device, which answers at once here. It includes the start of the program.
pub(super) const FIRST: Duration = Duration::from_millis(20);

/// Target for the time until the operator sees the first device. It includes the start of the operator's program.
pub(super) const FIRST_SEEN: Duration = Duration::from_millis(300);

/// How many times as long a scan through a server may take.
pub(super) const THROUGH_SERVER: f64 = 2.0;

/// Target for our memory in one run, in KiB.
pub(super) const MEMORY: u64 = 40 * 1024;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "B",
        what: "/22 x 3 ports, 10 % live, the rest dark, routed",
        subnet: "10.77.0.0/22",
        devices: 102,
        layout: Layout::Routed,
        ports: &[4028, 80, 8080],
        tools: &[
            Tool::Ours,
            Tool::OursPolite,
            Tool::NmapRoot,
            Tool::Nmap,
            Tool::RustScan,
        ],
        runs: 20,
        aims: &[
            (Tool::Ours, Duration::from_millis(500)),
            (Tool::OursPolite, Duration::from_secs(2)),
        ],
        cpu: None,
        ratios: &[(Tool::NmapRoot, 12.0), (Tool::Nmap, 8.0)],
        than_patience: Some(500.0),
    },
    Case {
        name: "B-link",
        what: "/22 x 3 ports, 10 % live, on the link",
        subnet: "10.77.0.0/22",
        devices: 102,
        layout: Layout::OnLink,
        ports: &[4028, 80, 8080],
        tools: &[
            Tool::Ours,
            Tool::OursUnprivileged,
            Tool::NmapRoot,
            Tool::Nmap,
        ],
        runs: 5,
        aims: &[],
        cpu: None,
        ratios: &[(Tool::NmapRoot, 5.0), (Tool::Nmap, 10.0)],
        than_patience: None,
    },
    Case {
        name: "C",
        what: "/22 x 1 port, all live, routed",
        subnet: "10.77.0.0/22",
        devices: 1_021,
        layout: Layout::Routed,
        ports: &[4028],
        tools: &[Tool::Ours, Tool::RustScan],
        runs: 20,
        aims: &[(Tool::Ours, Duration::from_millis(400))],
        cpu: Some(Duration::from_micros(240)),
        ratios: &[],
        than_patience: None,
    },
    Case {
        name: "D",
        what: "/16 x 1 port, 1 % live, the rest dark, routed",
        subnet: "10.76.0.0/16",
        devices: 655,
        layout: Layout::Routed,
        ports: &[4028],
        tools: &[Tool::Ours, Tool::Zmap, Tool::RustScan],
        runs: 5,
        aims: &[(Tool::Ours, Duration::from_secs(3))],
        cpu: None,
        ratios: &[(Tool::Zmap, 1.0 / 3.0)],
        than_patience: None,
    },
    Case {
        name: "D-link",
        what: "/16 x 1 port, 1 % live, on the link",
        subnet: "10.76.0.0/16",
        devices: 655,
        layout: Layout::OnLink,
        ports: &[4028],
        tools: &[Tool::Ours],
        runs: 5,
        aims: &[],
        cpu: None,
        ratios: &[],
        than_patience: None,
    },
];

/// Measurements that do not compare medians.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    /// Case D on the link without privileges. It takes minutes, because the kernel waits three seconds for a neighbor.
    Unprivileged,
    /// One packet in a hundred lost each way.
    Loss,
    /// Memory of an idle node.
    Idle,
    /// Case D through a server and a node, beside the engine alone.
    Server,
}

impl Extra {
    pub(super) const ALL: [Self; 4] = [Self::Unprivileged, Self::Loss, Self::Idle, Self::Server];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unprivileged => "D-link-unprivileged",
            Self::Loss => "loss",
            Self::Idle => "idle",
            Self::Server => "D-server",
        }
    }
}

/// All names for the command line.
pub(super) fn names() -> Vec<&'static str> {
    let cases = CASES.iter().map(|case| case.name);
    cases.chain(Extra::ALL.map(Extra::name)).collect()
}
