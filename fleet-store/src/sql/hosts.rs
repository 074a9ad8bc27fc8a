//! Hosts of a scan that answered and that no driver identified. `fleet_discovery::admit_hosts` judges them; this file
//! stores and lists them. They never count as devices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{HostReport, NamedBy, RejectReason};
use fleet_discovery::{HostFound, HostVerdicts, LogEvent, Scope, ScopeKind, admit_hosts};

use super::{
    audit, codec,
    entity::{command, report_row, scan_host},
    inserts,
};
use crate::{NewReport, ReportError, ScanHost, sql::prelude::*};

/// The hosts of one report, judged and ready to store.
#[derive(Default)]
pub(super) struct Hosts {
    verdicts: HostVerdicts,
    /// Accepted addresses that an earlier report of the scan had.
    known: BTreeSet<IpAddr>,
}

impl Hosts {
    /// Judges the hosts of a report.
    pub(super) async fn judge(
        tx: &DatabaseTransaction,
        new: &NewReport,
        scan: ScanId,
        scope: &Scope,
    ) -> Result<Self, Failure<ReportError>> {
        if new.hosts.is_empty() {
            return Ok(Self::default());
        }
        let reported: BTreeSet<_> = new.hosts.iter().flatten().map(|host| host.ip).collect();
        let known = known(tx, scan, &reported).await?;
        // Other scopes are closed lists, which bound the addresses by themselves.
        let stored = if scope.kind() == ScopeKind::Open {
            stored_by(tx, scan, new.command).await?
        } else {
            0
        };
        let judged = admit_hosts(scope, new.addresses, stored, &known, new.hosts.clone());
        let Ok(mut verdicts) = judged else {
            return refuse(ReportError::OverQuota {
                command: new.command,
                quota: scope.quota(),
            });
        };
        // A host with a device is identified, by any command of the scan.
        let identified = identified(tx, scan, &reported).await?;
        verdicts
            .accepted
            .retain(|host| !identified.contains(&host.ip));
        Ok(Self { verdicts, known })
    }

    /// The number of refused hosts.
    pub(super) fn refused(&self) -> u64 {
        self.verdicts.refused.len() as u64
    }

    /// The events of the hosts that the scan did not have yet.
    pub(super) fn events(&self, node: NodeId, elapsed_ms: u64) -> impl Iterator<Item = LogEvent> {
        let fresh = |host: &&HostReport| !self.known.contains(&host.ip);
        self.verdicts
            .accepted
            .iter()
            .filter(fresh)
            .map(move |host| {
                LogEvent::Host(HostFound {
                    host: host.clone(),
                    node: Some(node),
                    elapsed_ms,
                })
            })
    }

    /// Stores the accepted hosts, and one audit record for each reason of a refusal.
    pub(super) async fn save(
        &self,
        tx: &DatabaseTransaction,
        new: &NewReport,
        scan: ScanId,
    ) -> Result<(), DbErr> {
        use scan_host::Column as C;
        let rows = self.verdicts.accepted.iter();
        let rows = rows
            .map(|host| row(new, scan, host))
            .collect::<Result<Vec<_>, _>>()?;
        let replace = OnConflict::columns([C::ScanId, C::Ip])
            .update_columns([
                C::CommandId,
                C::Mac,
                C::Name,
                C::NameSource,
                C::OpenPorts,
                C::ReplyPort,
                C::Reply,
                C::Requests,
                C::At,
            ])
            .to_owned();
        inserts::all_or(tx, rows, replace).await?;
        self.audit(tx, new, scan).await
    }

    async fn audit(
        &self,
        tx: &DatabaseTransaction,
        new: &NewReport,
        scan: ScanId,
    ) -> Result<(), DbErr> {
        let mut counted: BTreeMap<RejectReason, (u64, &str)> = BTreeMap::new();
        for (reason, example) in &self.verdicts.refused {
            counted.entry(*reason).or_insert((0, example)).0 += 1;
        }
        let record = |(reason, (all, example)): (&RejectReason, &(u64, &str))| {
            let entry = AuditEntry {
                org: Some(new.org),
                actor: Actor {
                    principal: Principal::Node(new.node),
                    from: new.from,
                },
                action: "report.refuse".into(),
                subject: format!(
                    "unidentified hosts of command {} of scan {scan}",
                    new.command
                ),
                result: AuditResult::Refused(format!("{reason}, such as {example}")),
                at: new.now,
            };
            let key = format!("report-hosts/{}/{reason}", new.command);
            (entry, count(*all), Some(key))
        };
        audit::write_counted(tx, counted.iter().map(record)).await
    }
}

/// Deletes the hosts at addresses that turned out to be devices.
pub(super) async fn forget(
    tx: &DatabaseTransaction,
    scan: ScanId,
    identified: BTreeSet<IpAddr>,
) -> Result<(), DbErr> {
    if identified.is_empty() {
        return Ok(());
    }
    scan_host::Entity::delete_many()
        .filter(scan_host::Column::ScanId.eq(AsText(scan)))
        .filter(scan_host::Column::Ip.is_in(identified.into_iter().map(AsText)))
        .exec(tx)
        .await?;
    Ok(())
}

/// A page of the hosts of a scan.
pub(super) async fn page(
    db: &impl ConnectionTrait,
    scan: ScanId,
    after: i64,
    limit: u32,
) -> Result<Vec<ScanHost>, DbErr> {
    let after = || {
        scan_host::Entity::find()
            .filter(scan_host::Column::ScanId.eq(AsText(scan)))
            .filter(scan_host::Column::Id.gt(after))
    };
    let commands = after().select_only().column(scan_host::Column::CommandId);
    let nodes: BTreeMap<AsText<CommandId>, i64> = command::Entity::find()
        .select_only()
        .columns([command::Column::Id, command::Column::NodeId])
        .filter(command::Column::Id.in_subquery(commands.into_query()))
        .into_tuple::<(AsText<CommandId>, i64)>()
        .all(db)
        .await?
        .into_iter()
        .collect();
    let rows = after()
        .order_by_asc(scan_host::Column::Id)
        .limit(u64::from(limit))
        .all(db)
        .await?;
    let host = |row: scan_host::Model| {
        let node = nodes.get(&row.command_id).copied();
        shown(row, node.map(NodeId))
    };
    rows.into_iter().map(host).collect()
}

async fn known(
    tx: &DatabaseTransaction,
    scan: ScanId,
    addresses: &BTreeSet<IpAddr>,
) -> Result<BTreeSet<IpAddr>, DbErr> {
    let rows: Vec<AsText<IpAddr>> = scan_host::Entity::find()
        .select_only()
        .column(scan_host::Column::Ip)
        .filter(scan_host::Column::ScanId.eq(AsText(scan)))
        .filter(scan_host::Column::Ip.is_in(addresses.iter().copied().map(AsText)))
        .into_tuple()
        .all(tx)
        .await?;
    Ok(rows.into_iter().map(|ip| ip.0).collect())
}

async fn stored_by(
    tx: &DatabaseTransaction,
    scan: ScanId,
    command: CommandId,
) -> Result<u64, DbErr> {
    scan_host::Entity::find()
        .filter(scan_host::Column::ScanId.eq(AsText(scan)))
        .filter(scan_host::Column::CommandId.eq(AsText(command)))
        .count(tx)
        .await
}

async fn identified(
    tx: &DatabaseTransaction,
    scan: ScanId,
    addresses: &BTreeSet<IpAddr>,
) -> Result<BTreeSet<IpAddr>, DbErr> {
    let rows: Vec<AsText<IpAddr>> = report_row::Entity::find()
        .select_only()
        .column(report_row::Column::Ip)
        .filter(report_row::Column::ScanId.eq(AsText(scan)))
        .filter(report_row::Column::Ip.is_in(addresses.iter().copied().map(AsText)))
        .filter(report_row::Column::Refusal.is_null())
        .into_tuple()
        .all(tx)
        .await?;
    Ok(rows.into_iter().map(|ip| ip.0).collect())
}

fn row(new: &NewReport, scan: ScanId, host: &HostReport) -> Result<scan_host::ActiveModel, DbErr> {
    let name = host.name.as_ref();
    Ok(scan_host::ActiveModel {
        id: NotSet,
        scan_id: Set(AsText(scan)),
        ip: Set(AsText(host.ip)),
        command_id: Set(AsText(new.command)),
        mac: Set(host.mac.map(AsText)),
        name: Set(name.map(|name| name.name.clone())),
        name_source: Set(name.map(|name| AsText(name.source))),
        open_ports: Set(codec::write_ports(&host.open_ports)),
        reply_port: Set(host.reply_port.map(|port| i64::from(port.number()))),
        reply: Set(host.reply.clone()),
        requests: Set(codec::write_texts(&host.requests)?),
        at: Set(Micros(new.now)),
    })
}

fn shown(row: scan_host::Model, node: Option<NodeId>) -> Result<ScanHost, DbErr> {
    let name = row.name.zip(row.name_source);
    Ok(ScanHost {
        id: row.id,
        host: HostReport {
            ip: row.ip.0,
            mac: row.mac.map(|mac| mac.0),
            name: name.and_then(|(name, source)| NamedBy::new(&name, source.0)),
            open_ports: codec::read_ports(&row.open_ports)?,
            reply_port: row.reply_port.map(codec::read_port).transpose()?,
            reply: row.reply,
            requests: codec::read_texts(&row.requests)?,
        },
        node,
        at: row.at.0,
    })
}
