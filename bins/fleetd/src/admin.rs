//! `fleetd admin`: operators, passwords and keys, directly in the database. It creates the first operator, for whom
//! no API exists yet.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use anyhow::{Context, Result, bail};
use fleet_core::{PASSWORD_MOST, Password, SecretKind, limits};
use fleet_server::{Environment, SystemEnvironment, hash_password};
use fleet_store::{
    Accounts, Actor, DatabaseUrl, MigrateMode, NewOperator, Operators, PasswordHash, SqlStore,
};
use zeroize::Zeroizing;

use crate::{
    cli::{AdminCommand, PasswordArgs},
    config, logging,
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
            report(&format!("created {role} {email} in {org}"), one_time)?;
            writeln!(
                io::stderr(),
                "sign in on the web page, or create a key for scripts: fleetd admin create-key --email {email}"
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
            org,
            password,
            database,
        } => {
            let store = open(database).await?;
            let orgs = store.orgs_of_email(&email).await?;
            if org.is_none() && orgs.len() > 1 {
                bail!(
                    "operators of several organizations have the e-mail `{email}`: name one with --org: {}",
                    orgs.join(", ")
                );
            }
            let account = store.account_in(org.as_deref(), &email, None).await?;
            let Some(account) = account else {
                bail!("no operator has the e-mail `{email}`: create one with create-operator");
            };
            let (password, one_time) = acquire(&account.email, &password, environment)?;
            let now = environment.now();
            store
                .set_password(None, account.operator, password, None, Actor::SYSTEM, now)
                .await?;
            let done = format!(
                "password of {} changed; its browser sessions have ended",
                account.email
            );
            report(&done, one_time)?;
        }
        AdminCommand::CreateKey {
            email,
            org,
            database,
        } => {
            let store = open(database).await?;
            let key = environment.secret(SecretKind::OperatorKey);
            store
                .create_operator_key_in(
                    org.as_deref(),
                    &email,
                    key.hash(),
                    Actor::SYSTEM,
                    environment.now(),
                )
                .await?;
            writeln!(io::stdout(), "{}", key.expose())
                .context("cannot print the key; create another one")?;
        }
    }
    Ok(())
}

/// Prints a note on standard error, and a one-time password on standard output.
fn report(done: &str, one_time: Option<Password>) -> Result<()> {
    writeln!(io::stderr(), "{done}")?;
    if let Some(one_time) = one_time {
        writeln!(
            io::stderr(),
            "the one-time password below is shown only once and expires in {} h; the operator chooses a new one at sign-in",
            limits::ONE_TIME_PASSWORD_LIFE.as_secs() / 3_600
        )?;
        writeln!(io::stdout(), "{}", one_time.expose())
            .context("cannot print the password; reset it with reset-password")?;
    }
    Ok(())
}

/// Reads a password from standard input or a prompt, or creates a one-time password and returns it for printing.
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
        .map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))?;
    let hash = PasswordHash {
        phc,
        one_time_until,
    };
    Ok((hash, one_time_until.map(|_| password)))
}

fn line() -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    // Reads more than the maximum, because a longer password must be refused and not truncated.
    let most = u64::try_from(PASSWORD_MOST).unwrap_or(u64::MAX) + 2;
    io::stdin()
        .lock()
        .take(most)
        .read_line(&mut line)
        .context("cannot read standard input")?;
    let text = line.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        bail!("no password on standard input: pass it as one line");
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Prompts twice without echo. Returns `None` if the first input is empty.
fn prompt(email: &str) -> Result<Option<Zeroizing<String>>> {
    let ask = |text: &str| -> Result<Zeroizing<String>> {
        let typed = rpassword::prompt_password(text).context("cannot read from the terminal")?;
        Ok(Zeroizing::new(typed))
    };
    let first = ask(&format!(
        "Password for {email} (leave empty for a one-time password): "
    ))?;
    if first.is_empty() {
        return Ok(None);
    }
    Password::chosen(first.clone(), email)?;
    if ask("Repeat password: ")? != first {
        bail!("the passwords do not match: nothing was changed");
    }
    Ok(Some(first))
}

/// Opens an existing database. A wrong name or folder must not create an empty one, in which the operator would then
/// exist and no server would find it.
async fn open(args: crate::cli::DatabaseArgs) -> Result<SqlStore> {
    let database = config::database(args)?;
    logging::start(&database.log, Some("warn"))?;
    let url = DatabaseUrl::parse(&database.url)?;
    writeln!(io::stderr(), "using the {url}")?;
    Ok(SqlStore::open(&database.url, MigrateMode::Check).await?)
}
