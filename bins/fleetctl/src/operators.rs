//! `fleetctl operators`, `sessions` and `password`: who may sign in, and who has.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use fleet_core::{PASSWORD_MOST, Password};
use fleet_wire::fleet::{
    BrowserSession, ChangePasswordRequest, CreateOperatorRequest, EndSessionRequest,
    ListOperatorsRequest, ListSessionsRequest, Operator, RemoveOperatorRequest,
    ResetOperatorPasswordRequest, SetOperatorRoleRequest, WhoAmIRequest,
};
use zeroize::Zeroizing;

use crate::{
    ask,
    cli::{Format, Operators, Sessions},
    failure::Failure,
    output::{self, Rows},
    server::Server,
    times,
};

pub(crate) async fn run(
    server: &Server,
    format: Format,
    command: Operators,
) -> Result<u8, Failure> {
    let operators = &server.operators;
    match command {
        Operators::List => {
            let listed = operators
                .list_operators(&ListOperatorsRequest {}, server.call()?)
                .await?;
            output::rows(format, &listed.operators)?;
        }
        Operators::Create { email, role } => {
            let request = CreateOperatorRequest {
                email,
                role: role.to_string(),
            };
            let made = operators.create_operator(&request, server.call()?).await?;
            let until = made.expires_at.as_ref();
            one_time(format, made.operator_id, &made.one_time_password, until)?;
        }
        Operators::SetRole { operator, role } => {
            let request = SetOperatorRoleRequest {
                operator_id: operator,
                role: role.to_string(),
            };
            operators
                .set_operator_role(&request, server.call()?)
                .await?;
        }
        Operators::Remove { operator, yes } => {
            if !yes {
                let question = format!(
                    "remove operator {operator}? Keys and sessions are void at once; what was done stays on record."
                );
                ask::agreed(&question, "give --yes")?;
            }
            let request = RemoveOperatorRequest {
                operator_id: operator,
            };
            operators.remove_operator(&request, server.call()?).await?;
        }
        Operators::ResetPassword { operator } => {
            let request = ResetOperatorPasswordRequest {
                operator_id: operator,
            };
            let reset = operators
                .reset_operator_password(&request, server.call()?)
                .await?;
            let until = reset.expires_at.as_ref();
            one_time(format, operator, &reset.one_time_password, until)?;
        }
    }
    Ok(0)
}

pub(crate) async fn sessions(
    server: &Server,
    format: Format,
    command: Sessions,
) -> Result<u8, Failure> {
    match command {
        Sessions::List => {
            let listed = server
                .account
                .list_sessions(&ListSessionsRequest {}, server.call()?)
                .await?;
            output::rows(format, &listed.sessions)?;
        }
        Sessions::End { session } => {
            let request = EndSessionRequest {
                session_id: session,
            };
            server.account.end_session(&request, server.call()?).await?;
        }
    }
    Ok(0)
}

/// Changes the caller's own password: asked for without echo, or the present and the new one as two lines of
/// standard input.
pub(crate) async fn password(server: &Server) -> Result<u8, Failure> {
    let me = server.account.who_am_i(&WhoAmIRequest {}, server.call()?);
    let email = me.await?.email;
    let current = secret("Present password (empty if there is none yet): ")?;
    let new = secret("New password: ")?;
    let new = Password::chosen(new, &email).map_err(|weak| Failure::Usage(weak.to_string()))?;
    if io::stdin().is_terminal() && secret("The same again: ")?.as_str() != new.expose() {
        return Err(Failure::Declined(
            "the two are not the same: nothing was done".to_owned(),
        ));
    }
    let request = ChangePasswordRequest {
        current_password: current.as_str().to_owned(),
        new_password: new.expose().to_owned(),
    };
    server
        .account
        .change_password(&request, server.call()?)
        .await?;
    writeln!(
        io::stderr(),
        "changed; your other browser sessions have ended"
    )?;
    Ok(0)
}

fn secret(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    if io::stdin().is_terminal() {
        return Ok(Zeroizing::new(rpassword::prompt_password(prompt)?));
    }
    let mut line = Zeroizing::new(String::new());
    let most = u64::try_from(PASSWORD_MOST).unwrap_or(u64::MAX) + 2;
    io::stdin().lock().take(most).read_line(&mut line)?;
    Ok(Zeroizing::new(
        line.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

/// The password alone on standard output, what it is on standard error; or both as JSON.
fn one_time(
    format: Format,
    operator: i64,
    password: &str,
    until: Option<&fleet_wire::Timestamp>,
) -> io::Result<()> {
    let until = times::moment(until);
    if format == Format::Table {
        writeln!(io::stdout(), "{password}")?;
        writeln!(
            io::stderr(),
            "one-time password of operator {operator}, shown once, good until {until}; the sign-in asks for one of their choice"
        )
    } else {
        let line = serde_json::json!({ "operator_id": operator, "one_time_password": password, "expires_at": until });
        writeln!(io::stdout(), "{line}")
    }
}

impl Rows for Operator {
    const HEAD: &'static [&'static str] =
        &["Operator", "E-mail", "Role", "Password", "Keys", "Since"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.operator_id.to_string(),
            self.email.clone(),
            self.role.clone(),
            if self.has_password { "yes" } else { "no" }.to_owned(),
            self.keys.to_string(),
            times::moment(self.created_at.as_ref()),
        ]
    }
}

impl Rows for BrowserSession {
    const HEAD: &'static [&'static str] = &["Session", "Opened", "Ends", "From", "By", "Browser"];

    fn cells(&self) -> Vec<String> {
        let by = if self.key_id == 0 {
            "password".to_owned()
        } else {
            format!("key {}", self.key_id)
        };
        vec![
            self.session_id.to_string(),
            times::moment(self.created_at.as_ref()),
            times::moment(self.expires_at.as_ref()),
            self.from_address.clone(),
            by,
            self.agent.clone(),
        ]
    }
}
