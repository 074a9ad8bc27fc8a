//! `fleetctl scan`, except for watching.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use fleet_discovery::{IP_REPORTS, TARGET_FILE, expand_targets};
use fleet_wire::{
    fleet::{
        CancelScanRequest, GetScanRequest, Ledger, ListScanHostsRequest, ListScansRequest,
        PlanScanRequest, PlanScanResponse, Scan as Row, ScanChanges, ScanHost, ScanPriority,
        StartScanRequest,
    },
    lines::{self, outcome},
    pairing::{
        DiscoverRequest, IpListModeRequest, IpRangeModeRequest, MdnsModeRequest, NmapModeRequest,
        discover_request::Mode,
    },
};

use crate::{
    again, choice,
    cli::{Format, Scan, Start, Targets},
    difference,
    failure::Failure,
    nodes,
    output::{self, Rows},
    server::{Server, pages},
    times, watch,
};

pub(crate) async fn run(server: &Server, format: Format, command: Scan) -> Result<u8, Failure> {
    match command {
        Scan::Start(start) => self::start(server, format, start).await,
        Scan::Plan(what) => {
            let chosen = what.choice.resolve(server).await?;
            let request = PlanScanRequest {
                fleet_node_id: chosen.fleet_node_id,
                fleet_node_ids: chosen.fleet_node_ids,
                site_id: chosen.site_id,
                auto: chosen.auto,
                request: Some(request(what.targets)?),
            };
            let plan = server.scans.plan_scan(&request, server.call()?).await?;
            output::one(format, &plan)?;
            choice::show_plan(format, &plan)?;
            Ok(0)
        }
        Scan::Again { scan, no_watch } => again::run(server, format, scan, no_watch).await,
        Scan::Diff(arguments) => difference::run(server, format, arguments).await,
        Scan::Watch { scan, after } => watch::run(server, format, &scan, after).await,
        Scan::List { node, limit } => {
            let request = ListScansRequest {
                fleet_node_id: nodes::resolve_filter(server, node.as_deref()).await?,
                limit,
                before: String::new(),
            };
            output::rows(
                format,
                &server
                    .scans
                    .list_scans(&request, server.call()?)
                    .await?
                    .scans,
            )?;
            Ok(0)
        }
        Scan::Show { scan } => {
            show(format, &get(server, scan).await?)?;
            Ok(0)
        }
        Scan::Hosts { scan } => {
            output::rows(format, &hosts(server, &scan).await?)?;
            Ok(0)
        }
        Scan::Cancel { scan } => {
            let canceled = server
                .scans
                .cancel_scan(&CancelScanRequest { scan_id: scan }, server.call()?)
                .await?
                .scan
                .unwrap_or_default();
            show(format, &canceled)?;
            Ok(0)
        }
    }
}

/// All unidentified hosts of a scan.
async fn hosts(server: &Server, scan: &str) -> Result<Vec<ScanHost>, Failure> {
    pages(async |cursor| {
        let request = ListScanHostsRequest {
            scan_id: scan.to_owned(),
            limit: 0,
            cursor,
        };
        let page = server
            .scans
            .list_scan_hosts(&request, server.call()?)
            .await?;
        Ok((page.hosts, page.next_cursor))
    })
    .await
}

async fn start(server: &Server, format: Format, start: Start) -> Result<u8, Failure> {
    let request_id = match start.request_id {
        Some(id) => id,
        None => random_id()?,
    };
    let chosen = start.target.choice.resolve(server).await?;
    let request = StartScanRequest {
        request_id,
        fleet_node_id: chosen.fleet_node_id,
        fleet_node_ids: chosen.fleet_node_ids,
        site_id: chosen.site_id,
        auto: chosen.auto,
        request: Some(request(start.target.targets)?),
        queue_for: start
            .queue_for
            .map(|seconds| fleet_wire::Duration { seconds, nanos: 0 }),
        priority: if start.scheduled {
            ScanPriority::Scheduled
        } else {
            ScanPriority::Interactive
        }
        .into(),
        override_blackout: start.override_blackout,
        name: start.name,
    };
    let scan = server
        .scans
        .start_scan(&request, server.call()?)
        .await?
        .scan
        .unwrap_or_default();
    if start.no_watch {
        show(format, &scan)?;
        return Ok(0);
    }
    if format.is_table() {
        writeln!(
            io::stderr(),
            "scan {} on {}",
            scan.scan_id,
            output::plain(&choice::nodes_of(&scan))
        )?;
    }
    let status = watch::run(server, format, &scan.scan_id, 0).await?;
    if scan.shares.len() > 1 && format.is_table() {
        choice::show_shares(format, &get(server, scan.scan_id).await?)?;
    }
    Ok(status)
}

async fn get(server: &Server, scan_id: String) -> Result<Row, Failure> {
    let request = GetScanRequest { scan_id };
    let found = server.scans.get_scan(&request, server.call()?).await?;
    Ok(found.scan.unwrap_or_default())
}

pub(crate) fn random_id() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::Usage(format!(
            "cannot create a random request id ({error}): use --request-id"
        ))
    })?;
    Ok(format!("fleetctl-{:032x}", u128::from_be_bytes(bytes)))
}

/// Chooses the mode of the request: `--mdns`, a range with `..`, one target expression, or a list.
pub(crate) fn request(mut what: Targets) -> Result<DiscoverRequest, Failure> {
    what.targets = expand_targets(what.targets, read_targets).map_err(Failure::Usage)?;
    let reports = what.announcements.then(|| IP_REPORTS.to_owned());
    if let Some(service_type) = reports.or(what.mdns) {
        let mdns = MdnsModeRequest {
            service_type,
            domain: String::new(),
            timeout_seconds: what.listen.unwrap_or(0),
        };
        return Ok(DiscoverRequest {
            mode: Some(Mode::Mdns(mdns)),
            max_rate: what.rate,
        });
    }
    let ports = what.ports;
    let mode = match what.targets.as_slice() {
        [one] if !what.list => match one.split_once("..") {
            Some((start, end)) if !one.contains([' ', ',', '\n', '!']) => {
                Mode::IpRange(IpRangeModeRequest {
                    start_ip: start.to_owned(),
                    end_ip: end.to_owned(),
                    ports,
                })
            }
            Some(_) | None => Mode::Nmap(NmapModeRequest {
                target: one.clone(),
                ports,
            }),
        },
        _ => Mode::IpList(IpListModeRequest {
            ip_addresses: what.targets,
            ports,
            // Only the server sets it, for nodes.
            explicit: false,
        }),
    };
    Ok(DiscoverRequest {
        mode: Some(mode),
        max_rate: what.rate,
    })
}

/// Reads the targets of a file, or of standard input for `-`, up to the bound and one byte more.
fn read_targets(path: &str) -> io::Result<String> {
    let mut text = String::new();
    match path {
        "-" => io::stdin()
            .lock()
            .take(TARGET_FILE + 1)
            .read_to_string(&mut text),
        path => File::open(path)?
            .take(TARGET_FILE + 1)
            .read_to_string(&mut text),
    }?;
    Ok(text)
}

/// Describes the targets of a request in one line.
pub(crate) fn targets(request: Option<&DiscoverRequest>) -> String {
    match request.and_then(|request| request.mode.as_ref()) {
        Some(Mode::IpList(list)) => match list.ip_addresses.as_slice() {
            [first, _, .., last] => {
                format!("{first} .. {last} ({} entries)", list.ip_addresses.len())
            }
            few => few.join(" "),
        },
        Some(Mode::IpRange(range)) => format!("{}..{}", range.start_ip, range.end_ip),
        Some(Mode::Nmap(nmap)) => nmap.target.clone(),
        Some(Mode::Mdns(mdns)) if mdns.service_type == IP_REPORTS => "IP report buttons".to_owned(),
        Some(Mode::Mdns(mdns)) => format!("mdns {}", mdns.service_type).trim_end().to_owned(),
        None => String::new(),
    }
}

pub(crate) fn show(format: Format, scan: &Row) -> Result<(), Failure> {
    output::one(format, scan)?;
    choice::show_shares(format, scan)?;
    if let (true, Some(ledger)) = (format.is_table(), &scan.ledger) {
        self::ledger(&mut io::stdout(), ledger)?;
    }
    Ok(())
}

/// Prints the scan summary: the outcomes, then the reasons.
pub(crate) fn ledger(out: &mut impl Write, ledger: &Ledger) -> io::Result<()> {
    let mut table = output::table(Format::Table);
    for (name, count) in lines::parts(ledger)
        .into_iter()
        .filter(|(_, count)| *count > 0)
    {
        table.add_row([format!("  {name}"), count.to_string()]);
    }
    let targets = if ledger.targets_unknown {
        "unknown: the node chose the addresses and reports only devices".to_owned()
    } else {
        ledger.targets.to_string()
    };
    table.add_row(["= targets".to_owned(), targets]);
    table.add_row([
        "reported".to_owned(),
        format!(
            "{} = {} accepted + {} rejected",
            ledger.reported, ledger.accepted, ledger.rejected
        ),
    ]);
    if let Some(first) = ledger.first_device_ms {
        table.add_row(["first device".to_owned(), times::duration(first)]);
    }
    table.add_row(["duration".to_owned(), times::duration(ledger.elapsed_ms)]);
    writeln!(out, "{table}")?;
    for (what, reasons) in [
        ("identified", &ledger.owned_elsewhere_reasons),
        ("skipped", &ledger.skipped_reasons),
        ("rejected", &ledger.rejected_reasons),
    ] {
        for reason in reasons {
            writeln!(
                out,
                "{what} {}: {}, for example {}",
                reason.count,
                output::plain(&reason.reason),
                output::plain(&reason.example)
            )?;
        }
    }
    Ok(())
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &[
        "Scan",
        "Node",
        "State",
        "Total",
        "Done",
        "Created",
        "Created by",
        "Name",
        "Targets",
        "Found",
        "Changes",
        "Reason",
    ];
    const OPTIONAL: &'static [&'static str] = &[
        "Reason",
        "Created by",
        "Done",
        "Total",
        "Created",
        "Name",
        "Node",
        "Changes",
    ];
    const WHOLE: &'static [&'static str] = &["Scan", "State"];

    fn cells(&self) -> Vec<String> {
        let progress = self.progress.clone().unwrap_or_default();
        let shares = self.shares.iter();
        let nodes: Vec<_> = shares
            .map(|share| share.fleet_node_id.to_string())
            .collect();
        vec![
            self.scan_id.clone(),
            nodes.join(" "),
            outcome(self.state()).to_owned(),
            progress.total.to_string(),
            progress.done.to_string(),
            times::timestamp(self.created_at.as_ref()),
            self.started_by.clone(),
            self.name.clone(),
            targets(self.request.as_ref()),
            self.ledger
                .as_ref()
                .map(|ledger| ledger.identified.to_string())
                .unwrap_or_default(),
            self.changes.as_ref().map(changes).unwrap_or_default(),
            self.reason.clone(),
        ]
    }
}

/// The changes since the previous scan, as `new 3, moved 2`; empty without a change.
fn changes(changes: &ScanChanges) -> String {
    let counts = [
        ("new", changes.new),
        ("missing", changes.missing),
        ("moved", changes.moved),
        ("changed", changes.changed),
    ];
    let text = |(word, count): (&str, u64)| (count > 0).then(|| format!("{word} {count}"));
    let texts: Vec<String> = counts.into_iter().filter_map(text).collect();
    texts.join(", ")
}

impl Rows for ScanHost {
    const HEAD: &'static [&'static str] = &[
        "Address",
        "MAC",
        "Vendor",
        "Host name",
        "Name source",
        "Open ports",
        "Reply",
        "Reply port",
        "Requests",
        "Reported",
        "Record",
        "Node",
    ];
    const OPTIONAL: &'static [&'static str] = &[
        "Node",
        "Reported",
        "Requests",
        "Reply port",
        "Name source",
        "Record",
        "MAC",
        "Host name",
    ];
    const WHOLE: &'static [&'static str] = &["Address", "MAC"];

    fn cells(&self) -> Vec<String> {
        let ports: Vec<String> = self.open_ports.iter().map(ToString::to_string).collect();
        let node = match self.fleet_node_id {
            0 => String::new(),
            id => id.to_string(),
        };
        let reply_port = match self.reply_port {
            0 => String::new(),
            port => port.to_string(),
        };
        vec![
            self.ip.clone(),
            self.mac.clone(),
            self.vendor.clone(),
            self.host_name.clone(),
            self.host_name_source.clone(),
            ports.join(" "),
            self.reply.clone(),
            reply_port,
            self.requests.join("; "),
            times::timestamp(self.reported_at.as_ref()),
            self.record_command.clone(),
            node,
        ]
    }
}

impl Rows for PlanScanResponse {
    const HEAD: &'static [&'static str] = &[
        "Targets", "Skipped", "Packets", "Rate", "Commands", "Ports", "Estimate", "Warnings",
        "Notes",
    ];
    const OPTIONAL: &'static [&'static str] = &["Commands", "Rate", "Packets"];

    fn cells(&self) -> Vec<String> {
        let ports = if self.ports.is_empty() {
            "default ports of the node".to_owned()
        } else {
            self.ports.join(",")
        };
        let estimate = self.estimate.as_ref().map_or(0, |estimate| {
            estimate.seconds * 1_000 + i64::from(estimate.nanos / 1_000_000)
        });
        vec![
            self.targets.to_string(),
            self.skipped.to_string(),
            self.packets.to_string(),
            match self.rate {
                0 => String::new(),
                rate => format!("{rate}/s"),
            },
            self.commands.to_string(),
            ports,
            times::duration(estimate),
            self.warnings.join("; "),
            self.notes.join("; "),
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
        targets: Targets,
    }

    fn read(arguments: &[&str]) -> Result<DiscoverRequest, String> {
        let arguments = ["scan"].iter().chain(arguments);
        let line = Line::try_parse_from(arguments).map_err(|error| error.to_string())?;
        request(line.targets).map_err(|error| error.to_string())
    }

    #[test]
    fn the_arguments_select_the_mode_of_the_request() {
        for (arguments, expected) in [
            (&["10.0.0.0/24"][..], "10.0.0.0/24"),
            (&["10.0.0.1..10.0.3.254"], "10.0.0.1..10.0.3.254"),
            (&["10.0.0.1", "a.lan"], "10.0.0.1 a.lan"),
            (&["--mdns"], "mdns"),
            (&["--announcements"], "IP report buttons"),
            (
                &["--mdns", "_axeos._tcp", "--listen", "9"],
                "mdns _axeos._tcp",
            ),
        ] {
            let request = read(arguments).expect(expected);
            assert_eq!(targets(Some(&request)), expected);
            if let Some(Mode::Mdns(mdns)) = request.mode {
                assert_eq!(
                    mdns.timeout_seconds,
                    if arguments.len() > 1 { 9 } else { 0 }
                );
            }
        }
    }

    #[test]
    fn ports_are_repeatable_and_separated_by_commas_as_in_fleetnode() {
        let arguments = ["10.0.0.1", "--port", "80,443", "-p", "4028"];
        let request = read(&arguments).expect("ports");
        let Some(Mode::Nmap(nmap)) = request.mode else {
            panic!("not a target expression: {request:?}");
        };
        assert_eq!(nmap.ports, ["80", "443", "4028"]);
    }

    #[test]
    fn arguments_that_conflict_with_mdns_are_refused() {
        for (arguments, named) in [
            (&[][..], "TARGET"),
            (&["10.0.0.1", "--mdns"], "--mdns"),
            (&["10.0.0.1", "--announcements"], "--announcements"),
            (&["--mdns", "--announcements"], "--announcements"),
            (&["--mdns", "_http._tcp", "--port", "80"], "--port"),
            (&["10.0.0.1", "--listen", "9"], "--listen"),
            (&["@/missing/racks"], "/missing/racks"),
        ] {
            let error = read(arguments).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
    }
}
