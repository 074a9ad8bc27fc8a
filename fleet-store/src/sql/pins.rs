//! The addresses that a node pinned the names of a command to: part of its scope, stored before the
//! first report.

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
    if command.rows > 0 {
        return refuse(PinsError::TooLate(pins.command));
    }
    let mut scope = command.scope.0.clone();
    let mut taken = PinsTaken {
        scan: command.scan_id.0,
        pinned: 0,
        refused: Vec::new(),
    };
    let mut warnings = Vec::new();
    for (name, answer) in &pins.names {
        let answer = answer.as_deref().map_err(String::as_str);
        match scope.pin(name, answer, pins.addresses) {
            Ok(Pinned::Pinned) => taken.pinned += 1,
            Ok(Pinned::Skipped) => warnings.push(name.clone()),
            Ok(Pinned::Unchanged) => {}
            Err(error) => taken.refused.push(error.to_string()),
        }
    }
    let warnings: Vec<String> = scope
        .names_without_address()
        .filter_map(|(name, why)| Some((name.to_string(), why?.to_owned())))
        .filter(|(name, _)| {
            warnings
                .iter()
                .any(|warned| warned.eq_ignore_ascii_case(name))
        })
        .map(|(name, why)| format!("`{name}` is left out: {why}"))
        .collect();
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
        scan.warn(warnings, pins.now).await?;
        scan.save().await?;
    }
    Ok(taken)
}
