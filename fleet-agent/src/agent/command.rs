//! Parses a command's payload and checks it against the site policy. Names are resolved later. Pure: the local subnets
//! are an argument. Start with [`CommandReader::read`].

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use fleet_core::{Port, limits, outcome::AckCode, parse_literal};
use fleet_discovery::{AddressList, LOCAL_SUBNET, Listening, Target, is_explicit, parse_ports};
use fleet_scan::Listen;
use fleet_wire::{
    decode_checked,
    gateway::{AgentCommand, agent_command},
    pairing::{DiscoverRequest, MdnsModeRequest, discover_request::Mode},
};
use ipnetwork::Ipv4Network;

use super::{
    pairing::PairJob,
    scan_task::{Entry, ScanTask},
};
use crate::site::SitePolicy;

/// The highest field number of `AgentCommand` that this version knows.
const KNOWN_ARMS: u8 = 2;

/// The target for the local subnets in commands of upstream servers since September 2026. Some send an empty target.
const UPSTREAM_LOCAL_SUBNET: &str = "fleet-node-local-subnet";

/// The context for parsing a command.
#[derive(Debug)]
pub(super) struct CommandReader<'a> {
    pub(super) policy: &'a Arc<SitePolicy>,
    /// The networks for `fleetnode-local-subnet` and mDNS, restricted to the policy.
    pub(super) local_subnets: &'a [Ipv4Network],
    /// The ports for an empty port list.
    pub(super) default_ports: &'a [Port],
    /// The default ports of the drivers that the site denies.
    pub(super) denied_default_ports: &'a [Port],
    /// The server is an upstream one, which sends networks as the operator wrote them.
    pub(super) upstream_server: bool,
    /// The site permits to listen for the announcements of IP report buttons.
    pub(super) announcements: bool,
}

/// A command that the policy permits.
#[derive(Debug)]
pub(super) enum Job {
    Scan(ScanTask),
    Pair(PairJob),
}

/// Why a command is refused: the code and reason of its ack.
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

    /// The refusal while the site's kill switch is on.
    pub(super) fn halted(reason: &str) -> Self {
        let why = match reason {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        Self::new(
            AckCode::AgentIncapable,
            format!(
                "scanning is halted on this node by the administrator of its site{why}; `fleetnode resume` on the node ends the halt"
            ),
        )
    }

    fn bad(reason: impl ToString) -> Self {
        Self::new(AckCode::BadRequest, reason.to_string())
    }
}

impl CommandReader<'_> {
    /// Parses a command.
    ///
    /// # Errors
    ///
    /// [`Refusal`] with BAD_REQUEST if no node could run it, AGENT_INCAPABLE if the site forbids it or this node cannot
    /// run it, UNIMPLEMENTED for other commands.
    pub(super) fn read(&self, payload: Bytes) -> Result<Job, Refusal> {
        // `decode_checked` requires a known arm, and would report an unknown one as a bad request. A message that begins
        // with a later field number is a command of a newer server.
        if is_unknown(&payload) {
            return Err(unknown_command());
        }
        let command: AgentCommand =
            decode_checked(payload).map_err(|error| Refusal::bad(error.message))?;
        match command.command {
            Some(agent_command::Command::Discover(request)) => {
                self.discover(request).map(Job::Scan)
            }
            Some(agent_command::Command::Pair(request)) => {
                Ok(Job::Pair(PairJob::new(request, self.policy)))
            }
            None => Err(unknown_command()),
        }
    }

    fn discover(&self, request: DiscoverRequest) -> Result<ScanTask, Refusal> {
        let mut listen = None;
        let listed = match &request.mode {
            // An upstream server sends a network as a target. Ours sends it as a list of addresses.
            Some(Mode::IpList(list)) => self.upstream_server || list.explicit,
            Some(Mode::Nmap(nmap)) => is_explicit(&[&nmap.target]),
            Some(Mode::Mdns(_) | Mode::IpRange(_)) | None => false,
        };
        let (entries, ports) = match request.mode {
            Some(Mode::IpList(list)) => (entries(&list.ip_addresses)?, list.ports),
            Some(Mode::Nmap(nmap)) => (self.target(&nmap.target)?, nmap.ports),
            Some(Mode::Mdns(mdns)) => {
                listen = Some(self.listen(&mdns)?);
                let targets = self.local("an mDNS scan")?;
                let entries = targets.into_iter().map(Entry::Address).collect();
                (entries, Vec::new())
            }
            Some(Mode::IpRange(_)) => {
                return Err(Refusal::bad(
                    "a range must reach a node as a list of addresses; update the server",
                ));
            }
            None => {
                return Err(Refusal::bad(
                    "the request has no mode that this node supports",
                ));
            }
        };
        if entries.is_empty() {
            return Err(Refusal::bad("the request contains no address"));
        }
        let count: usize = entries.iter().map(Entry::max_addresses).sum();
        if count > limits::COMMAND_TARGETS {
            return Err(Refusal::bad(format!(
                "{count} targets in one command (a name counts as {}); a node accepts at most {}",
                limits::NAME_ADDRESSES,
                limits::COMMAND_TARGETS
            )));
        }
        let default_ports = ports.is_empty();
        let ports = self.ports(&ports)?;
        let mut notes = Vec::new();
        if default_ports {
            notes.extend(denied_ports_note(self.denied_default_ports));
        }
        let mut outside = None;
        let mut permitted = false;
        for entry in &entries {
            let Entry::Address(ip) = entry else {
                permitted = true;
                continue;
            };
            self.policy.addresses.admit(*ip).map_err(Refusal::bad)?;
            if self.policy.allows(*ip) {
                permitted = true;
            } else {
                outside.get_or_insert(ip);
            }
        }
        // The guard skips single addresses outside the allow-list, with the reason. Without a permitted one there is
        // nothing to scan.
        if let Some(ip) = outside.filter(|_| !permitted) {
            return Err(Refusal::new(
                AckCode::AgentIncapable,
                format!(
                    "{ip} is outside the networks that this site allows; choose a node of that network, or allow it with --allow-network"
                ),
            ));
        }
        Ok(ScanTask {
            entries,
            ports,
            default_ports,
            listed,
            budget: limits::COMMAND_BUDGET,
            rate: request.max_rate,
            listen,
            host_names: None,
            note_hosts: true,
            link_identity: true,
            policy: Arc::clone(self.policy),
            local_subnets: self.local_subnets.to_vec(),
            notes,
        })
    }

    fn ports(&self, texts: &[String]) -> Result<Vec<Port>, Refusal> {
        let requested = parse_ports(texts).map_err(Refusal::bad)?;
        if requested.is_empty() {
            let denied =
                "this site denies every default port of the node's drivers; specify other ports";
            // Those of the Hello, because the scope of the command has no others.
            let allowed = self.default_ports.to_vec();
            return if allowed.is_empty() {
                Err(Refusal::new(AckCode::AgentIncapable, denied))
            } else {
                Ok(allowed)
            };
        }
        match requested
            .iter()
            .find(|port| self.policy.denied_ports.contains(port))
        {
            Some(port) => Err(Refusal::new(
                AckCode::AgentIncapable,
                format!("this site denies port {port}; remove it from the request"),
            )),
            None => Ok(requested),
        }
    }

    fn target(&self, text: &str) -> Result<Vec<Entry>, Refusal> {
        let text = match text {
            "" | UPSTREAM_LOCAL_SUBNET => LOCAL_SUBNET,
            text => text,
        };
        let addresses = match text.parse::<Target>().map_err(Refusal::bad)? {
            Target::Name(name) => return Ok(vec![Entry::Name(name)]),
            Target::LocalSubnet => self.local(&format!("`{LOCAL_SUBNET}`"))?,
            // Our server leaves out the edges itself, before it divides a scan into commands.
            target @ Target::Network(network) if self.upstream_server => {
                without_edges(network, target.addresses())
            }
            target @ (Target::Address(_) | Target::LastOctetRange { .. } | Target::Network(_)) => {
                target
                    .addresses()
                    .map_or_else(Vec::new, |all| all.iter().collect())
            }
        };
        Ok(addresses.into_iter().map(Entry::Address).collect())
    }

    fn listen(&self, mdns: &MdnsModeRequest) -> Result<Listen, Refusal> {
        let listening = Listening::read(&mdns.service_type, &mdns.domain, mdns.timeout_seconds);
        let listening = listening.map_err(Refusal::bad)?;
        if listening.service.is_ip_reports() && !self.announcements {
            return Err(Refusal::new(
                AckCode::AgentIncapable,
                "this node does not listen for announcements; start it with --listen-announcements",
            ));
        }
        Ok(Listen::new(listening, self.local_subnets.to_vec()))
    }

    /// The addresses of the node's local subnets, for `what`. The order matters: outcomes refer to it.
    fn local(&self, what: &str) -> Result<Vec<IpAddr>, Refusal> {
        let incapable = |reason: String| Refusal::new(AckCode::AgentIncapable, reason);
        if self.local_subnets.is_empty() {
            return Err(incapable(format!(
                "{what}: this node has no private subnet that it may scan; specify one with --local-subnet, or scan a network by its address"
            )));
        }
        let size: u64 = self
            .local_subnets
            .iter()
            .map(|subnet| u64::from(subnet.size()))
            .sum();
        if size > limits::COMMAND_TARGETS as u64 {
            return Err(incapable(format!(
                "{what} covers {size} addresses here, and a command at most {}; narrow it with --local-subnet, or scan part of it by address",
                limits::COMMAND_TARGETS
            )));
        }
        let edgeless = self
            .local_subnets
            .iter()
            .flat_map(|subnet| without_edges(*subnet, Target::Network(*subnet).addresses()));
        // Sorted and without duplicates, as the scope that the server builds from these subnets.
        Ok(edgeless.collect::<AddressList>().iter().collect())
    }
}

/// States which default ports the site policy removed from a scan; none if it removed none.
pub(crate) fn denied_ports_note(denied: &[Port]) -> Option<String> {
    let ports: Vec<String> = denied.iter().map(ToString::to_string).collect();
    (!ports.is_empty()).then(|| {
        format!(
            "default ports not scanned, because this site denies them: {}",
            ports.join(", ")
        )
    })
}

/// Whether a payload is a command that only newer versions of a node know.
pub(super) fn is_unknown(payload: &[u8]) -> bool {
    payload.first().is_some_and(|key| key >> 3 > KNOWN_ARMS)
}

/// The refusal of such a command.
pub(super) fn unknown_command() -> Refusal {
    Refusal::new(
        AckCode::Unimplemented,
        "this version of the node does not support this command",
    )
}

/// Parses the addresses and names of a list. The order matters: outcomes refer to it.
fn entries(entries: &[String]) -> Result<Vec<Entry>, Refusal> {
    let entry = |text: &String| match parse_literal(text) {
        Some(ip) => Ok(Entry::Address(fleet_core::canonical(ip))),
        None => match text.parse::<Target>() {
            Ok(Target::Name(name)) => Ok(Entry::Name(name)),
            Ok(_) => Err(Refusal::bad(format!(
                "`{}` is not a single address",
                text.escape_debug()
            ))),
            Err(error) => Err(Refusal::bad(error)),
        },
    };
    entries.iter().map(entry).collect()
}

/// The addresses of a network without its network and broadcast address. No device has these, except in a /31 or /32.
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
    use fleet_wire::{
        Message,
        pairing::{IpListModeRequest, NmapModeRequest},
    };

    use super::*;

    fn list(addresses: &[&str], ports: &[&str]) -> Mode {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Mode::IpList(IpListModeRequest {
            ip_addresses: texts(addresses),
            ports: texts(ports),
            explicit: false,
        })
    }

    fn target(target: &str) -> Mode {
        Mode::Nmap(NmapModeRequest {
            target: target.to_owned(),
            ports: Vec::new(),
        })
    }

    fn mdns(service_type: &str, domain: &str, timeout_seconds: i32) -> Mode {
        Mode::Mdns(MdnsModeRequest {
            service_type: service_type.to_owned(),
            domain: domain.to_owned(),
            timeout_seconds,
        })
    }

    fn read(mode: Mode, upstream_server: bool) -> Result<Vec<String>, Refusal> {
        let task = task(mode, &["10.9.0.0/30"], upstream_server)?;
        let text = |entry: &Entry| match entry {
            Entry::Address(ip) => ip.to_string(),
            Entry::Name(name) => name.to_string(),
        };
        Ok(task.entries.iter().map(text).collect())
    }

    fn task(mode: Mode, subnets: &[&str], upstream_server: bool) -> Result<ScanTask, Refusal> {
        let policy = Arc::new(SitePolicy {
            allowed_networks: ["10.0.0.0/8", "8.8.8.0/24"]
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            denied_ports: Port::new(22).into_iter().collect(),
            addresses: AddressPolicy::default(),
        });
        let subnets = subnets.iter().map(|text| text.parse().expect("a network"));
        let reader = CommandReader {
            policy: &policy,
            local_subnets: &subnets.collect::<Vec<_>>(),
            default_ports: &[Port::new(4028).expect("a port")],
            denied_default_ports: &[Port::new(22).expect("a port")],
            upstream_server,
            announcements: false,
        };
        let command = AgentCommand {
            command: Some(agent_command::Command::Discover(DiscoverRequest {
                mode: Some(mode),
                max_rate: 0,
            })),
        };
        let Job::Scan(task) = reader.read(command.encode_to_vec().into())? else {
            panic!("a scan");
        };
        Ok(task)
    }

    #[test]
    fn an_mdns_scan_covers_all_local_subnets() {
        let subnets = &["10.9.0.0/30", "10.8.0.0/31"];
        let task = task(mdns("_HTTP._tcp.local", "local.", 0), subnets, false).expect("a task");
        let targets: Vec<_> = task.entries.into_iter().collect();
        let expected = ["10.8.0.0", "10.8.0.1", "10.9.0.1", "10.9.0.2"];
        let address = |text: &str| Entry::Address(text.parse().expect("an address"));
        assert_eq!(targets, expected.map(address));
        assert!(task.default_ports);
        let listen = task.listen.expect("it listens");
        assert_eq!(listen.listening.service.as_str(), "_http._tcp");
        assert_eq!(listen.listening.seconds(), 5);
        assert_eq!(listen.port, 5_353);
        assert_eq!(listen.subnets.len(), 2);
    }

    #[test]
    fn an_mdns_scan_needs_local_subnets_that_fit_into_a_command() {
        for (subnets, named) in [
            (&[][..], "an mDNS scan: this node has no private subnet"),
            (&["10.0.0.0/17"], "an mDNS scan covers 32768 addresses"),
        ] {
            let refused = task(mdns("", "", 0), subnets, false).expect_err(named);
            assert_eq!(refused.code, AckCode::AgentIncapable);
            assert!(refused.reason.contains(named), "{}", refused.reason);
        }
    }

    #[test]
    fn lists_keep_their_order_and_only_upstream_targets_lose_their_edges() {
        assert_eq!(
            read(list(&["10.0.0.9", "fd00::1", "10.0.0.2"], &[]), false).map(|all| all.len()),
            Ok(3),
            "the guard skips the address outside the allow-list"
        );
        assert_eq!(
            read(list(&["fd00::1"], &[]), false),
            Err(Refusal::new(
                AckCode::AgentIncapable,
                "fd00::1 is outside the networks that this site allows; choose a node of that network, or allow it with --allow-network"
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
        assert_eq!(
            read(list(&["10.0.0.9", "Miner.lan"], &[]), true),
            Ok(vec!["10.0.0.9".into(), "miner.lan".into()])
        );
        assert_eq!(
            read(target("miner.lan"), false),
            Ok(vec!["miner.lan".into()])
        );
        assert_eq!(read(target("10.1.0.0-3"), true).map(|all| all.len()), Ok(4));
        for local in [LOCAL_SUBNET, UPSTREAM_LOCAL_SUBNET, ""] {
            assert_eq!(
                read(target(local), true),
                Ok(vec!["10.9.0.1".into(), "10.9.0.2".into()])
            );
        }
    }

    #[test]
    fn a_refusal_has_a_code_and_names_the_offending_value() {
        use AckCode::{AgentIncapable, BadRequest};
        for (mode, code, named) in [
            (list(&[], &[]), BadRequest, "contains no address"),
            (list(&["10.0.0.1", "8.8.8.8"], &[]), BadRequest, "8.8.8.8"),
            (list(&["192.168.0.1"], &[]), AgentIncapable, "192.168.0.1"),
            (list(&["10.0.0.1"], &["22"]), AgentIncapable, "22"),
            (list(&["10.0.0.1"], &["80/tcp"]), BadRequest, "80/tcp"),
            (list(&["2130706433"], &[]), BadRequest, "2130706433"),
            (list(&["0x7f.1"], &[]), BadRequest, "0x7f.1"),
            (list(&["a.localhost"], &[]), BadRequest, "a.localhost"),
            (list(&["10.0.0.0/24"], &[]), BadRequest, "10.0.0.0/24"),
            (list(&["010.0.0.1"], &[]), BadRequest, "010.0.0.1"),
            (target("localhost"), BadRequest, "localhost"),
            (list(&["name.lan"; 2_049], &[]), BadRequest, "16392"),
            (target("10.0.0.0/16"), BadRequest, "65536"),
            (target("10.0.0.0/8"), BadRequest, "/8"),
            (target("-sV"), BadRequest, "-sV"),
            (Mode::IpRange(Default::default()), BadRequest, "range"),
            (mdns("http", "", 5), BadRequest, "`http`"),
            (
                mdns("ip-reports", "", 5),
                AgentIncapable,
                "--listen-announcements",
            ),
            (mdns("", "example.com", 5), BadRequest, "`example.com`"),
            (mdns("", "local", 61), BadRequest, "61 seconds"),
        ] {
            let refused = read(mode.clone(), false).expect_err(named);
            assert_eq!(refused.code, code, "{mode:?}");
            assert!(refused.reason.contains(named), "{}", refused.reason);
        }
    }

    #[test]
    fn a_list_of_our_server_is_explicit_only_if_it_is_marked() {
        let explicit = Mode::IpList(IpListModeRequest {
            ip_addresses: vec!["10.0.0.1".into()],
            explicit: true,
            ..Default::default()
        });
        for (mode, upstream_server, listed) in [
            (explicit.clone(), false, true),
            (explicit, true, true),
            (list(&["10.0.0.1"], &[]), false, false),
            (list(&["10.0.0.1"], &[]), true, true),
            (target("10.0.0.1"), false, true),
            (target("10.0.0.0/30"), true, false),
            (target(""), true, false),
            (mdns("", "", 0), false, false),
        ] {
            let task = task(mode.clone(), &["10.9.0.0/30"], upstream_server).expect("a task");
            assert_eq!(task.listed, listed, "{mode:?} upstream {upstream_server}");
        }
    }

    #[test]
    fn denied_default_ports_are_noted() {
        let scan = |ports: &[&str]| task(list(&["10.0.0.1"], ports), &[], false).expect("a task");
        let note = "default ports not scanned, because this site denies them: 22";
        assert_eq!(scan(&[]).notes, [note]);
        assert!(scan(&["80"]).notes.is_empty());
    }

    #[test]
    fn unknown_commands_are_unimplemented() {
        let policy = Arc::new(SitePolicy::default());
        let reader = CommandReader {
            policy: &policy,
            local_subnets: &[],
            default_ports: &[],
            denied_default_ports: &[],
            upstream_server: false,
            announcements: false,
        };
        // Field 3, an empty message: an upstream command that this node does not support.
        assert_eq!(
            reader.read(vec![0x1a, 0].into()).expect_err("unknown").code,
            AckCode::Unimplemented
        );
        assert_eq!(
            reader
                .read(vec![0x0a, 0x7f].into())
                .expect_err("malformed")
                .code,
            AckCode::BadRequest
        );
    }
}
