//! The nodes of a scan: `--node`, `--site` or `--auto`, and the shares of a scan over several nodes.

use std::io::{self, Write};

use clap::Args;
use fleet_wire::{
    fleet::{PlanScanResponse, PlannedShare, Scan, ScanShare},
    lines::outcome,
};

use crate::{
    cli::Format,
    failure::Failure,
    nodes,
    output::{self, Rows},
    server::Server,
    sites, times,
};

/// The nodes of a scan.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Choice {
    /// Node that scans, by id or name. Repeat the flag for several nodes: each target then goes to the one node whose subnets cover it.
    #[arg(long)]
    node: Vec<String>,
    /// Site whose nodes scan, by id or name: each target goes to the one node whose subnets cover it.
    #[arg(long)]
    site: Option<String>,
    /// Send each target to the one node of the organization whose subnets cover it.
    #[arg(long)]
    auto: bool,
}

/// The nodes of a scan as the API takes them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) fleet_node_id: i64,
    pub(crate) fleet_node_ids: Vec<i64>,
    pub(crate) site_id: i64,
    pub(crate) auto: bool,
}

impl Choice {
    /// Resolves the names of nodes and sites.
    pub(crate) async fn resolve(&self, server: &Server) -> Result<Chosen, Failure> {
        let mut chosen = Chosen {
            auto: self.auto,
            ..Chosen::default()
        };
        if let Some(site) = &self.site {
            chosen.site_id = sites::find(server, site).await?.site_id;
        }
        match self.node.as_slice() {
            [node] => chosen.fleet_node_id = nodes::resolve(server, node).await?,
            several => {
                for node in several {
                    chosen
                        .fleet_node_ids
                        .push(nodes::resolve(server, node).await?);
                }
            }
        }
        Ok(chosen)
    }
}

/// The nodes of a scan in words.
pub(crate) fn nodes_of(scan: &Scan) -> String {
    let names: Vec<String> = scan
        .shares
        .iter()
        .map(|share| format!("{} ({})", share.fleet_node_id, share.node_name))
        .collect();
    let word = if names.len() == 1 { "node" } else { "nodes" };
    format!("{word} {}", names.join(", "))
}

/// Prints the shares and the uncovered targets of a plan below it.
pub(crate) fn show_plan(format: Format, plan: &PlanScanResponse) -> io::Result<()> {
    if !format.is_table() {
        return Ok(());
    }
    if plan.shares.len() > 1 || plan.uncovered > 0 {
        writeln!(io::stdout())?;
        output::rows(format, &plan.shares)?;
    }
    if let Some(line) = uncovered(plan) {
        writeln!(io::stdout(), "{line}")?;
    }
    Ok(())
}

/// The line of the targets that no node covers.
fn uncovered(plan: &PlanScanResponse) -> Option<String> {
    if plan.uncovered == 0 {
        return None;
    }
    let ranges: Vec<String> = plan
        .uncovered_targets
        .iter()
        .map(|range| output::plain(range))
        .collect();
    let word = if plan.uncovered == 1 {
        "target is"
    } else {
        "targets are"
    };
    Some(format!(
        "{} {word} in the subnets of no node and would not be scanned: {}",
        plan.uncovered,
        ranges.join(", ")
    ))
}

/// Prints the shares of a scan over several nodes.
pub(crate) fn show_shares(format: Format, scan: &Scan) -> io::Result<()> {
    if format.is_table() && scan.shares.len() > 1 {
        writeln!(io::stdout())?;
        output::rows(format, &scan.shares)?;
    }
    Ok(())
}

impl Rows for PlannedShare {
    const HEAD: &'static [&'static str] = &[
        "Node",
        "Name",
        "Connected",
        "Targets",
        "Commands",
        "Estimate",
    ];

    fn cells(&self) -> Vec<String> {
        let estimate = self.estimate.as_ref().map_or(0, |estimate| {
            estimate.seconds * 1_000 + i64::from(estimate.nanos / 1_000_000)
        });
        let connected = if self.connected {
            "yes"
        } else {
            "no, it waits"
        };
        vec![
            self.fleet_node_id.to_string(),
            self.node_name.clone(),
            connected.to_owned(),
            self.targets.to_string(),
            self.commands.to_string(),
            times::duration(estimate),
        ]
    }
}

impl Rows for ScanShare {
    const HEAD: &'static [&'static str] = &["Node", "Name", "State", "Targets", "Done", "Reason"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.fleet_node_id.to_string(),
            self.node_name.clone(),
            outcome(self.state()).to_owned(),
            self.targets.to_string(),
            self.done.to_string(),
            self.reason.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        choice: Choice,
    }

    fn read(arguments: &str) -> Result<Choice, String> {
        let arguments = ["scan"].into_iter().chain(arguments.split_whitespace());
        let line = Line::try_parse_from(arguments).map_err(|error| error.to_string())?;
        Ok(line.choice)
    }

    #[test]
    fn a_scan_names_nodes_a_site_or_auto() {
        let choice = read("--node barn-1 --node 7").expect("two nodes");
        assert_eq!(choice.node, ["barn-1", "7"]);
        let choice = read("--site barn").expect("a site");
        assert_eq!(choice.site.as_deref(), Some("barn"));
        assert!(read("--auto").expect("all nodes").auto);
        for (arguments, named) in [
            ("", "--auto"),
            ("--node 7 --auto", "--auto"),
            ("--site barn --node 7", "--node"),
        ] {
            let refused = read(arguments).expect_err(arguments);
            assert!(refused.contains(named), "{refused}");
        }
    }

    #[test]
    fn uncovered_targets_are_counted_and_listed() {
        let mut plan = PlanScanResponse::default();
        assert_eq!(uncovered(&plan), None);
        plan.uncovered = 33;
        plan.uncovered_targets = vec!["10.0.0.32-10.0.0.63".to_owned(), "10.0.9.1".to_owned()];
        assert_eq!(
            uncovered(&plan).as_deref(),
            Some(
                "33 targets are in the subnets of no node and would not be scanned: 10.0.0.32-10.0.0.63, 10.0.9.1"
            )
        );
    }
}
