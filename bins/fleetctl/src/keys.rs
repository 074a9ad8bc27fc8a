//! `fleetctl keys`: API keys for scripts.

use std::io::{self, Write};

use fleet_wire::fleet::{
    CreateKeyRequest, ListKeysRequest, OperatorKey, RevokeKeyRequest, RotateKeyRequest,
};

use crate::{
    cli::{Format, Keys},
    failure::Failure,
    output::{self, Rows},
    server::Server,
    times,
};

pub(crate) async fn run(server: &Server, format: Format, command: Keys) -> Result<u8, Failure> {
    match command {
        Keys::List { all } => {
            let request = ListKeysRequest { everybody: all };
            let keys = server.keys.list_keys(&request, server.call()?).await?.keys;
            output::rows(format, &keys)?;
        }
        Keys::Create {
            name,
            expires_in,
            operator,
        } => {
            let request = CreateKeyRequest {
                name,
                expires_in: expires_in.map(times::seconds),
                operator_id: operator,
            };
            let made = server.keys.create_key(&request, server.call()?).await?;
            let told = match &made.expires_at {
                Some(_) => format!(
                    "key {}, shown once, ends {}",
                    made.key_id,
                    times::moment(made.expires_at.as_ref())
                ),
                None => format!("key {}, shown once", made.key_id),
            };
            shown(format, &made.key, made.key_id, &told)?;
        }
        Keys::Revoke { key } => {
            let request = RevokeKeyRequest { key_id: key };
            server.keys.revoke_key(&request, server.call()?).await?;
        }
        Keys::Rotate { key, grace } => {
            let request = RotateKeyRequest {
                key_id: key,
                grace: Some(times::seconds(grace)),
            };
            let made = server.keys.rotate_key(&request, server.call()?).await?;
            let told = format!(
                "key {}, shown once; key {key} ends {}",
                made.key_id,
                times::moment(made.old_key_ends_at.as_ref())
            );
            shown(format, &made.key, made.key_id, &told)?;
        }
    }
    Ok(0)
}

/// The key alone on standard output, what it is on standard error; or both as JSON.
fn shown(format: Format, key: &str, id: i64, told: &str) -> io::Result<()> {
    if format == Format::Table {
        writeln!(io::stdout(), "{key}")?;
        writeln!(io::stderr(), "{told}")
    } else {
        let line = serde_json::json!({ "key": key, "key_id": id });
        writeln!(io::stdout(), "{line}")
    }
}

impl Rows for OperatorKey {
    const HEAD: &'static [&'static str] = &[
        "Key",
        "Name",
        "Operator",
        "Made",
        "Last used",
        "Ends",
        "In use now",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.key_id.to_string(),
            self.name.clone(),
            self.email.clone(),
            times::moment(self.created_at.as_ref()),
            times::moment(self.last_used_at.as_ref()),
            times::moment(self.expires_at.as_ref()),
            if self.current { "yes" } else { "" }.to_owned(),
        ]
    }
}
