//! The rows of every table, as the newest migration leaves them. Plain values: relations are foreign
//! keys in the migrations, joins are written where they are asked. They never leave this crate.

#![expect(
    unreachable_pub,
    reason = "the entity derives need `pub` on what stays inside this crate"
)]

mod chain;
mod devices;
mod direct;
mod nodes;
mod operators;
mod pairings;
mod scans;

pub(crate) use chain::{audit_head, audit_link};
pub(crate) use devices::{
    binding, device, device_alias, identity_change, node_endpoint, refused_device,
};
pub(crate) use direct::direct_lease;
pub(crate) use nodes::{invitation, node, node_challenge, node_key, node_session, node_stream};
pub(crate) use operators::{
    audit, browser_session, operator, operator_key, operator_password, operator_source, org,
};
pub(crate) use pairings::{
    device_credential, device_pairing, pairing, pairing_command, pairing_target,
};
pub(crate) use scans::{
    chunk, command, report, report_refusal, report_row, scan, scan_event, scan_request,
};
