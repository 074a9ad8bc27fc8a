//! The rows of every table after the newest migration. They are plain values: the schema holds the foreign
//! keys, and each query writes its own joins. They never leave this crate.

#![expect(
    unreachable_pub,
    reason = "the entity derives need `pub` on what stays inside this crate"
)]

/// Declares the entity of a table.
macro_rules! entity {
    ($(#[$doc:meta])* $name:ident $table:tt { $($fields:tt)* }) => {
        $(#[$doc])*
        pub(crate) mod $name {
            use crate::sql::entity::columns::*;

            #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
            #[sea_orm(table_name = $table)]
            pub struct Model {
                $($fields)*
            }

            /// Empty, because each query writes its own joins.
            #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
            pub enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}
        }
    };
}

mod alerts;
mod chain;
mod details;
mod devices;
mod direct;
mod nodes;
mod operators;
mod overview;
mod pairings;
mod scans;
mod schedules;

pub(crate) use alerts::{
    alert_channel, alert_delivery, alert_device, alert_org, alert_rule, alert_rule_channel,
    alert_scan, alert_silence,
};
pub(crate) use chain::{audit_head, audit_link};
pub(crate) use details::{device_event, device_label, device_note};
pub(crate) use devices::{
    binding, device, device_alias, device_sighting, identity_change, node_endpoint, refused_device,
};
pub(crate) use direct::{direct_lease, direct_run};
pub(crate) use nodes::{
    invitation, key_fetch, node, node_challenge, node_key, node_session, node_stream, replica,
    site, site_exclude,
};
pub(crate) use operators::{
    audit, browser_session, operator, operator_key, operator_link, operator_password,
    operator_source, org, used_attempt,
};
pub(crate) use overview::{inventory_day, site_block};
pub(crate) use pairings::{
    device_credential, device_pairing, forwarded_pairing, pairing, pairing_target,
};
pub(crate) use scans::{
    chunk, command, removed_scan, report, report_refusal, report_row, scan, scan_event, scan_host,
    scan_request, scan_share, sweep,
};
pub(crate) use schedules::{schedule, schedule_run};

/// The types that the column declarations use.
mod columns {
    pub(super) use std::net::IpAddr;

    pub(super) use fleet_core::{
        AlertDeliveryId, ChunkState, CommandId, CommandState, DeviceIdentifier, Mac, NameSource,
        NamedBy, PairOutcome, PairingId, PairingStatus, Priority, RejectReason, Role, ScanId,
        ScanState, ScheduleId,
        enrollment::{InvitationState, NodeState},
    };
    pub(super) use fleet_discovery::{NodeChoice, Scope};
    pub(super) use fleet_inventory::{AlertEvent, EventKind};
    pub(super) use fleet_pairing::IdentityReason;
    pub(super) use sea_orm::entity::prelude::*;

    pub(super) use crate::{
        AlertDeliveryState,
        sql::value::{AsText, Bytes16, Bytes32, Hash, Micros},
    };
}
