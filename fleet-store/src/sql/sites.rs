//! Sites, their excludes and their blackouts.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{SiteExcludeId, SiteId};
use fleet_discovery::{NodeChoice, TargetEntry};
use fleet_inventory::{Blackout, BlackoutEnd, blackout_end, is_blacked_out};

use super::{
    audit,
    entity::{node, operator, schedule, site, site_block, site_exclude},
};
use crate::{NewBlackouts, SiteError, SiteExclude, SiteRow, Sites, sql::prelude::*};

#[async_trait]
impl Sites for SqlStore {
    async fn list_sites(&self, org: OrgId) -> Result<Vec<SiteRow>, StoreError> {
        rows(self.reader(), org, None).await.during("list_sites")
    }

    async fn site(&self, org: OrgId, site: SiteId) -> Result<Option<SiteRow>, StoreError> {
        let rows = rows(self.reader(), org, Some(site)).await;
        rows.map(|rows| rows.into_iter().next()).during("site")
    }

    async fn create_site(
        &self,
        org: OrgId,
        name: &str,
        actor: Actor,
        now: Timestamp,
    ) -> Result<SiteId, SiteError> {
        transaction!(self, "create_site", |tx| {
            check_name(tx, org, name, None).await?;
            let made = site::Entity::find()
                .filter(site::Column::OrgId.eq(org.0))
                .filter(site::Column::OfNode.eq(false))
                .filter(site::Column::DeletedAt.is_null());
            if made.count(tx).await? >= limits::SITES as u64 {
                return refuse(SiteError::TooManySites(limits::SITES));
            }
            let id = blank(org.0, name, now).insert(tx).await?.id;
            let subject = format!("site {id} ({name})");
            audit::done(tx, org, &actor, "site.create", subject, now).await?;
            Ok(SiteId(id))
        })
    }

    async fn rename_site(
        &self,
        org: OrgId,
        id: SiteId,
        name: &str,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError> {
        transaction!(self, "rename_site", |tx| {
            let Some(old) = lock(tx, org, id).await? else {
                return refuse(SiteError::NotFound(id));
            };
            check_name(tx, org, name, Some(id)).await?;
            let change = site::ActiveModel {
                id: Set(id.0),
                name: Set(name.to_owned()),
                of_node: Set(false),
                ..Default::default()
            };
            change.update(tx).await?;
            let subject = format!("site {id} ({}) to {name}", old.name);
            audit::done(tx, org, &actor, "site.rename", subject, now).await?;
            Ok(())
        })
    }

    async fn delete_site(
        &self,
        org: OrgId,
        id: SiteId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError> {
        transaction!(self, "delete_site", |tx| {
            // A node that moves to the site holds this lock until it has moved.
            let Some(old) = lock(tx, org, id).await? else {
                return refuse(SiteError::NotFound(id));
            };
            let nodes = live_nodes(tx, id).await?;
            if nodes > 0 {
                return refuse(SiteError::NotEmpty { site: id, nodes });
            }
            delete(tx, &old, shown(&old), &actor, now).await?;
            Ok(())
        })
    }

    async fn exclude_targets(
        &self,
        org: OrgId,
        id: SiteId,
        targets: &[TargetEntry],
        reason: &str,
        operator: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError> {
        transaction!(self, "exclude_targets", |tx| {
            let Some(site) = lock(tx, org, id).await? else {
                return refuse(SiteError::NotFound(id));
            };
            let of_site =
                || site_exclude::Entity::find().filter(site_exclude::Column::SiteId.eq(id.0));
            let count = of_site().count(tx).await? + targets.len() as u64;
            if count > limits::SITE_EXCLUDES as u64 {
                return refuse(SiteError::TooMany {
                    site: id,
                    count,
                    most: limits::SITE_EXCLUDES,
                });
            }
            let of_org = site_exclude::Entity::find().filter(site_exclude::Column::OrgId.eq(org.0));
            let count = of_org.count(tx).await? + targets.len() as u64;
            if count > limits::ORGANIZATION_EXCLUDES as u64 {
                return refuse(SiteError::TooManyTogether {
                    count,
                    most: limits::ORGANIZATION_EXCLUDES,
                });
            }
            for target in targets {
                let target = target.to_string();
                let same = of_site().filter(site_exclude::Column::Target.eq(&target));
                if same.count(tx).await? > 0 {
                    return refuse(SiteError::Excluded { site: id, target });
                }
                let row = site_exclude::ActiveModel {
                    id: NotSet,
                    org_id: Set(org.0),
                    site_id: Set(id.0),
                    target: Set(target.clone()),
                    reason: Set(reason.to_owned()),
                    created_by: Set(operator.0),
                    created_at: Set(Micros(now)),
                };
                row.insert(tx).await?;
                let subject = format!("{target} at {}: {reason}", shown(&site));
                audit::done(tx, org, &actor, "site.exclude", subject, now).await?;
            }
            Ok(())
        })
    }

    async fn remove_exclude(
        &self,
        org: OrgId,
        id: SiteExcludeId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError> {
        transaction!(self, "remove_exclude", |tx| {
            let found = site_exclude::Entity::find_by_id(id.0)
                .filter(site_exclude::Column::OrgId.eq(org.0))
                .one(tx)
                .await?;
            let Some(found) = found else {
                return refuse(SiteError::NoExclude(id));
            };
            let removed = site_exclude::Entity::delete_by_id(id.0).exec(tx).await?;
            if removed.rows_affected == 0 {
                return refuse(SiteError::NoExclude(id));
            }
            let subject = format!("{} at site {}", found.target, found.site_id);
            audit::done(tx, org, &actor, "site.remove_exclude", subject, now).await?;
            Ok(())
        })
    }

    async fn set_blackouts(
        &self,
        org: OrgId,
        id: SiteId,
        new: NewBlackouts,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError> {
        transaction!(self, "set_blackouts", |tx| {
            let Some(old) = lock(tx, org, id).await? else {
                return refuse(SiteError::NotFound(id));
            };
            let windows: Vec<String> = new.windows.iter().map(ToString::to_string).collect();
            let change = site::ActiveModel {
                id: Set(id.0),
                time_zone: Set(new.zone.to_string()),
                blackouts: Set(windows.join("; ")),
                ..Default::default()
            };
            let changed = change.update(tx).await?;
            let subject = format!(
                "{}: `{}` {} instead of `{}` {}",
                shown(&old),
                changed.blackouts,
                changed.time_zone,
                old.blackouts,
                old.time_zone
            );
            audit::done(tx, org, &actor, "site.set_blackouts", subject, now).await?;
            Ok(())
        })
    }
}

/// Creates a site with the name of its node.
pub(crate) async fn create_for_node(
    tx: &DatabaseTransaction,
    org: i64,
    node: &str,
    now: Timestamp,
) -> Result<i64, DbErr> {
    let created = site::ActiveModel {
        of_node: Set(true),
        ..blank(org, node, now)
    };
    Ok(created.insert(tx).await?.id)
}

/// Deletes a site that was created with its node, after the node has moved away: nothing else refers to it. It stays if
/// another node, a rule or a schedule of an operator needs it. The site is locked.
pub(crate) async fn delete_if_unused(
    tx: &DatabaseTransaction,
    left: &site::Model,
    actor: &Actor,
    now: Timestamp,
) -> Result<(), DbErr> {
    if !left.of_node || !left.blackouts.is_empty() {
        return Ok(());
    }
    let id = SiteId(left.id);
    let excludes = site_exclude::Entity::find().filter(site_exclude::Column::SiteId.eq(id.0));
    let scheduled = schedule::Entity::find()
        .filter(schedule::Column::OrgId.eq(left.org_id))
        .filter(schedule::Column::Choice.eq(AsText(NodeChoice::Site(id))));
    if live_nodes(tx, id).await? > 0
        || excludes.count(tx).await? > 0
        || scheduled.count(tx).await? > 0
    {
        return Ok(());
    }
    let subject = format!("{}: its only node moved away", shown(left));
    delete(tx, left, subject, actor, now).await
}

async fn live_nodes(tx: &DatabaseTransaction, site: SiteId) -> Result<u64, DbErr> {
    node::Entity::find()
        .filter(node::Column::SiteId.eq(site.0))
        .filter(node::Column::DeletedAt.is_null())
        .count(tx)
        .await
}

async fn delete(
    tx: &DatabaseTransaction,
    old: &site::Model,
    subject: String,
    actor: &Actor,
    now: Timestamp,
) -> Result<(), DbErr> {
    let change = site::ActiveModel {
        id: Set(old.id),
        deleted_at: Set(Some(Micros(now))),
        ..Default::default()
    };
    change.update(tx).await?;
    site_exclude::Entity::delete_many()
        .filter(site_exclude::Column::SiteId.eq(old.id))
        .exec(tx)
        .await?;
    site_block::Entity::delete_many()
        .filter(site_block::Column::SiteId.eq(old.id))
        .exec(tx)
        .await?;
    audit::done(tx, OrgId(old.org_id), actor, "site.delete", subject, now).await
}

fn blank(org: i64, name: &str, now: Timestamp) -> site::ActiveModel {
    site::ActiveModel {
        id: NotSet,
        org_id: Set(org),
        name: Set(name.to_owned()),
        created_at: Set(Micros(now)),
        deleted_at: Set(None),
        time_zone: Set("UTC".to_owned()),
        blackouts: Set(String::new()),
        of_node: Set(false),
    }
}

/// Locks a site of an organization. Transactions that also lock nodes lock those first.
pub(crate) async fn lock(
    tx: &DatabaseTransaction,
    org: OrgId,
    id: SiteId,
) -> Result<Option<site::Model>, DbErr> {
    site::Entity::find_by_id(id.0)
        .filter(site::Column::OrgId.eq(org.0))
        .filter(site::Column::DeletedAt.is_null())
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

/// The end of the blackout of a site at a moment.
pub(crate) fn blackout(site: &site::Model, now: Timestamp) -> Result<Option<BlackoutEnd>, DbErr> {
    if site.blackouts.is_empty() {
        return Ok(None);
    }
    let windows = read_blackouts(site)?;
    Ok(blackout_end(&windows, &read_zone(site)?, now))
}

/// Whether a blackout of a site holds commands back at a moment. Rules that cannot be read hold them back too: what the
/// site forbids is not known then.
pub(crate) fn is_held(site: &site::Model, now: Timestamp) -> bool {
    if site.blackouts.is_empty() {
        return false;
    }
    let rules = read_blackouts(site).and_then(|windows| Ok((windows, read_zone(site)?)));
    match rules {
        Ok((windows, zone)) => is_blacked_out(&windows, &zone, now),
        Err(error) => {
            tracing::error!(site = site.id, %error, "a site is held, because its blackouts cannot be read");
            true
        }
    }
}

fn read_blackouts(site: &site::Model) -> Result<Vec<Blackout>, DbErr> {
    Blackout::parse_list(&site.blackouts).map_err(|error| unreadable("site", error))
}

fn read_zone(site: &site::Model) -> Result<fleet_inventory::Zone, DbErr> {
    let zone = site.time_zone.parse();
    zone.map_err(|error: fleet_inventory::UnknownZone| unreadable("site", error))
}

fn shown(site: &site::Model) -> String {
    format!("site {} ({})", site.id, site.name)
}

/// Refuses the name of another live site. Names are for people and not unique: a node has a site with its own name
/// unless it shares one.
async fn check_name(
    tx: &DatabaseTransaction,
    org: OrgId,
    name: &str,
    own: Option<SiteId>,
) -> Result<(), Failure<SiteError>> {
    let other = site::Entity::find()
        .filter(site::Column::OrgId.eq(org.0))
        .filter(site::Column::DeletedAt.is_null())
        .filter(site::Column::Name.eq(name))
        .filter(site::Column::Id.ne(own.map_or(0, |id| id.0)))
        .one(tx)
        .await?;
    match other {
        None => Ok(()),
        Some(other) => refuse(SiteError::NameTaken {
            name: name.to_owned(),
            other: SiteId(other.id),
        }),
    }
}

/// Reads sites of an organization with four queries, regardless of their number.
pub(super) async fn rows(
    db: &impl ConnectionTrait,
    org: OrgId,
    only: Option<SiteId>,
) -> Result<Vec<SiteRow>, DbErr> {
    let mut sites = site::Entity::find()
        .filter(site::Column::OrgId.eq(org.0))
        .filter(site::Column::DeletedAt.is_null());
    if let Some(SiteId(id)) = only {
        sites = sites.filter(site::Column::Id.eq(id));
    }
    let sites = sites.order_by_asc(site::Column::Id).all(db).await?;
    let mut nodes: BTreeMap<i64, Vec<NodeId>> = BTreeMap::new();
    let live = node::Entity::find()
        .filter(node::Column::SiteId.is_in(sites.iter().map(|site| site.id)))
        .filter(node::Column::DeletedAt.is_null())
        .order_by_asc(node::Column::Id)
        .all(db)
        .await?;
    for node in live {
        nodes.entry(node.site_id).or_default().push(NodeId(node.id));
    }
    let found = site_exclude::Entity::find()
        .filter(site_exclude::Column::SiteId.is_in(sites.iter().map(|site| site.id)))
        .order_by_asc(site_exclude::Column::Id)
        .all(db)
        .await?;
    // Each once: a query can bind fewer values than there are excludes.
    let authors: BTreeSet<i64> = found.iter().map(|one| one.created_by).collect();
    let emails: BTreeMap<i64, String> = operator::Entity::find()
        .filter(operator::Column::Id.is_in(authors))
        .all(db)
        .await?
        .into_iter()
        .map(|operator| (operator.id, operator.email))
        .collect();
    let mut excludes: BTreeMap<i64, Vec<SiteExclude>> = BTreeMap::new();
    for one in found {
        let exclude = SiteExclude {
            id: SiteExcludeId(one.id),
            target: one.target,
            reason: one.reason,
            created_by: emails.get(&one.created_by).cloned().unwrap_or_default(),
            created_at: one.created_at.0,
        };
        excludes.entry(one.site_id).or_default().push(exclude);
    }
    let row = |site: site::Model| {
        Ok(SiteRow {
            zone: read_zone(&site)?,
            blackouts: read_blackouts(&site)?,
            nodes: nodes.remove(&site.id).unwrap_or_default(),
            excludes: excludes.remove(&site.id).unwrap_or_default(),
            id: SiteId(site.id),
            name: site.name,
            created_at: site.created_at.0,
        })
    };
    sites.into_iter().map(row).collect()
}
