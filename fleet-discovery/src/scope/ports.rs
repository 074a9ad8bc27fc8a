//! The ports of a scope.

use fleet_core::{Port, limits};

use super::ScopeKind;

/// The ports that may be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// The ports of the request, ascending.
    Exact(Vec<Port>),
    /// The node's announced defaults, ascending.
    Announced(Vec<Port>),
    /// The first ten reported ports, ascending. The node does not announce its defaults.
    Open(Vec<Port>),
}

impl Ports {
    /// Selects the ports of the request; without any, the announced ports; without these, open ports.
    pub(crate) fn new(requested: &[Port], announced: &[Port]) -> Self {
        let sorted = |ports: &[Port]| {
            let mut ports = ports.to_vec();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        match (requested, announced) {
            ([], []) => Self::Open(Vec::new()),
            ([], announced) => Self::Announced(sorted(announced)),
            (requested, _) => Self::Exact(sorted(requested)),
        }
    }

    pub(super) fn narrow(&mut self, port: Port) {
        match self {
            Self::Exact(_) | Self::Announced(_) => {}
            Self::Open(seen) => {
                if let Err(at) = seen.binary_search(&port) {
                    seen.insert(at, port);
                }
            }
        }
    }

    pub(super) fn admits(&self, port: Port) -> bool {
        let known = self.known().binary_search(&port).is_ok();
        match self {
            Self::Exact(_) | Self::Announced(_) => known,
            Self::Open(seen) => known || seen.len() < limits::QUOTA_PORTS,
        }
    }

    pub(super) fn kind(&self) -> ScopeKind {
        match self {
            Self::Exact(_) => ScopeKind::Exact,
            Self::Announced(_) => ScopeKind::Announced,
            Self::Open(_) => ScopeKind::Open,
        }
    }

    /// Returns the maximum number of ports that may be reported.
    pub(crate) fn most(&self) -> u64 {
        match self {
            Self::Exact(ports) | Self::Announced(ports) => ports.len() as u64,
            Self::Open(_) => limits::QUOTA_PORTS as u64,
        }
    }

    pub(super) fn known(&self) -> &[Port] {
        match self {
            Self::Exact(ports) | Self::Announced(ports) | Self::Open(ports) => ports,
        }
    }
}
