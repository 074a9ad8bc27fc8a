//! `fleetd admin`: the first operator, passwords and keys, on the database itself.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use anyhow::{Context, Result, bail};
use fleet_core::{PASSWORD_MOST, Password, SecretKind, limits};
use fleet_server::{Environment, SystemEnvironment, hash_password};
use fleet_store::{Accounts, Actor, NewOperator, Operators, PasswordHash, SqlStore};
use zeroize::Zeroizing;

use crate::{
    cli::{AdminCommand, PasswordArgs},
    config, logging, serve,
};

mod audit;

/// Runs one administrative command.
pub(crate) async fn run(command: AdminCommand) -> Result<()> {
    let environment: &dyn Environment = &SystemEnvironment;
    match command {
        AdminCommand::CreateOperator {
            org,
            email,
            role,
            password,
            database,
        } => {
            let store = open(database).await?;
            let (password, one_time) = acquire(&email, &password, environment)?;
            let new = NewOperator {
                org: org.clone(),
                email: email.clone(),
                role,
                now: environment.now(),
            };
            store
                .create_operator_with(new, Some(password), Actor::SYSTEM)
                .await?;
            tell(&format!("created {role} {email} in {org}"), one_time)?;
            writeln!(
                io::stderr(),
                "sign in on the web page; a key for scripts: fleetd admin create-key --email {email}"
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
        AdminCommand::ResetPassword {
            email,
            password,
            database,
        } => {
            let store = open(database).await?;
            let Some(account) = store.account(&email, None).await? else {
                bail!(
                    "no operator has the e-mail `{email}`: create one with create-operator first"
                );
            };
            let (password, one_time) = acquire(&account.email, &password, environment)?;
            let now = environment.now();
            store
                .set_password(None, account.operator, password, None, Actor::SYSTEM, now)
                .await?;
            let said = format!(
                "the password of {} is another one now; its browser sessions have ended",
                account.email
            );
            tell(&said, one_time)?;
        }
        AdminCommand::CreateKey { email, database } => {
            let store = open(database).await?;
            let key = environment.secret(SecretKind::OperatorKey);
            store
                .create_operator_key(&email, key.hash(), Actor::SYSTEM, environment.now())
                .await?;
            writeln!(io::stdout(), "{}", key.expose())
                .context("cannot print the key; make another one")?;
        }
    }
    Ok(())
}

/// Says what was done, and shows a one-time password, alone, on standard output.
fn tell(done: &str, one_time: Option<Password>) -> Result<()> {
    writeln!(io::stderr(), "{done}")?;
    if let Some(one_time) = one_time {
        writeln!(
            io::stderr(),
            "the one-time password below is shown once and good for {} h; the sign-in asks for one of the operator's choice",
            limits::ONE_TIME_PASSWORD_LIFE.as_secs() / 3_600
        )?;
        writeln!(io::stdout(), "{}", one_time.expose())
            .context("cannot print the password; reset it with reset-password")?;
    }
    Ok(())
}

/// The password for an account: a line of standard input, what a person types, or a one-time password, which is
/// answered to be shown.
fn acquire(
    email: &str,
    args: &PasswordArgs,
    environment: &(dyn Environment + 'static),
) -> Result<(PasswordHash, Option<Password>)> {
    let typed = if args.password_stdin {
        Some(line()?)
    } else if io::stdin().is_terminal() {
        prompt(email)?
    } else {
        None
    };
    let (password, one_time_until) = match typed {
        Some(text) => (Password::chosen(text, email)?, None),
        None => (
            Password::one_time(&environment.random()),
            Some(environment.now().plus(limits::ONE_TIME_PASSWORD_LIFE)),
        ),
    };
    let phc = hash_password(&password, &environment.random())
        .map_err(|error| anyhow::anyhow!("the password cannot be hashed: {error}"))?;
    let hash = PasswordHash {
        phc,
        one_time_until,
    };
    Ok((hash, one_time_until.map(|_| password)))
}

fn line() -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    // One byte more than fits, so that what is too long is refused rather than cut.
    let most = u64::try_from(PASSWORD_MOST).unwrap_or(u64::MAX) + 2;
    io::stdin()
        .lock()
        .take(most)
        .read_line(&mut line)
        .context("cannot read standard input")?;
    let text = line.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        bail!("no password on standard input: give it as one line");
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Asks twice without echo; none when nothing is entered.
fn prompt(email: &str) -> Result<Option<Zeroizing<String>>> {
    let ask = |text: &str| -> Result<Zeroizing<String>> {
        let typed = rpassword::prompt_password(text).context("cannot read from the terminal")?;
        Ok(Zeroizing::new(typed))
    };
    let first = ask(&format!(
        "Password for {email} (Enter makes a one-time password): "
    ))?;
    if first.is_empty() {
        return Ok(None);
    }
    Password::chosen(first.clone(), email)?;
    if ask("The same again: ")? != first {
        bail!("the two are not the same: nothing was done");
    }
    Ok(Some(first))
}

async fn open(args: crate::cli::DatabaseArgs) -> Result<SqlStore> {
    let database = config::database(args)?;
    logging::start(&database.log, Some("warn"))?;
    Ok(serve::open(&database, false).await?)
}
