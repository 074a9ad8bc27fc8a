//! Alerts: rules, channels, and messages with their deliveries. The transaction that stores a fact's message also stores
//! that the fact was found, so each fact has one message. Each attempt of a delivery is leased to one server.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use fleet_core::{AlertChannelId, AlertDeliveryId, AlertRuleId, NodeId, OrgId, ScanId, Timestamp};
use fleet_inventory::{AfterAttempt, AlertMessage, AlertRule};

use crate::{Actor, StoreError};

/// Most rules of an organization.
pub const ALERT_RULES_OF_AN_ORG: usize = 50;
/// Most channels of an organization.
pub const ALERT_CHANNELS_OF_AN_ORG: usize = 20;
/// Most channels of a rule.
pub const ALERT_CHANNELS_OF_A_RULE: usize = 8;
/// Most messages that wait in one organization. Later ones are stored as failed.
pub const ALERTS_WAITING: u64 = 10_000;
/// How long one attempt belongs to a server. It is longer than any attempt lasts.
pub const ALERT_LEASE: Duration = Duration::from_secs(60);
/// How long an ended message is kept.
pub const ALERT_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Where messages go. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub enum AlertTarget {
    /// A URL, and the key that signs each message.
    Webhook {
        /// The URL, which can contain a secret of its receiver.
        url: String,
        /// The key.
        key: [u8; 32],
    },
    /// An e-mail address.
    Email {
        /// The address.
        address: String,
    },
}

impl AlertTarget {
    /// The name of its kind in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "webhook",
            Self::Email { .. } => "email",
        }
    }
}

impl fmt::Debug for AlertTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlertTarget({})", self.kind())
    }
}

/// A channel to create.
#[derive(Clone, Debug)]
pub struct NewAlertChannel {
    /// The organization.
    pub org: OrgId,
    /// The name, unique in the organization.
    pub name: String,
    /// Where its messages go.
    pub target: AlertTarget,
    /// The target as operators see it, without secrets.
    pub shown: String,
    /// The current time.
    pub now: Timestamp,
}

/// A channel as operators read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertChannelRow {
    /// The channel.
    pub id: AlertChannelId,
    /// The name.
    pub name: String,
    /// `webhook` or `email`.
    pub kind: String,
    /// The target without secrets.
    pub shown: String,
    /// When it was created.
    pub created_at: Timestamp,
}

/// A rule to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAlertRule {
    /// The name, unique in the organization.
    pub name: String,
    /// The event and the quiet hours.
    pub rule: AlertRule,
    /// The channels that receive its messages.
    pub channels: Vec<AlertChannelId>,
    /// Whether it notifies.
    pub enabled: bool,
}

/// A rule as operators read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRuleRow {
    /// The rule.
    pub id: AlertRuleId,
    /// Its content.
    pub rule: NewAlertRule,
    /// When it was created.
    pub created_at: Timestamp,
}

/// The state of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertDeliveryState {
    /// It waits for its first or next attempt.
    Waiting,
    /// The receiver accepted it.
    Delivered,
    /// It is not sent again.
    Failed,
}

impl AlertDeliveryState {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for AlertDeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no state of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a state of a delivery: use waiting, delivered or failed")]
pub struct UnknownDeliveryState(String);

impl FromStr for AlertDeliveryState {
    type Err = UnknownDeliveryState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Waiting, Self::Delivered, Self::Failed];
        let found = all.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| {
            UnknownDeliveryState(text.chars().take(32).flat_map(char::escape_debug).collect())
        })
    }
}

/// A message and its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertDeliveryRow {
    /// The message, with one id for all attempts.
    pub id: AlertDeliveryId,
    /// The organization.
    pub org: OrgId,
    /// The channel, which may have been deleted since.
    pub channel: AlertChannelId,
    /// The name of the channel.
    pub channel_name: String,
    /// The name of the rule; empty for a test.
    pub rule: String,
    /// The event, or `node.back` or `test`.
    pub event: String,
    /// The message.
    pub message: AlertMessage,
    /// The scan, if the message is about one.
    pub scan: Option<ScanId>,
    /// The node, if the message is about one.
    pub node: Option<NodeId>,
    /// The state.
    pub state: AlertDeliveryState,
    /// When the fact was found.
    pub created_at: Timestamp,
    /// The next attempt, while it waits.
    pub due_at: Timestamp,
    /// When it counts as failed.
    pub expires_at: Timestamp,
    /// The attempts so far.
    pub attempts: u32,
    /// The receiver's last answer; empty before the first.
    pub answer: String,
    /// When it answered.
    pub answered_at: Option<Timestamp>,
    /// When it was delivered or failed.
    pub ended_at: Option<Timestamp>,
}

/// A message that this server sends now.
#[derive(Clone, Debug)]
pub struct LeasedAlert {
    /// The message. The attempt has its number of attempts.
    pub delivery: AlertDeliveryRow,
    /// Where it goes.
    pub target: AlertTarget,
}

/// Why a rule, a channel or a delivery was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// No such channel in this organization.
    #[error("no alert channel {0} in this organization")]
    ChannelNotFound(AlertChannelId),
    /// No such rule in this organization.
    #[error("no alert rule {0} in this organization")]
    RuleNotFound(AlertRuleId),
    /// No such delivery in this organization.
    #[error("no delivery {0} in this organization")]
    DeliveryNotFound(AlertDeliveryId),
    /// The name is used.
    #[error("`{0}` is used already: choose another name")]
    NameTaken(String),
    /// There are too many rules.
    #[error(
        "the organization has {ALERT_RULES_OF_AN_ORG} alert rules, which is the limit: delete one first"
    )]
    TooManyRules,
    /// There are too many channels.
    #[error(
        "the organization has {ALERT_CHANNELS_OF_AN_ORG} alert channels, which is the limit: delete one first"
    )]
    TooManyChannels,
    /// Too many messages wait.
    #[error("{ALERTS_WAITING} alerts wait for their delivery: look at the failing channels first")]
    TooManyWaiting,
    /// Only a failed message is sent again.
    #[error("delivery {0} is {1}: only a failed one can be retried")]
    NotFailed(AlertDeliveryId, AlertDeliveryState),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Rules, channels and deliveries of alerts.
#[async_trait]
pub trait Alerts: Send + Sync {
    /// Stores a channel with its audit record.
    async fn create_alert_channel(
        &self,
        new: NewAlertChannel,
        actor: Actor,
    ) -> Result<AlertChannelRow, AlertError>;

    /// Deletes a channel and records it. Its waiting messages fail.
    async fn delete_alert_channel(
        &self,
        org: OrgId,
        channel: AlertChannelId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), AlertError>;

    /// Lists the channels of an organization by name.
    async fn alert_channels(&self, org: OrgId) -> Result<Vec<AlertChannelRow>, StoreError>;

    /// Stores a new rule, or replaces the content of one, and records it. Devices that the inventory knows when the
    /// first rule about devices is created are not new later.
    async fn save_alert_rule(
        &self,
        org: OrgId,
        existing: Option<AlertRuleId>,
        rule: NewAlertRule,
        actor: Actor,
        now: Timestamp,
    ) -> Result<AlertRuleRow, AlertError>;

    /// Deletes a rule and records it. Its waiting messages are sent.
    async fn delete_alert_rule(
        &self,
        org: OrgId,
        rule: AlertRuleId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), AlertError>;

    /// Lists the rules of an organization by name.
    async fn alert_rules(&self, org: OrgId) -> Result<Vec<AlertRuleRow>, StoreError>;

    /// Stores a test message to a channel with its audit record.
    async fn test_alert_channel(
        &self,
        org: OrgId,
        channel: AlertChannelId,
        message: AlertMessage,
        actor: Actor,
        now: Timestamp,
    ) -> Result<AlertDeliveryRow, AlertError>;

    /// Lists messages of an organization, newest first, optionally of one state and before one message.
    async fn alert_deliveries(
        &self,
        org: OrgId,
        state: Option<AlertDeliveryState>,
        before: Option<AlertDeliveryId>,
        limit: u32,
    ) -> Result<Vec<AlertDeliveryRow>, StoreError>;

    /// Sends a failed message again, for another 24 hours, and records it.
    async fn retry_alert(
        &self,
        org: OrgId,
        delivery: AlertDeliveryId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<AlertDeliveryRow, AlertError>;

    /// Lists ended scans that [`Self::alert_on_scan`] has not settled, oldest first.
    async fn scans_to_alert(&self, limit: u32) -> Result<Vec<ScanId>, StoreError>;

    /// Stores the messages about an ended scan, in one transaction with the state of its devices. Of several servers, one
    /// succeeds. Returns the number of messages.
    async fn alert_on_scan(&self, scan: ScanId, now: Timestamp) -> Result<u64, StoreError>;

    /// Stores the messages about nodes that became silent or came back, each once. `watched_since` is when the calling
    /// server started. Returns the number of messages.
    async fn alert_on_nodes(
        &self,
        watched_since: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError>;

    /// Leases due messages to the caller for [`ALERT_LEASE`], longest due first. No other server receives them meanwhile.
    async fn lease_alerts(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<LeasedAlert>, StoreError>;

    /// Stores the result of an attempt. An attempt whose lease passed to another server has no effect and returns false.
    async fn settle_alert(
        &self,
        delivery: AlertDeliveryId,
        attempt: u32,
        after: AfterAttempt,
        answer: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Deletes messages that ended before a time, at most `limit`. Returns their number.
    async fn delete_old_alerts(
        &self,
        ended_before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError>;
}
