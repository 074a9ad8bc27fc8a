//! The scanners of the comparison: their command lines and the format of their output.

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Result, bail};

use crate::{
    lab::{TestBed, Zone},
    proc, session,
};

/// Our full rate, in probes per second.
pub(super) const FULL_RATE: &str = "50000";

/// Usual options of nmap for discovery.
const NMAP: &[&str] = &[
    "--unique",
    "-n",
    "-T4",
    "--max-retries",
    "1",
    "--host-timeout",
    "10000ms",
    "--min-rtt-timeout",
    "100ms",
];

/// A scanner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// At full rate, identification included.
    Ours,
    /// At the default rate, identification included.
    OursPolite,
    /// At full rate, without capabilities.
    OursUnprivileged,
    /// Raw sockets, ports only.
    NmapRoot,
    /// Without raw sockets, ports only.
    Nmap,
    /// Raw sockets, one port, at our full rate, with its shortest cool-down.
    Zmap,
    RustScan,
}

/// Fails with the install command if a required scanner is missing.
pub(super) fn required() -> Result<()> {
    let missing: Vec<&str> = ["nmap", "zmap"]
        .into_iter()
        .filter(|name| proc::which(name).is_none())
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(" ");
        bail!("the comparison needs {missing}: run apt-get install {missing}");
    }
    Ok(())
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "fleet-scan, full rate",
            Self::OursPolite => "fleet-scan, default rate",
            Self::OursUnprivileged => "fleet-scan, unprivileged",
            Self::NmapRoot => "nmap as root (ports only)",
            Self::Nmap => "nmap --unprivileged (ports)",
            Self::Zmap => "zmap (ports only)",
            Self::RustScan => "RustScan (ports only)",
        }
    }

    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursPolite | Self::OursUnprivileged)
    }

    /// Whether it is installed.
    pub(super) fn is_installed(self) -> bool {
        match self {
            Self::Ours | Self::OursPolite | Self::OursUnprivileged => true,
            Self::NmapRoot | Self::Nmap => proc::which("nmap").is_some(),
            Self::Zmap => proc::which("zmap").is_some(),
            Self::RustScan => proc::which("rustscan").is_some(),
        }
    }

    /// The command that scans a network from the node's namespace.
    pub(super) fn command(self, bed: &TestBed, subnet: &str, ports: &[u16]) -> Result<Command> {
        let each: Vec<String> = ports.iter().map(u16::to_string).collect();
        let listed = each.join(",");
        let command = match self {
            Self::Ours | Self::OursPolite | Self::OursUnprivileged => {
                let scanner = session::release_dir()?.join("examples/measured");
                let mut command = if self == Self::OursUnprivileged {
                    let mut command = bed.exec(Zone::Node, "setpriv");
                    command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
                    command.arg(scanner);
                    command
                } else {
                    bed.exec(Zone::Node, scanner)
                };
                if self != Self::OursPolite {
                    command.args(["--rate", FULL_RATE]);
                }
                command.arg(subnet).args(each);
                command
            }
            Self::NmapRoot | Self::Nmap => {
                let mut command = bed.exec(Zone::Node, "nmap");
                if self == Self::Nmap {
                    command.arg("--unprivileged");
                }
                command
                    .args(NMAP)
                    .args(["--open", "-oG", "-", "-p", &listed, subnet]);
                command
            }
            Self::Zmap => {
                let mut command = bed.exec(Zone::Node, "zmap");
                command.args(["-q", "-p", &listed, "-r", FULL_RATE, "-c", "1"]);
                // Its default configuration excludes private networks.
                command.args(["-C", "/dev/null", "-b", "/dev/null", "-o", "-"]);
                command.args(["-i", Zone::Site.name(), "-G", &bed.site_mac()?]);
                command.arg(subnet);
                command
            }
            Self::RustScan => {
                let mut command = bed.exec(Zone::Node, "rustscan");
                command.args(["--no-config", "--greppable", "--ulimit", "15000"]);
                command.args(["--addresses", subnet, "--ports", &listed]);
                command
            }
        };
        Ok(command)
    }

    /// The address in a line of its output that reports an open port.
    pub(super) fn found(self, line: &str) -> Option<Ipv4Addr> {
        let address = match self {
            Self::Ours | Self::OursPolite | Self::OursUnprivileged => line.split(':').next()?,
            Self::NmapRoot | Self::Nmap => {
                let rest = line.strip_prefix("Host: ")?;
                rest.contains("/open/").then_some(rest)?.split(' ').next()?
            }
            Self::Zmap => line.trim(),
            Self::RustScan => line.split(" -> ").next()?,
        };
        address.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_parsed_from_each_output() {
        let found = Some(Ipv4Addr::new(10, 77, 0, 9));
        for (tool, line, expected) in [
            (Tool::Ours, "10.77.0.9:4028 Bitmain S19 2023", found),
            (Tool::Ours, "# 1 of 1022 identified", None),
            (
                Tool::Nmap,
                "Host: 10.77.0.9 ()\tPorts: 4028/open/tcp//dtserver-port///",
                found,
            ),
            (Tool::Nmap, "Host: 10.77.0.9 ()\tStatus: Up", None),
            (Tool::Zmap, "10.77.0.9", found),
            (Tool::RustScan, "10.77.0.9 -> [4028]", found),
        ] {
            assert_eq!(tool.found(line), expected, "{line}");
        }
    }
}
