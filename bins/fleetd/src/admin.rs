//! `fleetd admin`: the first operator and keys, on the database itself.

use std::io::Write;

use anyhow::{Context, Result};
use fleet_core::SecretKind;
use fleet_server::{Environment, SystemEnvironment};
use fleet_store::{Actor, NewOperator, Operators, SqlStore};

use crate::{cli::AdminCommand, config, logging, serve};

mod audit;

/// Runs one administrative command.
pub(crate) async fn run(command: AdminCommand) -> Result<()> {
    let environment: &dyn Environment = &SystemEnvironment;
    match command {
        AdminCommand::CreateOperator {
            org,
            email,
            role,
            database,
        } => {
            let store = open(database).await?;
            store
                .create_operator(
                    NewOperator {
                        org: org.clone(),
                        email: email.clone(),
                        role,
                        now: environment.now(),
                    },
                    Actor::SYSTEM,
                )
                .await?;
            writeln!(
                std::io::stderr(),
                "created {role} {email} in {org}; now make a key: fleetd admin create-key --email {email}"
            )?;
        }
        AdminCommand::AuditHead { database } => {
            let store = open(database).await?;
            audit::head(&store).await?;
        }
        AdminCommand::AuditVerify { expect, database } => {
            let store = open(database).await?;
            audit::verify(&store, &expect).await?;
        }
        AdminCommand::CreateKey { email, database } => {
            let store = open(database).await?;
            let key = environment.secret(SecretKind::OperatorKey);
            store
                .create_operator_key(&email, key.hash(), Actor::SYSTEM, environment.now())
                .await?;
            writeln!(std::io::stdout(), "{}", key.expose())
                .context("cannot print the key; make another one")?;
        }
    }
    Ok(())
}

async fn open(args: crate::cli::DatabaseArgs) -> Result<SqlStore> {
    let database = config::database(args)?;
    logging::start(&database.log, Some("warn"))?;
    Ok(serve::open(&database, false).await?)
}
