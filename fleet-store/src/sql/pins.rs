//! The addresses that a node pinned the names of a command to: part of its scope, stored before the
//! first report, which waits for them. Said again, as after a reconnect, they change nothing.

use std::net::IpAddr;

use fleet_core::CommandState;
use fleet_discovery::Pinned;
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, Set};

use super::{
    entity::command,
    locked::LockedScan,
    nodes,
    streams::command_of,
    transaction::{Failure, refuse},
    value::AsText,
};
use crate::{Pins, PinsError, PinsTaken};


/// What the operator reads of a name that has addresses.
fn pinned(name: &str, addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("`{name}` is pinned to {}", addresses.join(", "))
}
