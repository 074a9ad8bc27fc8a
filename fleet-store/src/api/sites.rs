//! Sites: the networks of nodes, with the rules that bind every scan there.

use async_trait::async_trait;
use fleet_core::{NodeId, OperatorId, OrgId, SiteExcludeId, SiteId, Timestamp};
use fleet_discovery::{Exclusion, ExclusionError, TargetEntry};
use fleet_inventory::{Blackout, BlackoutEnd, Zone, blackout_end};

use crate::{Actor, StoreError};

/// A target that no scan of a site's nodes includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteExclude {
    /// The exclude.
    pub id: SiteExcludeId,
    /// The target in canonical form.
    pub target: String,
    /// Why it is excluded.
    pub reason: String,
    /// The e-mail of the operator that excluded it.
    pub created_by: String,
    /// When it was excluded.
    pub created_at: Timestamp,
}

/// A site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRow {
    /// The site.
    pub id: SiteId,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its live nodes, by id.
    pub nodes: Vec<NodeId>,
    /// The targets that it excludes, oldest first.
    pub excludes: Vec<SiteExclude>,
    /// The time zone of the blackouts.
    pub zone: Zone,
    /// The windows in which its nodes run no scan.
    pub blackouts: Vec<Blackout>,
}

impl SiteRow {
    /// Returns the exclusions for plans.
    ///
    /// # Errors
    ///
    /// A stored target cannot be read. Without it, a plan could include what the site excludes.
    pub fn exclusions(&self) -> Result<Vec<Exclusion>, ExclusionError> {
        let exclusion = |one: &SiteExclude| Exclusion::new(&one.target, &self.name, &one.reason);
        self.excludes.iter().map(exclusion).collect()
    }

    /// Returns the end of the blackout at a moment; none outside of blackouts.
    pub fn blackout(&self, now: Timestamp) -> Option<BlackoutEnd> {
        blackout_end(&self.blackouts, &self.zone, now)
    }
}

/// The new blackouts of a site.
#[derive(Clone, Debug)]
pub struct NewBlackouts {
    /// The time zone.
    pub zone: Zone,
    /// The windows; they leave at least one minute of a week.
    pub windows: Vec<Blackout>,
}

/// Why a site did not change.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// No such site in this organization.
    #[error("no site {0} in this organization: `fleetctl sites list` shows the sites")]
    NotFound(SiteId),
    /// Another site has the name.
    #[error("site {other} has the name `{name}`: choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// The other site.
        other: SiteId,
    },
    /// The site has nodes.
    #[error("site {site} has {nodes} nodes: move them to another site or revoke them first")]
    NotEmpty {
        /// The site.
        site: SiteId,
        /// The number of its nodes.
        nodes: u64,
    },
    /// The site would have too many excludes.
    #[error(
        "site {site} would exclude {count} targets, and {most} are the most: combine them to networks or ranges"
    )]
    TooMany {
        /// The site.
        site: SiteId,
        /// The number of its excludes with the new ones.
        count: u64,
        /// The limit.
        most: usize,
    },
    /// All sites together would have too many excludes.
    #[error(
        "the sites of this organization would exclude {count} targets, and {most} are the most: combine them to networks or ranges"
    )]
    TooManyTogether {
        /// The number of all excludes with the new ones.
        count: u64,
        /// The limit.
        most: usize,
    },
    /// The organization has too many sites.
    #[error("this organization has {0} sites, which is the most: delete one first")]
    TooManySites(usize),
    /// The site excludes the target already.
    #[error(
        "site {site} excludes `{target}` already: remove that exclude first to change its reason"
    )]
    Excluded {
        /// The site.
        site: SiteId,
        /// The target.
        target: String,
    },
    /// No such exclude in this organization.
    #[error(
        "no exclude {0} in this organization: `fleetctl sites show` lists the excludes of a site"
    )]
    NoExclude(SiteExcludeId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Sites and their rules.
#[async_trait]
pub trait Sites: Send + Sync {
    /// Lists the sites of an organization, by id.
    async fn list_sites(&self, org: OrgId) -> Result<Vec<SiteRow>, StoreError>;

    /// Returns one site of an organization.
    async fn site(&self, org: OrgId, site: SiteId) -> Result<Option<SiteRow>, StoreError>;

    /// Creates a site without nodes.
    async fn create_site(
        &self,
        org: OrgId,
        name: &str,
        actor: Actor,
        now: Timestamp,
    ) -> Result<SiteId, SiteError>;

    /// Changes the name of a site.
    async fn rename_site(
        &self,
        org: OrgId,
        site: SiteId,
        name: &str,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError>;

    /// Deletes a site without live nodes.
    async fn delete_site(
        &self,
        org: OrgId,
        site: SiteId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError>;

    /// Excludes targets from every later scan of the site's nodes.
    #[expect(clippy::too_many_arguments, reason = "each is a column of the rows")]
    async fn exclude_targets(
        &self,
        org: OrgId,
        site: SiteId,
        targets: &[TargetEntry],
        reason: &str,
        operator: OperatorId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError>;

    /// Removes an exclude.
    async fn remove_exclude(
        &self,
        org: OrgId,
        exclude: SiteExcludeId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError>;

    /// Replaces the blackouts of a site. They also hold back scans that wait or run already.
    async fn set_blackouts(
        &self,
        org: OrgId,
        site: SiteId,
        new: NewBlackouts,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), SiteError>;
}
