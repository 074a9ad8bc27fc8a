//! Finding the facts of an ended scan and of silent nodes, and writing their messages. Each function that writes runs in
//! one transaction, which also stores that the fact was found.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{AlertRuleId, enrollment::NodeState};
use fleet_inventory::{
    AlertEvent, AlertMessage, DeviceFact, Observation, Silence, observe, silence,
};

use super::{
    lock,
    observed::{self, ScanResult},
    outbox::{self, NewMessage},
    rules,
};
use crate::{
    AlertRuleRow, DirectEnd, NodeOfSite,
    sql::{
        entity::{
            alert_channel, alert_delivery, alert_rule, alert_scan, alert_silence, node, scan,
            scan_share,
        },
        missing,
        prelude::*,
        results::load::nodes_of_sites,
    },
};

/// Records that a scan ended, in the transaction of its end.
pub(crate) async fn scan_ended(
    tx: &DatabaseTransaction,
    scan: AsText<ScanId>,
) -> Result<(), DbErr> {
    let row = alert_scan::ActiveModel { scan_id: Set(scan) };
    alert_scan::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// The oldest ended scans that alerts have not looked at.
pub(super) async fn ended_scans(
    db: &impl ConnectionTrait,
    limit: u64,
) -> Result<Vec<ScanId>, DbErr> {
    let ids: Vec<AsText<ScanId>> = alert_scan::Entity::find()
        .select_only()
        .column(alert_scan::Column::ScanId)
        .order_by_asc(alert_scan::Column::ScanId)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await?;
    Ok(ids.into_iter().map(|id| id.0).collect())
}

/// An ended scan with its result.
pub(super) struct Ended {
    row: scan::Model,
    shares: Vec<scan_share::Model>,
    nodes: BTreeMap<NodeId, NodeOfSite>,
    sites: BTreeMap<SiteId, String>,
    /// None if no rule watches devices.
    result: Option<ScanResult>,
}

pub(super) async fn load(db: &impl ConnectionTrait, id: ScanId) -> Result<Option<Ended>, DbErr> {
    let Some(row) = scan::Entity::find_by_id(AsText(id)).one(db).await? else {
        return Ok(None);
    };
    let shares = scan_share::Entity::find()
        .filter(scan_share::Column::ScanId.eq(row.id))
        .order_by_asc(scan_share::Column::NodeId)
        .all(db)
        .await?;
    let of_scan = shares.iter().map(|share| share.node_id).collect();
    let nodes = nodes_of_sites(db, &of_scan).await?;
    let sites = nodes
        .values()
        .map(|node| (node.site, node.site_name.clone()));
    let sites = sites.collect();
    let watched = rules(db, OrgId(row.org_id)).await?;
    let watches = |rule: &AlertRuleRow| rule.rule.rule.event.is_of_devices();
    let result = if watched.iter().any(watches) {
        Some(ScanResult::load(db, id).await?)
    } else {
        None
    };
    Ok(Some(Ended {
        row,
        shares,
        nodes,
        sites,
        result,
    }))
}

/// Finds the facts of a result about devices of these sites, and stores the state of the devices.
async fn observed_facts(
    tx: &DatabaseTransaction,
    (org, since): (OrgId, Timestamp),
    sites: &[SiteId],
    result: &ScanResult,
    rules: &[AlertRuleRow],
) -> Result<Observation, DbErr> {
    let counts_missing = |rule: &AlertRuleRow| {
        rule.rule.enabled && rule.rule.rule.event == AlertEvent::DeviceMissing
    };
    let sites = if rules.iter().any(counts_missing) {
        sites
    } else {
        &[]
    };
    let known = observed::known(tx, org, sites, result).await?;
    let found = observe(&known, &result.observed(&known), since);
    observed::store(tx, org, &found.changed).await?;
    Ok(found)
}

/// Stores the messages about an ended direct scan and the state of its devices. Returns the number of messages.
pub(crate) async fn settle_direct(tx: &DatabaseTransaction, end: &DirectEnd) -> Result<u64, DbErr> {
    let since = lock(tx, end.org).await?;
    missing::mark_direct(tx, end).await?;
    let Some(since) = since else {
        return Ok(0);
    };
    let rules = rules(tx, end.org).await?;
    let watches = |rule: &AlertRuleRow| rule.rule.rule.event.is_of_devices();
    let mut observation = Observation::default();
    if rules.iter().any(watches) {
        let result = ScanResult::of_direct(tx, end).await?;
        let own = [observed::SERVER_SITE];
        observation = observed_facts(tx, (end.org, since), &own, &result, &rules).await?;
    }
    let named = "the server's own network".to_owned();
    let sites = BTreeMap::from([(observed::SERVER_SITE, named)]);
    let mut outbox = Outbox::of(tx, end.org, end.now).await?;
    for rule in rules.iter().filter(|rule| rule.rule.enabled) {
        let message = match rule.rule.rule.event {
            AlertEvent::ScanFailed => end
                .failure
                .as_deref()
                .map(AlertMessage::of_failed_direct_scan),
            AlertEvent::NodeSilent => None,
            AlertEvent::NewDevice
            | AlertEvent::DeviceMissing
            | AlertEvent::DeviceMoved
            | AlertEvent::FirmwareChanged => {
                AlertMessage::of_devices(&rule.rule.rule, &observation.facts, &sites)
            }
        };
        if let Some(message) = message {
            let new = NewMessage {
                rule: Some((rule.id, rule.rule.name.as_str())),
                event: rule.rule.rule.event.as_str(),
                message: &message,
                // It has no row to link to.
                scan: None,
                node: None,
            };
            outbox.add(rule, &new)?;
        }
    }
    outbox.store(tx).await
}

/// Stores the messages about an ended scan and the state of its devices. Returns the number of messages.
pub(super) async fn settle_scan(
    tx: &DatabaseTransaction,
    ended: &Ended,
    now: Timestamp,
) -> Result<u64, DbErr> {
    let (id, org) = (ended.row.id, OrgId(ended.row.org_id));
    // Of several servers, one deletes the row.
    let claimed = alert_scan::Entity::delete_by_id(id).exec(tx).await?;
    if claimed.rows_affected == 0 {
        return Ok(0);
    }
    let Some(since) = lock(tx, org).await? else {
        return Ok(0);
    };
    let rules = rules(tx, org).await?;
    let sites: Vec<SiteId> = ended.sites.keys().copied().collect();
    let observation = match &ended.result {
        Some(result) => observed_facts(tx, (org, since), &sites, result, &rules).await?,
        None => Observation::default(),
    };
    let mut outbox = Outbox::of(tx, org, now).await?;
    for rule in rules.iter().filter(|rule| rule.rule.enabled) {
        if let Some(message) = message(rule, ended, &observation.facts) {
            let new = NewMessage {
                rule: Some((rule.id, rule.rule.name.as_str())),
                event: rule.rule.rule.event.as_str(),
                message: &message,
                scan: Some(id.0),
                node: ended.only_node(),
            };
            outbox.add(rule, &new)?;
        }
    }
    outbox.store(tx).await
}

impl Ended {
    /// The node of the scan; none if it has several.
    fn only_node(&self) -> Option<NodeId> {
        match self.shares.as_slice() {
            [only] => Some(NodeId(only.node_id)),
            _ => None,
        }
    }

    /// The nodes on which it failed, each with the reason. A scan that failed as a whole failed on every node without a
    /// result.
    fn failed(&self) -> Vec<(String, String)> {
        let whole = self.row.state.0 == ScanState::Failed;
        let failed = |share: &&scan_share::Model| {
            let state = share.state.0;
            state == ScanState::Failed || whole && state == ScanState::Expired
        };
        let failed = self.shares.iter().filter(failed);
        let part = |share: &scan_share::Model| {
            let node = self.nodes.get(&NodeId(share.node_id));
            let name = node.map(|node| node.name.clone()).unwrap_or_default();
            (name, share.reason.clone())
        };
        failed.map(part).collect()
    }
}

fn message(rule: &AlertRuleRow, ended: &Ended, facts: &[DeviceFact]) -> Option<AlertMessage> {
    let rule = &rule.rule.rule;
    match rule.event {
        AlertEvent::ScanFailed => AlertMessage::of_failed_scan(&ended.failed(), ended.shares.len()),
        AlertEvent::NodeSilent => None,
        AlertEvent::NewDevice
        | AlertEvent::DeviceMissing
        | AlertEvent::DeviceMoved
        | AlertEvent::FirmwareChanged => AlertMessage::of_devices(rule, facts, &ended.sites),
    }
}

/// The messages of one transaction.
struct Outbox {
    org: OrgId,
    now: Timestamp,
    channels: BTreeMap<i64, alert_channel::Model>,
    rows: Vec<alert_delivery::ActiveModel>,
}

impl Outbox {
    async fn of(tx: &DatabaseTransaction, org: OrgId, now: Timestamp) -> Result<Self, DbErr> {
        let channels = alert_channel::Entity::find()
            .filter(alert_channel::Column::OrgId.eq(org.0))
            .all(tx)
            .await?;
        Ok(Self {
            org,
            now,
            channels: channels.into_iter().map(|row| (row.id, row)).collect(),
            rows: Vec::new(),
        })
    }

    /// Adds a message to each channel of a rule.
    fn add(&mut self, rule: &AlertRuleRow, new: &NewMessage<'_>) -> Result<(), DbErr> {
        let due = rule.rule.rule.quiet.release(self.now);
        for channel in &rule.rule.channels {
            if let Some(channel) = self.channels.get(&channel.0) {
                let row = outbox::row(self.org, channel, new, due, self.now)?;
                self.rows.push(row);
            }
        }
        Ok(())
    }

    async fn store(self, tx: &DatabaseTransaction) -> Result<u64, DbErr> {
        outbox::store(tx, self.org, self.rows, self.now).await
    }
}

/// The organizations with rules about silent nodes.
pub(super) async fn orgs_that_watch_nodes(db: &impl ConnectionTrait) -> Result<Vec<OrgId>, DbErr> {
    let orgs: Vec<i64> = alert_rule::Entity::find()
        .select_only()
        .column(alert_rule::Column::OrgId)
        .distinct()
        .filter(alert_rule::Column::Event.eq(AsText(AlertEvent::NodeSilent)))
        .filter(alert_rule::Column::Enabled.eq(true))
        .order_by_asc(alert_rule::Column::OrgId)
        .into_tuple()
        .all(db)
        .await?;
    Ok(orgs.into_iter().map(OrgId).collect())
}

/// A node that became silent or came back, for one rule.
pub(super) struct Found {
    rule: AlertRuleRow,
    node: NodeId,
    name: String,
    silence: Silence,
}

/// Changes that one look stores in one transaction. The next look stores the others.
const CHANGES: usize = 256;

pub(super) async fn silences(
    db: &impl ConnectionTrait,
    org: OrgId,
    watched_since: Timestamp,
    now: Timestamp,
) -> Result<Vec<Found>, DbErr> {
    let rules = rules(db, org).await?;
    let nodes = node::Entity::find()
        .filter(node::Column::OrgId.eq(org.0))
        .filter(node::Column::State.eq(AsText(NodeState::Confirmed)))
        .filter(node::Column::DeletedAt.is_null())
        .order_by_asc(node::Column::Id)
        .all(db)
        .await?;
    let mut found = Vec::new();
    let of_nodes =
        |rule: &&AlertRuleRow| rule.rule.enabled && rule.rule.rule.event == AlertEvent::NodeSilent;
    for rule in rules.iter().filter(of_nodes) {
        let open = alert_silence::Entity::find()
            .select_only()
            .column(alert_silence::Column::NodeId)
            .filter(alert_silence::Column::RuleId.eq(rule.id.0))
            .into_tuple::<i64>()
            .all(db)
            .await?;
        let open: BTreeSet<i64> = open.into_iter().collect();
        for node in &nodes {
            let seen = node.last_seen_at.map(|at| at.0);
            let allowed = rule.rule.rule.silence();
            let decided = silence(open.contains(&node.id), seen, watched_since, allowed, now);
            if decided != Silence::Unchanged {
                found.push(Found {
                    rule: rule.clone(),
                    node: NodeId(node.id),
                    name: node.name.clone(),
                    silence: decided,
                });
            }
            if found.len() >= CHANGES {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Stores the messages about nodes, under the lock of the organization's alerts.
pub(super) async fn settle_nodes(
    tx: &DatabaseTransaction,
    org: OrgId,
    found: &[Found],
    now: Timestamp,
) -> Result<u64, DbErr> {
    let mut outbox = Outbox::of(tx, org, now).await?;
    for Found {
        rule,
        node,
        name,
        silence,
    } in found
    {
        let (event, message) = match silence {
            Silence::Unchanged => continue,
            Silence::Begins => {
                begin(tx, rule.id, *node, now).await?;
                let threshold = rule.rule.rule.threshold;
                let event = AlertEvent::NodeSilent.as_str();
                (event, AlertMessage::of_silent_node(name, threshold))
            }
            Silence::Ends => {
                alert_silence::Entity::delete_by_id((rule.id.0, node.0))
                    .exec(tx)
                    .await?;
                // Nobody needs to know that a node is back whose silence waited for the end of quiet hours.
                let unsent = outbox::withdraw(tx, rule.id, *node).await?;
                if unsent > 0 {
                    continue;
                }
                ("node.back", AlertMessage::of_returned_node(name))
            }
        };
        let new = NewMessage {
            rule: Some((rule.id, rule.rule.name.as_str())),
            event,
            message: &message,
            scan: None,
            node: Some(*node),
        };
        outbox.add(rule, &new)?;
    }
    outbox.store(tx).await
}

async fn begin(
    tx: &DatabaseTransaction,
    rule: AlertRuleId,
    node: NodeId,
    now: Timestamp,
) -> Result<(), DbErr> {
    let row = alert_silence::ActiveModel {
        rule_id: Set(rule.0),
        node_id: Set(node.0),
        since: Set(Micros(now)),
    };
    alert_silence::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}
