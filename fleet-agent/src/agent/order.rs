//! From a command's payload to a scan that the site allows, or to the ack that refuses it. Pure, apart from the
//! list of own subnets, which is handed in. Start with [`Order::read`].

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use fleet_core::{Endpoint, Port, limits, outcome::AckCode, parse_literal};
use fleet_discovery::{AddressList, LOCAL_SUBNET, Target, parse_ports};
use fleet_scan::{Guard, ScanJob};
use fleet_wire::{
    decode_checked,
    gateway::{AgentCommand, agent_command},
    pairing::{DiscoverRequest, discover_request::Mode},
};
use ipnetwork::Ipv4Network;

use crate::site::SitePolicy;

/// The last field of `AgentCommand` that is known here.
const KNOWN_ARMS: u8 = 2;

/// What a command is judged by.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) policy: &'a Arc<SitePolicy>,
    /// What `fleetnode-local-subnet` stands for, cut to the policy.
    pub(super) local_subnets: &'a [Ipv4Network],
    /// What an empty port list stands for.
    pub(super) default_ports: &'a [Port],
    /// The server is a stock one: it sends networks as the operator wrote them.
    pub(super) stock_server: bool,
}

/// Why a command is not carried out: the code and the sentence of its ack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: AckCode,
    pub(super) reason: String,
}

impl Refusal {
    fn new(code: AckCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }

    fn bad(reason: impl ToString) -> Self {
        Self::new(AckCode::BadRequest, reason.to_string())
    }
}

impl Order<'_> {
    /// Reads a command.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: BAD_REQUEST for what cannot be scanned by anybody, AGENT_INCAPABLE for what this site does not
    /// allow or this node cannot do, UNIMPLEMENTED for other commands.
    pub(super) fn read(&self, payload: Bytes) -> Result<ScanJob, Refusal> {
        // The bounds want an arm that is known here; a message that begins with another one is a command of a server
        // that knows more.
        if payload.first().is_some_and(|key| key >> 3 > KNOWN_ARMS) {
            return Err(unknown_command());
        }
        let command: AgentCommand =
            decode_checked(payload).map_err(|error| Refusal::bad(error.message))?;
        match command.command {
            Some(agent_command::Command::Discover(request)) => self.discover(request),
            Some(agent_command::Command::Pair(_)) => Err(Refusal::new(
                AckCode::Unimplemented,
                "this version of the node does not pair devices yet",
            )),
            None => Err(unknown_command()),
        }
    }

    fn discover(&self, request: DiscoverRequest) -> Result<ScanJob, Refusal> {
        let (targets, ports) = match request.mode {
            Some(Mode::IpList(list)) => (literals(&list.ip_addresses)?, list.ports),
            Some(Mode::Nmap(nmap)) => (self.target(&nmap.target)?, nmap.ports),
            Some(Mode::IpRange(_)) => {
                return Err(Refusal::bad(
                    "ranges reach a node as lists of addresses: update the server",
                ));
            }
            Some(Mode::Mdns(_)) => {
                return Err(Refusal::new(
                    AckCode::AgentIncapable,
                    "this node cannot listen to mDNS: scan addresses",
                ));
            }
            None => return Err(Refusal::bad("the request has no mode that this node knows")),
        };
        if targets.is_empty() {
            return Err(Refusal::bad("the request names no address"));
        }
        if targets.len() > limits::COMMAND_TARGETS {
            let count = targets.len();
            return Err(Refusal::bad(format!(
                "{count} targets in one command: a node takes {} at most",
                limits::COMMAND_TARGETS
            )));
        }
        let ports = self.ports(&ports)?;
        for ip in &targets {
            self.policy.addresses.admit(*ip).map_err(Refusal::bad)?;
            if !self.policy.allows(*ip) {
                return Err(Refusal::new(
                    AckCode::AgentIncapable,
                    format!(
                        "{ip} is outside of the networks that this site lets its node scan: choose a node of that network, or allow it with --allow-network"
                    ),
                ));
            }
        }
        let policy = Arc::clone(self.policy);
        Ok(ScanJob {
            targets,
            ports,
            budget: limits::COMMAND_BUDGET,
            guard: Guard::new(move |endpoint: Endpoint| policy.check(endpoint)),
        })
    }

    fn ports(&self, texts: &[String]) -> Result<Vec<Port>, Refusal> {
        let asked = parse_ports(texts).map_err(Refusal::bad)?;
        if asked.is_empty() {
            let denied = "every default port of this node's drivers is denied by this site: name other ports";
            let allowed = self.default_ports.to_vec();
            return if allowed.is_empty() {
                Err(Refusal::new(AckCode::AgentIncapable, denied))
            } else {
                Ok(allowed)
            };
        }
        match asked
            .iter()
            .find(|port| self.policy.denied_ports.contains(port))
        {
            Some(port) => Err(Refusal::new(
                AckCode::AgentIncapable,
                format!("port {port} is denied by this site: leave it out"),
            )),
            None => Ok(asked),
        }
    }

    fn target(&self, text: &str) -> Result<Vec<IpAddr>, Refusal> {
        match text.parse::<Target>().map_err(Refusal::bad)? {
            Target::Name(name) => Err(no_names(name)),
            Target::LocalSubnet => self.local(),
            target @ Target::Network(network) if self.stock_server => {
                Ok(without_edges(network, target.addresses()))
            }
            target @ (Target::Address(_) | Target::Span { .. } | Target::Network(_)) => Ok(target
                .addresses()
                .map_or_else(Vec::new, |all| all.iter().collect())),
        }
    }

    fn local(&self) -> Result<Vec<IpAddr>, Refusal> {
        let incapable = |reason: String| Refusal::new(AckCode::AgentIncapable, reason);
        if self.local_subnets.is_empty() {
            return Err(incapable(format!(
                "`{LOCAL_SUBNET}`: this node has no private subnet that it may scan: name one with --local-subnet, or scan a network by its address"
            )));
        }
        let size: u64 = self
            .local_subnets
            .iter()
            .map(|subnet| u64::from(subnet.size()))
            .sum();
        if size > limits::COMMAND_TARGETS as u64 {
            return Err(incapable(format!(
                "`{LOCAL_SUBNET}` stands for {size} addresses here, a command takes {} at most: narrow it with --local-subnet, or scan a part by its address",
                limits::COMMAND_TARGETS
            )));
        }
        let edgeless = self
            .local_subnets
            .iter()
            .flat_map(|subnet| without_edges(*subnet, Target::Network(*subnet).addresses()));
        Ok(edgeless.collect::<AddressList>().iter().collect())
    }
}

fn unknown_command() -> Refusal {
    Refusal::new(
        AckCode::Unimplemented,
        "this version of the node does not know this command",
    )
}

/// The addresses of a list, in its order: the server counts on it for the outcomes.
fn literals(entries: &[String]) -> Result<Vec<IpAddr>, Refusal> {
    let literal = |entry: &String| match parse_literal(entry) {
        Some(ip) => Ok(fleet_core::canonical(ip)),
        None => match entry.parse::<Target>() {
            Ok(Target::Name(name)) => Err(no_names(name)),
            Ok(_) => Err(Refusal::bad(format!(
                "`{}` is not a single address",
                entry.escape_debug()
            ))),
            Err(error) => Err(Refusal::bad(error)),
        },
    };
    entries.iter().map(literal).collect()
}

fn no_names(name: impl std::fmt::Display) -> Refusal {
    Refusal::bad(format!(
        "`{name}` is a host name, and this version of the node does not resolve names: scan the address itself"
    ))
}

/// A network's addresses without its own network and broadcast address, which no device has before /31.
fn without_edges(network: Ipv4Network, addresses: Option<AddressList>) -> Vec<IpAddr> {
    let edges = [
        IpAddr::V4(network.network()),
        IpAddr::V4(network.broadcast()),
    ];
    let all = addresses.unwrap_or_default();
    all.iter()
        .filter(|ip| network.prefix() >= 31 || !edges.contains(ip))
        .collect()
}

#[cfg(test)]
mod tests {
    use fleet_core::AddressPolicy;
    use fleet_wire::Message;
    use fleet_wire::pairing::{
        FleetNodePairRequest, FleetNodePairTarget, IpListModeRequest, NmapModeRequest,
    };

    use super::*;

    fn list(addresses: &[&str], ports: &[&str]) -> Mode {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Mode::IpList(IpListModeRequest {
            ip_addresses: texts(addresses),
            ports: texts(ports),
        })
    }

    fn target(target: &str) -> Mode {
        Mode::Nmap(NmapModeRequest {
            target: target.to_owned(),
            ports: Vec::new(),
        })
    }

    fn read(mode: Mode, stock_server: bool) -> Result<Vec<String>, Refusal> {
        let policy = Arc::new(SitePolicy {
            allowed_networks: ["10.0.0.0/8", "8.8.8.0/24"]
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            denied_ports: Port::new(22).into_iter().collect(),
            addresses: AddressPolicy::default(),
        });
        let order = Order {
            policy: &policy,
            local_subnets: &["10.9.0.0/30".parse().expect("a network")],
            default_ports: &[Port::new(4028).expect("a port")],
            stock_server,
        };
        let command = AgentCommand {
            command: Some(agent_command::Command::Discover(DiscoverRequest {
                mode: Some(mode),
            })),
        };
        let job = order.read(command.encode_to_vec().into())?;
        Ok(job.targets.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn lists_keep_their_order_and_targets_their_edges_unless_the_server_is_stock() {
        assert_eq!(
            read(list(&["10.0.0.9", "fd00::1", "10.0.0.2"], &[]), false),
            Err(Refusal::new(
                AckCode::AgentIncapable,
                "fd00::1 is outside of the networks that this site lets its node scan: choose a node of that network, or allow it with --allow-network"
            ))
        );
        assert_eq!(
            read(list(&["10.0.0.9", "10.0.0.2", "10.0.0.9"], &["80"]), false),
            Ok(vec![
                "10.0.0.9".into(),
                "10.0.0.2".into(),
                "10.0.0.9".into()
            ])
        );
        assert_eq!(
            read(target("10.1.0.0/30"), false).map(|all| all.len()),
            Ok(4)
        );
        assert_eq!(
            read(target("10.1.0.0/30"), true),
            Ok(vec!["10.1.0.1".into(), "10.1.0.2".into()])
        );
        assert_eq!(
            read(target("10.1.0.0/31"), true).map(|all| all.len()),
            Ok(2)
        );
        assert_eq!(read(target("10.1.0.0-3"), true).map(|all| all.len()), Ok(4));
        assert_eq!(
            read(target(LOCAL_SUBNET), false),
            Ok(vec!["10.9.0.1".into(), "10.9.0.2".into()])
        );
    }

    #[test]
    fn a_refusal_has_its_code_and_names_the_offender() {
        use AckCode::{AgentIncapable, BadRequest};
        for (mode, code, named) in [
            (list(&[], &[]), BadRequest, "names no address"),
            (list(&["10.0.0.1", "8.8.8.8"], &[]), BadRequest, "8.8.8.8"),
            (list(&["192.168.0.1"], &[]), AgentIncapable, "192.168.0.1"),
            (list(&["10.0.0.1"], &["22"]), AgentIncapable, "22"),
            (list(&["10.0.0.1"], &["80/tcp"]), BadRequest, "80/tcp"),
            (list(&["miner.lan"], &[]), BadRequest, "miner.lan"),
            (list(&["10.0.0.0/24"], &[]), BadRequest, "10.0.0.0/24"),
            (list(&["010.0.0.1"], &[]), BadRequest, "010.0.0.1"),
            (target("miner.lan"), BadRequest, "does not resolve names"),
            (target("10.0.0.0/16"), BadRequest, "65536"),
            (target("10.0.0.0/8"), BadRequest, "/8"),
            (target("-sV"), BadRequest, "-sV"),
            (Mode::IpRange(Default::default()), BadRequest, "ranges"),
            (Mode::Mdns(Default::default()), AgentIncapable, "mDNS"),
        ] {
            let refused = read(mode.clone(), false).expect_err(named);
            assert_eq!(refused.code, code, "{mode:?}");
            assert!(refused.reason.contains(named), "{}", refused.reason);
        }
    }

    #[test]
    fn other_commands_are_not_implemented() {
        let policy = Arc::new(SitePolicy::default());
        let order = Order {
            policy: &policy,
            local_subnets: &[],
            default_ports: &[],
            stock_server: false,
        };
        let pair = AgentCommand {
            command: Some(agent_command::Command::Pair(FleetNodePairRequest {
                targets: vec![FleetNodePairTarget {
                    device_identifier: "serial:1".to_owned(),
                    ip_address: "10.0.0.7".to_owned(),
                    port: "80".to_owned(),
                    driver_name: "antminer".to_owned(),
                    ..FleetNodePairTarget::default()
                }],
                credentials: None,
            })),
        };
        // Field 3, an empty message: a command of the installed base that is not taken here.
        for payload in [pair.encode_to_vec(), vec![0x1a, 0]] {
            assert_eq!(
                order.read(payload.into()).expect_err("not a scan").code,
                AckCode::Unimplemented
            );
        }
        assert_eq!(
            order
                .read(vec![0x0a, 0x7f].into())
                .expect_err("no message")
                .code,
            AckCode::BadRequest
        );
    }
}
