//! The lab's three network namespaces. Everything happens inside them: the machine's own interfaces,
//! routes and firewall are neither used nor changed, so labs of different names stand side by side.

use std::{net::Ipv4Addr, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::proc;

/// Where the server listens.
pub(super) const HUB_ADDRESS: &str = "10.78.0.1";

/// A side of the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The server and the operators; knows no way to the site.
    Hub,
    /// The node, with a leg in each network.
    Node,
    /// The devices.
    Site,
}

impl Place {
    pub(super) const ALL: [Self; 3] = [Self::Hub, Self::Node, Self::Site];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Node => "node",
            Self::Site => "site",
        }
    }
}

/// How the site's addresses are reached from the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Through a router, which drops what is for nobody.
    Routed,
    /// On the node's own link, where nobody answers for what is not there.
    OnLink,
}

/// The namespaces of one lab.
#[derive(Debug)]
pub(super) struct Network {
    name: String,
    ip: PathBuf,
}

impl Network {
    /// Names the lab; nothing is made yet.
    ///
    /// # Errors
    /// When `ip` (iproute2) is missing.
    pub(super) fn new(name: &str) -> Result<Self> {
        let ip = proc::which("ip").context("`ip` (the iproute2 package) is missing")?;
        Ok(Self {
            name: name.into(),
            ip,
        })
    }

    /// The name of a namespace.
    pub(super) fn namespace(&self, place: Place) -> String {
        format!("{}-{}", self.name, place.name())
    }

    /// A command that runs a program inside a namespace.
    pub(super) fn exec(&self, place: Place, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(&self.ip);
        command
            .args(["netns", "exec", &self.namespace(place)])
            .arg(program);
        command
    }

    /// Makes the namespaces; of `subnet` only `live` answer, whatever else is sent there vanishes.
    pub(super) fn up(&self, subnet: &str, live: &[Ipv4Addr], layout: Layout) -> Result<()> {
        for place in Place::ALL {
            self.ip(&["netns", "add", &self.namespace(place)])?;
        }
        self.link(Place::Hub, "10.78.0.1/30", Place::Node, "10.78.0.2/30")?;
        self.link(Place::Node, "10.77.255.1/30", Place::Site, "10.77.255.2/30")?;
        for place in Place::ALL {
            self.batch(place, "link set lo up\n")?;
        }
        match layout {
            Layout::Routed => {
                let route = format!("route add {subnet} via 10.77.255.2\n");
                self.batch(Place::Node, &route)?;
                self.batch(Place::Site, &site_commands(subnet, live))?;
            }
            Layout::OnLink => {
                let (own, length) = first_host(subnet)?;
                let address = format!("addr add {own}/{length} dev site\n");
                self.batch(Place::Node, &address)?;
                self.batch(Place::Site, &link_commands(own, live))?;
            }
        }
        self.prove_boundary(subnet)
    }

    /// Loses one packet in a hundred each way between node and site, by chance.
    ///
    /// # Errors
    /// When nft (nftables) is missing, or the kernel cannot do that.
    pub(super) fn lose(&self) -> Result<()> {
        for place in [Place::Node, Place::Site] {
            proc::capture_with_input(self.exec(place, "nft").args(["-f", "-"]), LOSS)?;
        }
        Ok(())
    }

    /// The processes inside a namespace.
    pub(super) fn processes(&self, place: Place) -> Result<Vec<u32>> {
        let pids = self.ip(&["netns", "pids", &self.namespace(place)])?;
        Ok(pids.lines().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Ends every process in the namespaces and removes them; says how many there were.
    pub(super) fn down(&self) -> Result<usize> {
        let mut removed = 0;
        for place in Place::ALL {
            let namespace = self.namespace(place);
            if !self.exists(&namespace)? {
                continue;
            }
            self.end_processes(&namespace)?;
            self.ip(&["netns", "delete", &namespace])?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Says whether all three namespaces are there.
    pub(super) fn is_up(&self) -> Result<bool> {
        Place::ALL.into_iter().try_fold(true, |all, place| {
            Ok(all && self.exists(&self.namespace(place))?)
        })
    }

    /// Fails if a packet from the hub would find a way to the site.
    fn prove_boundary(&self, subnet: &str) -> Result<()> {
        let target = subnet.split('/').next().unwrap_or(subnet);
        let hub = self.namespace(Place::Hub);
        if self.ip(&["-n", &hub, "route", "get", target]).is_ok() {
            bail!("the hub has a route to {target}: the lab would prove nothing");
        }
        Ok(())
    }

    fn link(&self, a: Place, a_address: &str, b: Place, b_address: &str) -> Result<()> {
        let (a_namespace, b_namespace) = (self.namespace(a), self.namespace(b));
        // An interface is named after the place it leads to.
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
        // TERM, up to five seconds, KILL; the namespace cannot go while somebody holds it.
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

    fn batch(&self, place: Place, commands: &str) -> Result<()> {
        let mut ip = Command::new(&self.ip);
        proc::capture_with_input(
            ip.args(["-n", &self.namespace(place), "-batch", "-"]),
            commands,
        )?;
        Ok(())
    }

    fn ip(&self, arguments: &[&str]) -> Result<String> {
        proc::capture(Command::new(&self.ip).args(arguments))
    }
}

/// Of what arrives: a packet that its sender's own firewall drops would be reported to it.
const LOSS: &str = "table ip loss {
  chain arriving {
    type filter hook input priority -150
    numgen random mod 100 == 0 drop
  }
}
";

/// The first host of a subnet, which is never a device's, and the length of the prefix.
fn first_host(subnet: &str) -> Result<(Ipv4Addr, u8)> {
    let parts = subnet.split_once('/').context("a subnet has a length")?;
    let network: Ipv4Addr = parts.0.parse()?;
    Ok((Ipv4Addr::from_bits(network.to_bits() + 1), parts.1.parse()?))
}

/// The live addresses become the site's own; nobody answers for the rest, and `node` is on the same link.
fn link_commands(node: Ipv4Addr, live: &[Ipv4Addr]) -> String {
    let addresses = live
        .iter()
        .map(|address| format!("addr add {address}/32 dev lo\n"));
    let route = format!("route add {node}/32 dev node\n");
    addresses.chain([route]).collect()
}

/// The live addresses become the site's own; what is left of the subnet is thrown away without an answer,
/// and every other network is reached back through the node.
fn site_commands(subnet: &str, live: &[Ipv4Addr]) -> String {
    let addresses = live
        .iter()
        .map(|address| format!("addr add {address}/32 dev lo\n"));
    let routes = [
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
    fn namespaces_carry_the_name_of_their_lab() {
        let network = Network {
            name: "other".into(),
            ip: "ip".into(),
        };
        assert_eq!(network.namespace(Place::Hub), "other-hub");
    }
}
