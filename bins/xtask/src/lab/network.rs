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
    pub(super) fn up(&self, subnet: &str, live: &[Ipv4Addr]) -> Result<()> {
        for place in Place::ALL {
            self.ip(&["netns", "add", &self.namespace(place)])?;
        }
        self.link(Place::Hub, "10.78.0.1/30", Place::Node, "10.78.0.2/30")?;
        self.link(Place::Node, "10.77.255.1/30", Place::Site, "10.77.255.2/30")?;
        for place in Place::ALL {
            self.batch(place, "link set lo up\n")?;
        }
        self.batch(
            Place::Node,
            &format!("route add {subnet} via 10.77.255.2\n"),
        )?;
        self.batch(Place::Site, &site_commands(subnet, live))?;
        self.prove_boundary(subnet)
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
    fn namespaces_carry_the_name_of_their_lab() {
        let network = Network {
            name: "other".into(),
            ip: "ip".into(),
        };
        assert_eq!(network.namespace(Place::Hub), "other-hub");
    }
}
