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

pub(crate) async fn record(
    tx: &DatabaseTransaction,
    pins: &Pins,
) -> Result<PinsTaken, Failure<PinsError>> {
    nodes::lock(tx, pins.node).await?;
    let command = command_of(tx, pins.node, pins.command).await?;
    let Some(command) = command.filter(|command| command.state.0 == CommandState::Issued) else {
        return refuse(PinsError::NotInFlight(pins.command));
    };
    let mut scope = command.scope.0.clone();
    let mut taken = PinsTaken {
        scan: command.scan_id.0,
        pinned: 0,
        refused: Vec::new(),
    };
    let mut told = Vec::new();
    let mut left_out = Vec::new();
    for (name, answer) in &pins.names {
        let answer = answer.as_deref().map_err(String::as_str);
        match scope.pin(name, answer, pins.addresses) {
            Ok(Pinned::Pinned) => {
                taken.pinned += 1;
                told.push(pinned(name, scope.pinned_to(name)));
            }
            Ok(Pinned::Skipped) => left_out.push(name.clone()),
            Ok(Pinned::Unchanged) => {}
            Err(error) => taken.refused.push(error.to_string()),
        }
    }
    told.extend(
        scope
            .names_without_address()
            .filter_map(|(name, why)| Some((name.as_str(), why?)))
            .filter(|(name, _)| left_out.iter().any(|said| said.eq_ignore_ascii_case(name)))
            .map(|(name, why)| format!("`{name}` is left out: {why}")),
    );
    if told.is_empty() {
        return Ok(taken);
    }
    let pinned = command::ActiveModel {
        scope: Set(AsText(scope)),
        ..Default::default()
    };
    command::Entity::update_many()
        .set(pinned)
        .filter(command::Column::Id.eq(command.id))
        .exec(tx)
        .await?;
    if let Some(mut scan) = LockedScan::lock(tx, command.scan_id.0).await? {
        scan.warn(told, pins.now).await?;
        scan.save().await?;
    }
    Ok(taken)
}

/// What the operator reads of a name that has addresses.
fn pinned(name: &str, addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("`{name}` is pinned to {}", addresses.join(", "))
}
