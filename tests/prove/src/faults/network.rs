//! Network failures during a scan, in separate network namespaces. The node's scan must report the affected targets as
//! not reached, end as partial (exit status 2), and report none of them as silent. A control case checks that real
//! silence is still reported.
//!
//! ```text
//!   NODE  10.77.255.1 --- 10.77.255.2  ROUTER          (10.77.0.0/24 is behind the router, or on the link)
//! ```

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// The repetitions of each fault.
const ROUNDS: usize = 5;
/// The scanned network. The scan uses one port, so each target is one endpoint.
const TARGETS: &str = "10.77.0.0/24";
/// A low rate, so the scan of 254 targets takes over two seconds and a fault occurs during the sweep.
const RATE: &str = "100";
/// The time of the link failure during the scan.
const MID_SCAN: Duration = Duration::from_millis(900);
/// Variable with the folder of the built programs, set by `cargo xtask prove`.
const PROGRAMS: &str = "FLEET_BIN_DIR";
/// Exit statuses of `fleetnode scan`.
const COMPLETED: i32 = 0;
const PARTIAL: i32 = 2;

/// A fault, and the results that a correct scan of the 254 targets may report.
struct Case {
    name: &'static str,
    /// Commands for `ip -n NODE -batch` before the scan.
    node: &'static str,
    /// Commands for `ip -n ROUTER -batch` before the scan.
    router: &'static str,
    /// Commands for the router while the scan runs.
    mid_scan: &'static str,
    /// The most targets that may be reported as silent.
    silent: u64,
    status: i32,
}

const ROUTED: &str = "route add 10.77.0.0/24 via 10.77.255.2\n";
const ON_LINK: &str = "addr add 10.77.0.1/24 dev router\n";

const CASES: &[Case] = &[
    Case {
        name: "no carrier",
        node: ON_LINK,
        router: "link set node down\n",
        mid_scan: "",
        silent: 0,
        status: PARTIAL,
    },
    Case {
        name: "link down in mid-scan, on the link",
        node: ON_LINK,
        router: "",
        mid_scan: "link set node down\n",
        silent: 180,
        status: PARTIAL,
    },
    Case {
        name: "link down in mid-scan, behind a router",
        node: ROUTED,
        router: "route add blackhole 10.77.0.0/24\n",
        mid_scan: "link set node down\n",
        silent: 180,
        status: PARTIAL,
    },
    Case {
        name: "a gateway that does not answer",
        node: "route add 10.77.0.0/24 via 10.77.255.3\n",
        router: "",
        mid_scan: "",
        silent: 0,
        status: PARTIAL,
    },
    Case {
        name: "a router that says unreachable",
        node: ROUTED,
        router: "route add unreachable 10.77.0.0/24\n",
        mid_scan: "",
        silent: 0,
        status: PARTIAL,
    },
    Case {
        name: "a router that says prohibited",
        node: ROUTED,
        router: "route add prohibit 10.77.0.0/24\n",
        mid_scan: "",
        silent: 0,
        status: PARTIAL,
    },
    Case {
        name: "no route",
        node: "",
        router: "",
        mid_scan: "",
        silent: 0,
        status: PARTIAL,
    },
    Case {
        name: "control: a healthy network without devices",
        node: ROUTED,
        router: "route add blackhole 10.77.0.0/24\n",
        mid_scan: "",
        silent: 254,
        status: COMPLETED,
    },
];

pub(super) fn run() -> Result<Vec<String>> {
    let mut figures = Vec::new();
    let mut false_claims = 0;
    for case in CASES {
        let mut seen = Vec::new();
        for round in 0..ROUNDS {
            let network = Namespaces::up()?;
            let summary = network
                .scan(case)
                .with_context(|| format!("{}, round {round}", case.name))?;
            let claimed = summary.status != case.status || summary.silent > case.silent;
            false_claims += u64::from(claimed);
            seen.push(format!(
                "{}exit {}, {} silent, {} not reached",
                if claimed { "FALSE CLAIM: " } else { "" },
                summary.status,
                summary.silent,
                summary.not_reached
            ));
        }
        seen.dedup();
        figures.push(format!("{}: {}", case.name, seen.join("; ")));
    }
    ensure!(
        false_claims == 0,
        "{false_claims} scans made a false claim:\n{}",
        figures.join("\n")
    );
    let scans = CASES.len() * ROUNDS;
    figures.push(format!("{scans} scans, 0 made a false claim"));
    Ok(figures)
}

/// The reported result of a scan.
struct Summary {
    status: i32,
    silent: u64,
    not_reached: u64,
}

/// Two linked namespaces. Dropping the value removes both.
struct Namespaces {
    node: String,
    router: String,
}

impl Namespaces {
    fn up() -> Result<Self> {
        let name = |place| format!("fleet-faults-{}-{place}", std::process::id());
        let network = Self {
            node: name("node"),
            router: name("router"),
        };
        for namespace in [&network.node, &network.router] {
            ip(&["netns", "add", namespace])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        ip(&[
            "link",
            "add",
            "router",
            "netns",
            &network.node,
            "type",
            "veth",
            "peer",
            "name",
            "node",
            "netns",
            &network.router,
        ])?;
        batch(
            &network.node,
            "addr add 10.77.255.1/29 dev router\nlink set router up\n",
        )?;
        batch(
            &network.router,
            "addr add 10.77.255.2/29 dev node\nlink set node up\n",
        )?;
        let forward = [
            "netns",
            "exec",
            &network.router,
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
        ];
        ip(&forward)?;
        Ok(network)
    }

    fn scan(&self, case: &Case) -> Result<Summary> {
        batch(&self.node, case.node)?;
        batch(&self.router, case.router)?;
        let program = PathBuf::from(
            std::env::var_os(PROGRAMS).with_context(|| format!("{PROGRAMS} names the programs"))?,
        )
        .join("fleetnode");
        let scan = Command::new("ip")
            .args(["netns", "exec", &self.node])
            .arg(program)
            .args([
                "scan", TARGETS, "--port", "80", "--rate", RATE, "-o", "ndjson",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if !case.mid_scan.is_empty() {
            thread::sleep(MID_SCAN);
            batch(&self.router, case.mid_scan)?;
        }
        let output = scan.wait_with_output()?;
        summary(&output)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.router] {
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

/// Reads the last line of type `ledger`.
fn summary(output: &Output) -> Result<Summary> {
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .rfind(|line| line["type"] == "ledger");
    let Some(found) = found else {
        bail!(
            "the scan reported no summary (exit {:?}): {}",
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    };
    // The JSON form of protobuf writes 64-bit counts as strings.
    let count = |name: &[&str]| {
        let value = name.iter().find_map(|name| found.get(*name));
        value.map_or(0, |value| {
            value
                .as_u64()
                .or_else(|| value.as_str()?.parse().ok())
                .unwrap_or(0)
        })
    };
    Ok(Summary {
        status: output.status.code().unwrap_or(-1),
        silent: count(&["silent"]),
        not_reached: count(&["not_reached", "notReached"]),
    })
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(words)
        .output()
        .context("running ip")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Runs `ip` commands in a namespace, one per line.
fn batch(namespace: &str, commands: &str) -> Result<()> {
    commands.lines().try_for_each(|line| {
        let words: Vec<&str> = ["-n", namespace]
            .into_iter()
            .chain(line.split(' '))
            .collect();
        ip(&words)
    })
}
