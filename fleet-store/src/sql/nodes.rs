//! Access to node rows: locking one, and reading nodes as operators see them.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{Fingerprint, ReplicaId, enrollment::InvitationState, presence::LastStream};
use fleet_inventory::BlackoutEnd;
use fleet_pairing::Reporter;

use super::{
    codec,
    entity::{invitation, key_fetch, node, node_stream, scan_share, site},
    sites,
};
use crate::{ListPage, NodeRow, sql::prelude::*};

/// Locks a live node. This is the first lock of every transaction that concerns its work. Returns `None` when
/// the node is revoked.
///
/// The lock does not cover the key, so other transactions can still insert rows that refer to the node.
pub(crate) async fn lock(
    tx: &impl ConnectionTrait,
    id: NodeId,
) -> Result<Option<node::Model>, DbErr> {
    node::Entity::find_by_id(id.0)
        .filter(node::Column::DeletedAt.is_null())
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

/// Locks a live node of an organization.
pub(crate) async fn lock_of(
    tx: &impl ConnectionTrait,
    org: OrgId,
    id: NodeId,
) -> Result<Option<node::Model>, DbErr> {
    Ok(lock(tx, id).await?.filter(|node| node.org_id == org.0))
}

/// Locks a node, live or revoked: scans of a revoked node can still end.
pub(crate) async fn lock_any(
    tx: &impl ConnectionTrait,
    id: i64,
) -> Result<Option<node::Model>, DbErr> {
    node::Entity::find_by_id(id)
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

/// The node as the rules see it.
pub(crate) fn reporter(node: &node::Model) -> Reporter {
    Reporter {
        node: NodeId(node.id),
        site: SiteId(node.site_id),
        replaces: node.replaces_node_id.map(NodeId),
    }
}

/// The end of the blackout of a node's site at a moment.
pub(crate) async fn blackout(
    db: &impl ConnectionTrait,
    node: NodeId,
    now: Timestamp,
) -> Result<Option<BlackoutEnd>, DbErr> {
    let Some(node) = node::Entity::find_by_id(node.0).one(db).await? else {
        return Ok(None);
    };
    let site = site::Entity::find_by_id(node.site_id).one(db).await?;
    match site {
        Some(site) => sites::blackout(&site, now),
        None => Ok(None),
    }
}

/// Whether a blackout of a node's site holds commands back at a moment.
pub(crate) async fn is_held(
    db: &impl ConnectionTrait,
    node: &node::Model,
    now: Timestamp,
) -> Result<bool, DbErr> {
    let site = site::Entity::find_by_id(node.site_id).one(db).await?;
    Ok(site.is_some_and(|site| sites::is_held(&site, now)))
}

/// The live nodes whose sites hold commands back at a moment.
pub(crate) async fn in_blackout(
    db: &impl ConnectionTrait,
    now: Timestamp,
) -> Result<BTreeSet<i64>, DbErr> {
    let mut held = Vec::new();
    let sites = site::Entity::find()
        .filter(site::Column::Blackouts.ne(""))
        .filter(site::Column::DeletedAt.is_null())
        .all(db)
        .await?;
    for site in sites {
        if sites::is_held(&site, now) {
            held.push(site.id);
        }
    }
    if held.is_empty() {
        return Ok(BTreeSet::new());
    }
    let nodes = node::Entity::find()
        .filter(node::Column::SiteId.is_in(held))
        .filter(node::Column::DeletedAt.is_null())
        .select_only()
        .column(node::Column::Id)
        .into_tuple::<i64>()
        .all(db)
        .await?;
    Ok(nodes.into_iter().collect())
}

/// The scan states that can still change.
pub(crate) fn open_states() -> Vec<AsText<ScanState>> {
    ScanState::ALL
        .iter()
        .copied()
        .filter(|state| !state.is_terminal())
        .map(AsText)
        .collect()
}

/// The nodes to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// A page of the live nodes, by id.
    Live(ListPage),
    /// One live node.
    One(NodeId),
    /// A page of the revoked nodes, newest first.
    Revoked(ListPage),
}

/// Reads nodes of an organization with six queries, regardless of their number.
pub(crate) async fn rows(
    db: &impl ConnectionTrait,
    org: OrgId,
    which: Which,
) -> Result<Vec<NodeRow>, DbErr> {
    let of_tenant = node::Entity::find().filter(node::Column::OrgId.eq(org.0));
    let live = || of_tenant.clone().filter(node::Column::DeletedAt.is_null());
    let nodes = match which {
        Which::One(NodeId(id)) => live().filter(node::Column::Id.eq(id)),
        Which::Live(page) => live()
            .filter(node::Column::Id.gt(page.after))
            .order_by_asc(node::Column::Id)
            .limit(u64::from(page.limit)),
        Which::Revoked(page) => {
            let revoked = of_tenant
                .clone()
                .filter(node::Column::DeletedAt.is_not_null());
            let revoked = match page.after {
                0 => revoked,
                after => revoked.filter(node::Column::Id.lt(after)),
            };
            revoked
                .order_by_desc(node::Column::Id)
                .limit(u64::from(page.limit))
        }
    };
    let nodes = nodes.all(db).await?;
    let ids = || nodes.iter().map(|node| node.id);
    let streams = node_stream::Entity::find().filter(node_stream::Column::NodeId.is_in(ids()));
    let invitations = invitation::Entity::find()
        .filter(invitation::Column::NodeId.is_in(ids()))
        .filter(invitation::Column::State.eq(AsText(InvitationState::AwaitingConfirmation)));
    let scans = scan_share::Entity::find()
        .filter(scan_share::Column::NodeId.is_in(ids()))
        .filter(scan_share::Column::State.is_in(open_states()));
    let last_stream = |stream: node_stream::Model| {
        let last = LastStream {
            replica: ReplicaId(stream.replica.0),
            ended_at: stream.released_at.map(|at| at.0),
        };
        (stream.node_id, (last, stream.end_reason))
    };
    let mut streams: BTreeMap<i64, (LastStream, Option<String>)> = streams
        .all(db)
        .await?
        .into_iter()
        .map(last_stream)
        .collect();
    let waiting: BTreeMap<i64, i64> = invitations
        .all(db)
        .await?
        .into_iter()
        .filter_map(|invitation| Some((invitation.node_id?, invitation.id)))
        .collect();
    let open: BTreeMap<i64, i64> = scans
        .select_only()
        .column(scan_share::Column::NodeId)
        .column_as(scan_share::Column::ScanId.count(), "open")
        .group_by(scan_share::Column::NodeId)
        .into_tuple::<(i64, i64)>()
        .all(db)
        .await?
        .into_iter()
        .collect();
    let sites: BTreeMap<i64, String> = site::Entity::find()
        .filter(site::Column::Id.is_in(nodes.iter().map(|node| node.site_id)))
        .all(db)
        .await?
        .into_iter()
        .map(|site| (site.id, site.name))
        .collect();
    let fetches: BTreeMap<i64, Option<Timestamp>> = key_fetch::Entity::find()
        .filter(key_fetch::Column::NodeId.is_in(nodes.iter().map(|node| node.id)))
        .all(db)
        .await?
        .into_iter()
        .map(|fetch| (fetch.node_id, fetch.fetched_at.map(|at| at.0)))
        .collect();
    nodes
        .into_iter()
        .map(|node| {
            let (stream, stream_end) = match streams.remove(&node.id) {
                Some((stream, end)) => (Some(stream), end),
                None => (None, None),
            };
            Ok(NodeRow {
                key_fetch: fetches.get(&node.id).copied(),
                id: NodeId(node.id),
                org,
                state: node.state.0,
                fingerprint: if node.keys_proved {
                    Fingerprint::of_both(&node.identity_key.0, &node.encryption_key.0)
                } else {
                    Fingerprint::of(&node.identity_key.0)
                },
                created_at: node.created_at.0,
                last_seen_at: node.last_seen_at.map(|at| at.0),
                invitation: waiting.get(&node.id).copied().map(PendingEnrollmentId),
                stream,
                stream_end,
                stream_problem: node.stream_problem,
                hello: node.hello.as_deref().map(codec::read_hello).transpose()?,
                halt_reason: node.halt_reason,
                duplicate_identity: node.duplicate_identity,
                open_scans: open
                    .get(&node.id)
                    .and_then(|n| u32::try_from(*n).ok())
                    .unwrap_or(0),
                replaces: node.replaces_node_id.map(NodeId),
                site: SiteId(node.site_id),
                site_name: sites.get(&node.site_id).cloned().unwrap_or_default(),
                name: node.name,
            })
        })
        .collect()
}
