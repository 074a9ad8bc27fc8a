//! `fleetctl operators`, `sessions` and `password`: accounts and their browser sessions.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use fleet_core::{PASSWORD_MOST, Password};
use fleet_wire::fleet::{
    BrowserSession, ChangePasswordRequest, CreateOperatorRequest, EndSessionRequest,
    ListOperatorsRequest, ListSessionsRequest, Operator, RemoveOperatorRequest,
    ResetOperatorPasswordRequest, SetOperatorRoleRequest, UnlinkOperatorRequest, WhoAmIRequest,
};
use zeroize::Zeroizing;

use crate::{
    ask,
    cli::{Format, Operators, Sessions},
    failure::Failure,
    output::{self, Rows},
    server::{Server, pages},
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
            let listed = pages(async |cursor| {
                let request = ListOperatorsRequest { limit: 0, cursor };
                let page = operators.list_operators(&request, server.call()?).await?;
                Ok((page.operators, page.next_cursor))
            })
            .await?;
            output::rows(format, &listed)?;
        }
        Operators::Create { email, role } => {
            let request = CreateOperatorRequest {
                email,
                role: role.to_string(),
            };
            let created = operators.create_operator(&request, server.call()?).await?;
            if created.one_time_password.is_empty() {
                writeln!(
                    io::stderr(),
                    "created operator {}, who signs in through the sign-in provider: the server accepts no passwords",
                    created.operator_id
                )?;
                return Ok(0);
            }
            let note = note(created.operator_id, created.expires_at.as_ref());
            output::secret(format, &created, &created.one_time_password, &note)?;
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
                    "remove operator {operator}? Keys and sessions become invalid at once. Audit records are kept."
                );
                ask::agreed(&question, "use --yes")?;
            }
            let request = RemoveOperatorRequest {
                operator_id: operator,
            };
            operators.remove_operator(&request, server.call()?).await?;
        }
        Operators::Unlink { operator } => {
            let request = UnlinkOperatorRequest {
                operator_id: operator,
            };
            operators.unlink_operator(&request, server.call()?).await?;
        }
        Operators::ResetPassword { operator } => {
            let request = ResetOperatorPasswordRequest {
                operator_id: operator,
            };
            let reset = operators
                .reset_operator_password(&request, server.call()?)
                .await?;
            let note = note(operator, reset.expires_at.as_ref());
            output::secret(format, &reset, &reset.one_time_password, &note)?;
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
        Sessions::List { all } => {
            let request = ListSessionsRequest { all_operators: all };
            let listed = server
                .account
                .list_sessions(&request, server.call()?)
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

/// Changes the password of the caller. Prompts on a terminal; otherwise reads the current and the new password as
/// two lines of standard input.
pub(crate) async fn password(server: &Server) -> Result<u8, Failure> {
    let me = server.account.who_am_i(&WhoAmIRequest {}, server.call()?);
    let email = me.await?.email;
    let current = secret("Current password (empty if you do not have one): ")?;
    let new = secret("New password: ")?;
    let new = Password::chosen(new, &email).map_err(|weak| Failure::Usage(weak.to_string()))?;
    if io::stdin().is_terminal() && secret("Repeat new password: ")?.as_str() != new.expose() {
        return Err(Failure::Declined(
            "the new passwords do not match: nothing was changed".to_owned(),
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
        "password changed; your other browser sessions have ended"
    )?;
    Ok(0)
}

fn secret(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    if io::stdin().is_terminal() {
        return Ok(Zeroizing::new(rpassword::prompt_password(prompt)?));
    }
    let mut line = Zeroizing::new(String::new());
    let most = u64::try_from(PASSWORD_MOST).unwrap_or(u64::MAX) + 2;
    if io::stdin().lock().take(most).read_line(&mut line)? == 0 {
        return Err(Failure::Usage(
            "standard input ended too early: write the current password and the new one to it, one per line"
                .to_owned(),
        ));
    }
    Ok(Zeroizing::new(
        line.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

/// Describes a one-time password.
fn note(operator: i64, until: Option<&fleet_wire::Timestamp>) -> String {
    format!(
        "one-time password of operator {operator}, shown only once, expires at {}; the operator chooses a new password at sign-in",
        times::timestamp(until)
    )
}

impl Rows for Operator {
    const HEAD: &'static [&'static str] = &[
        "Operator", "E-mail", "Role", "Password", "Provider", "Keys", "Created",
    ];
    const OPTIONAL: &'static [&'static str] = &["Keys", "Created", "Provider", "Password"];
    const WHOLE: &'static [&'static str] = &["Operator", "E-mail"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.operator_id.to_string(),
            self.email.clone(),
            self.role.clone(),
            if self.has_password { "yes" } else { "no" }.to_owned(),
            self.sign_in_issuer.clone(),
            self.keys.to_string(),
            times::timestamp(self.created_at.as_ref()),
        ]
    }
}

impl Rows for BrowserSession {
    const HEAD: &'static [&'static str] = &[
        "Session",
        "Operator",
        "Created",
        "Expires",
        "From",
        "Credential",
        "Browser",
    ];
    const OPTIONAL: &'static [&'static str] = &["Expires", "Credential"];
    const WHOLE: &'static [&'static str] = &["Session"];

    fn cells(&self) -> Vec<String> {
        let by = if self.key_id != 0 {
            format!("key {}", self.key_id)
        } else if self.sign_in_issuer.is_empty() {
            "password".to_owned()
        } else {
            self.sign_in_issuer.clone()
        };
        vec![
            self.session_id.to_string(),
            self.email.clone(),
            times::timestamp(self.created_at.as_ref()),
            times::timestamp(self.expires_at.as_ref()),
            self.from_address.clone(),
            by,
            self.user_agent.clone(),
        ]
    }
}
