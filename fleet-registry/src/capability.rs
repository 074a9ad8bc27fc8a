//! The extensions that the two ends of a control stream announce, by their names on the wire. A peer that announces
//! none is an upstream peer.

use std::fmt;

use fleet_core::limits;

/// An extension of the control protocol. It is used only after both ends have announced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// The node reports the progress of a command.
    Progress,
    /// The server can cancel a command.
    Cancel,
    /// Before the server ends a stream, it sends the reason and the time to reconnect.
    Goodbye,
    /// The node resolves each name once and sends the addresses before its first report.
    Pins,
    /// Acks carry the outcome of each target.
    Outcomes,
    /// The node can scan by mDNS.
    Mdns,
    /// Commands may carry more targets and ports than an upstream node accepts.
    BigCommands,
    /// The node reports hosts that answered and that no driver identified.
    Hosts,
    /// The node can listen for the announcements of IP report buttons.
    Announcements,
    /// The node can try the default passwords of a make.
    DefaultPasswords,
}

impl Capability {
    /// Every capability, in declaration order.
    pub const ALL: [Self; 10] = [
        Self::Progress,
        Self::Cancel,
        Self::Goodbye,
        Self::Pins,
        Self::Outcomes,
        Self::Mdns,
        Self::BigCommands,
        Self::Hosts,
        Self::Announcements,
        Self::DefaultPasswords,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Progress => "progress",
            Self::Cancel => "cancel",
            Self::Goodbye => "goodbye",
            Self::Pins => "pins",
            Self::Outcomes => "outcomes",
            Self::Mdns => "mdns",
            Self::BigCommands => "big-commands",
            Self::Hosts => "hosts",
            Self::Announcements => "announcements",
            Self::DefaultPasswords => "default-passwords",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u16);

impl Capabilities {
    /// The empty set, which an upstream peer announces.
    pub const NONE: Self = Self(0);

    /// Every capability of this version.
    pub fn all() -> Self {
        Capability::ALL.into_iter().collect()
    }

    /// Reads the names in a Hello or an Accepted. Unknown names belong to later versions and are ignored.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names
            .into_iter()
            .filter_map(|name| Capability::ALL.into_iter().find(|c| c.as_str() == name))
            .collect()
    }

    /// Whether it is in the set.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// Whether the set is empty, as that of an upstream peer is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The capabilities in the set, in declaration order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |c| self.has(*c))
    }
}

impl fmt::Display for Capabilities {
    /// The names, separated by commas; `none` for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (at, capability) in self.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{capability}")?;
        }
        Ok(())
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(all: I) -> Self {
        Self(all.into_iter().fold(0, |set, c| set | c.bit()))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The command limits that a node announced in its Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The extensions of the node.
    pub capabilities: Capabilities,
    /// Most targets of one command, between an upstream node's limit and ours.
    pub max_targets: usize,
    /// Most ports of one command, between an upstream node's limit and ours.
    pub max_ports: usize,
}

impl Announced {
    /// The limits of an upstream node.
    pub const UPSTREAM: Self = Self {
        capabilities: Capabilities::NONE,
        max_targets: limits::UPSTREAM_COMMAND_TARGETS,
        max_ports: limits::UPSTREAM_COMMAND_PORTS,
    };

    /// Reads a Hello. The sizes are clamped: a node cannot request less than an upstream node accepts, nor more than this
    /// server sends. Without [`Capability::BigCommands`], a command has at most 4,096 targets and 10 ports.
    pub fn new(capabilities: Capabilities, max_targets: u32, max_ports: u32) -> Self {
        let within =
            |size: u32, least, most| usize::try_from(size).unwrap_or(most).clamp(least, most);
        // Upstream announces a version of its protocol, which the server converts to `max_targets`.
        if !capabilities.has(Capability::BigCommands) {
            return Self {
                capabilities,
                max_targets: within(
                    max_targets,
                    limits::UPSTREAM_COMMAND_TARGETS,
                    limits::UPSTREAM_V1_COMMAND_TARGETS,
                ),
                ..Self::UPSTREAM
            };
        }
        Self {
            capabilities,
            max_targets: within(
                max_targets,
                limits::UPSTREAM_COMMAND_TARGETS,
                limits::COMMAND_TARGETS,
            ),
            max_ports: within(
                max_ports,
                limits::UPSTREAM_COMMAND_PORTS,
                limits::COMMAND_PORTS,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_are_ignored() {
        for capability in Capability::ALL {
            let set = Capabilities::parse([capability.as_str(), "teleport"]);
            assert_eq!(set.iter().collect::<Vec<_>>(), [capability]);
        }
        assert!(Capabilities::parse(["Cancel", ""]).is_empty());
        let some = Capabilities::parse(["pins", "cancel"]);
        assert_eq!(some.to_string(), "cancel, pins");
    }

    #[test]
    fn announced_sizes_are_clamped_to_the_limits_of_upstream_and_ours() {
        let big = Capabilities::all();
        for (capabilities, targets, ports, expected) in [
            (Capabilities::NONE, 0, 0, (1_024, 10)),
            (Capabilities::NONE, 16_384, 64, (4_096, 10)),
            (big, 0, 0, (1_024, 10)),
            (big, 4_096, 32, (4_096, 32)),
            (big, u32::MAX, u32::MAX, (16_384, 64)),
        ] {
            let announced = Announced::new(capabilities, targets, ports);
            assert_eq!((announced.max_targets, announced.max_ports), expected);
        }
    }
}
