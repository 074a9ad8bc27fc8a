//! The lab's three network namespaces. The machine's own interfaces, routes and firewall are neither used nor
//! changed, and labs with different names can exist at the same time.

use std::{net::Ipv4Addr, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::proc;

/// Address of the server.
pub(super) const HUB_ADDRESS: &str = "10.78.0.1";

/// One namespace of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    /// Server and operators, without a route to the site.
    Hub,
    /// The node, with an interface in each network.
    Node,
    /// The devices.
    Site,
}

impl Zone {
    pub(super) const ALL: [Self; 3] = [Self::Hub, Self::Node, Self::Site];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Node => "node",
            Self::Site => "site",
        }
    }
}

/// How the node reaches the site's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Through a router, which drops packets to dark addresses.
    Routed,
    /// On the node's own link, where dark addresses do not resolve.
    OnLink,
}

/// The namespaces of one lab.
#[derive(Debug)]
pub(super) struct Network {
    name: String,
    ip: PathBuf,
}

impl Network {
    /// Names the lab and creates nothing.
    ///
    /// # Errors
    /// If `ip` (iproute2) is missing.
    pub(super) fn new(name: &str) -> Result<Self> {
        let ip = proc::which("ip").context("`ip` (the iproute2 package) is missing")?;
        Ok(Self {
            name: name.into(),
            ip,
        })
    }

    /// The name of a namespace.
    pub(super) fn namespace(&self, zone: Zone) -> String {
        format!("{}-{}", self.name, zone.name())
    }

    /// A command that runs a program inside a namespace.
    pub(super) fn exec(&self, zone: Zone, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(&self.ip);
        command
            .args(["netns", "exec", &self.namespace(zone)])
            .arg(program);
        command
    }

    /// Creates the namespaces. Only the `live` addresses of `subnet` answer; other packets are dropped.
    pub(super) fn up(&self, subnet: &str, live: &[Ipv4Addr], layout: Layout) -> Result<()> {
        for zone in Zone::ALL {
            self.ip(&["netns", "add", &self.namespace(zone)])?;
        }
        self.link(Zone::Hub, "10.78.0.1/30", Zone::Node, "10.78.0.2/30")?;
        self.link(Zone::Node, "10.77.255.1/30", Zone::Site, "10.77.255.2/30")?;
        for zone in Zone::ALL {
            self.batch(zone, "link set lo up\n")?;
        }
        match layout {
            Layout::Routed => {
                let route = format!("route add {subnet} via 10.77.255.2\n");
                self.batch(Zone::Node, &route)?;
                self.batch(Zone::Site, &site_commands(subnet, live))?;
            }
            Layout::OnLink => {
                let (own, length) = first_host(subnet)?;
                let address = format!("addr add {own}/{length} dev site\n");
                self.batch(Zone::Node, &address)?;
                self.batch(Zone::Site, &link_commands(own, live))?;
            }
        }
        self.check_boundary(subnet)
    }

    /// Drops one packet in a hundred, at random, in each direction between node and site.
    ///
    /// # Errors
    /// If nft (nftables) is missing or the kernel does not support it.
    pub(super) fn lose(&self) -> Result<()> {
        for zone in [Zone::Node, Zone::Site] {
            proc::capture_with_input(self.exec(zone, "nft").args(["-f", "-"]), LOSS)?;
        }
        Ok(())
    }

    /// The processes inside a namespace.
    pub(super) fn processes(&self, zone: Zone) -> Result<Vec<u32>> {
        let pids = self.ip(&["netns", "pids", &self.namespace(zone)])?;
        Ok(pids.lines().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Stops every process in the namespaces and removes them. Returns how many existed.
    pub(super) fn down(&self) -> Result<usize> {
        let mut removed = 0;
        for zone in Zone::ALL {
            let namespace = self.namespace(zone);
            if !self.exists(&namespace)? {
                continue;
            }
            self.end_processes(&namespace)?;
            self.ip(&["netns", "delete", &namespace])?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Whether all three namespaces exist.
    pub(super) fn is_up(&self) -> Result<bool> {
        Zone::ALL.into_iter().try_fold(true, |all, zone| {
            Ok(all && self.exists(&self.namespace(zone))?)
        })
    }

    /// Fails if the hub has a route to the site.
    fn check_boundary(&self, subnet: &str) -> Result<()> {
        let target = subnet.split('/').next().unwrap_or(subnet);
        let hub = self.namespace(Zone::Hub);
        if self.ip(&["-n", &hub, "route", "get", target]).is_ok() {
            bail!("the hub has a route to {target}, and the lab would show nothing");
        }
        Ok(())
    }

    fn link(&self, a: Zone, a_address: &str, b: Zone, b_address: &str) -> Result<()> {
        let (a_namespace, b_namespace) = (self.namespace(a), self.namespace(b));
        // An interface is named after the zone it leads to.
        self.ip(&[
            "link",
            "add",
            b.name(),
            "netns",
            &a_namespace,
            "type",
            "veth",
            "peer",
            "name",
            a.name(),
            "netns",
            &b_namespace,
        ])?;
        self.batch(
            a,
            &format!("addr add {a_address} dev {0}\nlink set {0} up\n", b.name()),
        )?;
        self.batch(
            b,
            &format!("addr add {b_address} dev {0}\nlink set {0} up\n", a.name()),
        )
    }

    fn end_processes(&self, namespace: &str) -> Result<()> {
        // TERM, up to five seconds, KILL. A namespace cannot be removed while a process holds it.
        let script = r#"
            kill -TERM $("$1" netns pids "$2") 2>/dev/null
            for _ in $(seq 50); do [ -z "$("$1" netns pids "$2")" ] && exit 0; sleep 0.1; done
            kill -KILL $("$1" netns pids "$2") 2>/dev/null
            exit 0"#;
        proc::capture(
            Command::new("sh")
                .args(["-c", script, "end"])
                .arg(&self.ip)
                .arg(namespace),
        )?;
        Ok(())
    }

    fn exists(&self, namespace: &str) -> Result<bool> {
        let listed = self.ip(&["netns", "list"])?;
        Ok(listed
            .lines()
            .any(|line| line.split_whitespace().next() == Some(namespace)))
    }

    fn batch(&self, zone: Zone, commands: &str) -> Result<()> {
        let mut ip = Command::new(&self.ip);
        proc::capture_with_input(
            ip.args(["-n", &self.namespace(zone), "-batch", "-"]),
            commands,
        )?;
        Ok(())
    }

    fn ip(&self, arguments: &[&str]) -> Result<String> {
        proc::capture(Command::new(&self.ip).args(arguments))
    }
}

/// Drops packets on arrival. A sender is notified of packets that its own firewall drops.
const LOSS: &str = "table ip loss {
  chain arriving {
    type filter hook input priority -150
    numgen random mod 100 == 0 drop
  }
}
";

/// The first host of a subnet, which is never a device, and the length of the prefix.
fn first_host(subnet: &str) -> Result<(Ipv4Addr, u8)> {
    let parts = subnet.split_once('/').context("a subnet has a length")?;
    let network: Ipv4Addr = parts.0.parse()?;
    Ok((Ipv4Addr::from_bits(network.to_bits() + 1), parts.1.parse()?))
}

/// Assigns the live addresses to the site. The rest does not resolve, and `node` is on the same link.
fn link_commands(node: Ipv4Addr, live: &[Ipv4Addr]) -> String {
    let addresses = live
        .iter()
        .map(|address| format!("addr add {address}/32 dev lo\n"));
    let route = format!("route add {node}/32 dev node\n");
    addresses.chain([route]).collect()
}

/// Assigns the live addresses to the site, drops packets to the rest of the subnet, and routes all other
/// networks through the node.
fn site_commands(subnet: &str, live: &[Ipv4Addr]) -> String {
    let addresses = live
        .iter()
        .map(|address| format!("addr add {address}/32 dev lo\n"));
    let routes = [
        // A blackhole drops silently. An unreachable route would answer with ICMP.
        format!("route add blackhole {subnet}\n"),
        "route add default via 10.77.255.1\n".to_owned(),
    ];
    addresses.chain(routes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_owns_its_live_addresses_and_blackholes_the_rest() {
        let live = [Ipv4Addr::new(10, 77, 0, 9), Ipv4Addr::new(10, 77, 3, 1)];
        let commands = site_commands("10.77.0.0/22", &live);
        let expected = "addr add 10.77.0.9/32 dev lo\naddr add 10.77.3.1/32 dev lo\n\
                        route add blackhole 10.77.0.0/22\nroute add default via 10.77.255.1\n";
        assert_eq!(commands, expected);
    }

    #[test]
    fn a_site_on_the_link_answers_for_its_live_addresses_only() {
        let (node, length) = first_host("10.77.0.0/22").expect("a subnet");
        assert_eq!((node, length), (Ipv4Addr::new(10, 77, 0, 1), 22));
        let commands = link_commands(node, &[Ipv4Addr::new(10, 77, 0, 9)]);
        let expected = "addr add 10.77.0.9/32 dev lo\nroute add 10.77.0.1/32 dev node\n";
        assert_eq!(commands, expected);
        assert!(first_host("10.77.0.0").is_err());
    }

    #[test]
    fn namespaces_have_the_name_of_their_lab() {
        let network = Network {
            name: "other".into(),
            ip: "ip".into(),
        };
        assert_eq!(network.namespace(Zone::Hub), "other-hub");
    }
}
