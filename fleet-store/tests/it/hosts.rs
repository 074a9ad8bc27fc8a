//! Hosts that answered and that no driver identified: which are stored, listed and logged.

use fleet_core::{CommandId, HostReport, NameSource, RawDeviceReport, RawHostReport, RejectReason};
use fleet_discovery::LogEvent;
use fleet_store::*;

use crate::site::{Node, Site, at, blank, row};

contract! {
    hosts_are_stored_listed_and_logged_and_count_nothing
    a_repeated_host_replaces_its_row_and_is_logged_once
    hosts_outside_of_the_scope_are_refused_and_audited
    a_host_that_turns_out_to_be_a_device_leaves_the_list
    hosts_are_listed_in_pages_to_their_organization_only
    too_many_refused_hosts_end_the_command
}

type Host = Result<HostReport, (RejectReason, String)>;

fn host(ip: &str) -> Host {
    let requests = ["GET /".to_owned()];
    let raw = RawHostReport {
        ip,
        mac: "00:0a:35:00:00:07",
        name: "boiler.lan",
        name_source: "dns",
        open_ports: &[80],
        reply_port: 80,
        reply: "HTTP 404",
        requests: &requests,
    };
    HostReport::parse(raw).map_err(|reason| (reason, ip.to_owned()))
}

fn with_hosts(site: &Site, node: Node, command: CommandId, hosts: Vec<Host>) -> NewReport {
    NewReport {
        hosts,
        ..site.report(node, command, Vec::new())
    }
}

async fn record(site: &Site, report: NewReport) -> ReportAnswer {
    site.store.record_report(report).await.expect("recorded")
}

async fn listed(site: &Site, command: &IssuedCommand) -> Vec<String> {
    let hosts = site.store.scan_hosts(site.org, command.scan, 0, 1_000);
    let hosts = hosts.await.expect("read").expect("the scan");
    hosts.iter().map(|row| row.host.ip.to_string()).collect()
}

async fn logged(site: &Site, command: &IssuedCommand) -> Vec<String> {
    let log = site.log(command.scan).await;
    let text = |event: &LogEvent| match event {
        LogEvent::Host(found) => Some(format!("host {}", found.host.ip)),
        LogEvent::Device(found) => Some(format!("device {}", found.endpoint.ip)),
        LogEvent::Warning { .. } | LogEvent::Ended(_) => None,
    };
    log.iter().filter_map(text).collect()
}

async fn hosts_are_stored_listed_and_logged_and_count_nothing(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let hosts = vec![host("10.0.0.9"), host("10.0.0.7")];
    let answer = record(&site, with_hosts(&site, node, command.command, hosts)).await;
    assert_eq!((answer.accepted, answer.rejected), (0, 0));
    let rows = site.store.scan_hosts(site.org, command.scan, 0, 10).await;
    let rows = rows.expect("read").expect("the scan");
    assert_eq!(rows[0].host, host("10.0.0.9").expect("a host"));
    assert_eq!(rows[0].at, at(30));
    let name = rows[0].host.name.as_ref().expect("a name");
    assert_eq!(
        (&*name.name, name.source),
        ("boiler.lan", NameSource::ReverseDns)
    );
    assert_eq!(listed(&site, &command).await, ["10.0.0.9", "10.0.0.7"]);
    assert_eq!(
        logged(&site, &command).await,
        ["host 10.0.0.9", "host 10.0.0.7"]
    );
    assert!(site.devices().await.is_empty());
    let counted = "SELECT accepted + rejected FROM scan";
    assert_eq!(site.number(counted).await, 0);
}

async fn a_repeated_host_replaces_its_row_and_is_logged_once(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    record(
        &site,
        with_hosts(&site, node, command.command, vec![host("10.0.0.7")]),
    )
    .await;
    let newer = host("10.0.0.7").map(|host| HostReport {
        reply: "HTTP 200".to_owned(),
        ..host
    });
    record(&site, with_hosts(&site, node, command.command, vec![newer])).await;
    let rows = site.store.scan_hosts(site.org, command.scan, 0, 10).await;
    let rows = rows.expect("read").expect("the scan");
    assert_eq!((rows.len(), &*rows[0].host.reply), (1, "HTTP 200"));
    assert_eq!(logged(&site, &command).await, ["host 10.0.0.7"]);
}

async fn hosts_outside_of_the_scope_are_refused_and_audited(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let audited = site.audited().await.len();
    let hosts = vec![
        host("10.9.0.1"),
        host("10.9.0.2"),
        host("8.8.8.8"),
        Err((RejectReason::Text, "10.0.0.3".to_owned())),
        host("10.0.0.4"),
    ];
    let answer = record(&site, with_hosts(&site, node, command.command, hosts)).await;
    assert_eq!((answer.accepted, answer.rejected), (0, 0));
    assert_eq!(listed(&site, &command).await, ["10.0.0.4"]);
    assert_eq!(site.audited().await.len(), audited + 2, "one a reason");
    assert_eq!(site.number("SELECT refused_rows FROM command").await, 4);
    assert_eq!(site.number("SELECT rejected FROM scan").await, 0);
}

async fn a_host_that_turns_out_to_be_a_device_leaves_the_list(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let hosts = vec![host("10.0.0.7"), host("10.0.0.8")];
    record(&site, with_hosts(&site, node, command.command, hosts)).await;
    let device = row(RawDeviceReport {
        ip: "10.0.0.7",
        ..blank()
    });
    assert_eq!(
        site.reported(node, command.command, vec![device]).await,
        (1, 0)
    );
    assert_eq!(listed(&site, &command).await, ["10.0.0.8"]);
    // A late row about the same address does not bring it back.
    record(
        &site,
        with_hosts(&site, node, command.command, vec![host("10.0.0.7")]),
    )
    .await;
    assert_eq!(listed(&site, &command).await, ["10.0.0.8"]);
}

async fn hosts_are_listed_in_pages_to_their_organization_only(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let hosts = (1..=5)
        .map(|last| host(&format!("10.0.0.{last}")))
        .collect();
    record(&site, with_hosts(&site, node, command.command, hosts)).await;
    let page = async |after| {
        let page = site.store.scan_hosts(site.org, command.scan, after, 2);
        page.await.expect("read").expect("the scan")
    };
    let first = page(0).await;
    let second = page(first[1].id).await;
    let third = page(second[1].id).await;
    let ips = [first, second, third].concat();
    let ips: Vec<_> = ips.iter().map(|row| row.host.ip.to_string()).collect();
    assert_eq!(
        ips,
        ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]
    );
    let other = fleet_core::OrgId(site.org.0 + 1);
    let foreign = site.store.scan_hosts(other, command.scan, 0, 2).await;
    assert_eq!(foreign.expect("read"), None);
}

async fn too_many_refused_hosts_end_the_command(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.1").await;
    let mut ended = false;
    for part in 0..=fleet_core::limits::REFUSED_ROWS_FLOOR / 1_024 {
        let hosts = (0..1_024).map(|host| (part, host));
        let hosts = hosts
            .map(|(part, n)| host(&format!("10.9.{part}.{}", n % 256)))
            .collect();
        ended = record(&site, with_hosts(&site, node, command.command, hosts))
            .await
            .ended;
    }
    assert!(ended);
}
