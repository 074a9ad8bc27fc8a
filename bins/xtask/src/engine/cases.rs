//! The sites that are scanned, by whom, and what is wanted of it. Ratios decide, figures are aims.

use std::time::Duration;

use super::tools::Tool;
use crate::lab::Layout;

/// One site and who scans it.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) subnet: &'static str,
    pub(super) devices: usize,
    pub(super) layout: Layout,
    pub(super) ports: &'static [u16],
    pub(super) tools: &'static [Tool],
    /// How often ours runs; each time everything is to be found.
    pub(super) runs: usize,
    /// What our wall time is aimed at, by tool.
    pub(super) aims: &'static [(Tool, Duration)],
    /// What our CPU time is aimed at, a device.
    pub(super) cpu: Option<Duration>,
    /// Our full rate is to be so many times as fast as somebody else.
    pub(super) ratios: &'static [(Tool, f64)],
    /// Our full rate is to be so many times as fast as 32 connections at a time that wait 10 s each.
    pub(super) than_patience: Option<f64>,
}

/// Until the first device is told, which answers at once here; the start of the program is in it.
pub(super) const FIRST: Duration = Duration::from_millis(20);

/// Until the first device is on the operator's screen; the start of the operator's program is in it.
pub(super) const FIRST_SEEN: Duration = Duration::from_millis(300);

/// How many times as long a scan through a server may take as one without.
pub(super) const THROUGH_SERVER: f64 = 2.0;

/// What one run may take of memory on our side, in KiB.
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

/// What is not a comparison of medians, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    /// D on the link without privileges: minutes, since the kernel asks for a neighbor for three seconds.
    Unprivileged,
    /// One packet in a hundred lost each way.
    Loss,
    /// What a node holds in memory when it has nothing to do.
    Idle,
    /// D by a node for an operator, beside D by the engine alone.
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

/// Every name that may be asked for.
pub(super) fn names() -> Vec<&'static str> {
    let cases = CASES.iter().map(|case| case.name);
    cases.chain(Extra::ALL.map(Extra::name)).collect()
}
