//! `fleetctl keys`: API keys of operators.

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
            let request = ListKeysRequest { all_operators: all };
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
            let created = server.keys.create_key(&request, server.call()?).await?;
            let mut note = format!("created key {}, shown only once", created.key_id);
            if created.expires_at.is_some() {
                note = format!(
                    "{note}, expires at {}",
                    times::timestamp(created.expires_at.as_ref())
                );
            }
            output::secret(format, &created, &created.key, &note)?;
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
            let created = server.keys.rotate_key(&request, server.call()?).await?;
            let note = format!(
                "created key {}, shown only once; key {key} expires at {}",
                created.key_id,
                times::timestamp(created.old_key_expires_at.as_ref())
            );
            output::secret(format, &created, &created.key, &note)?;
        }
    }
    Ok(0)
}

impl Rows for OperatorKey {
    const HEAD: &'static [&'static str] = &[
        "Key",
        "Name",
        "Operator",
        "Created",
        "Last used",
        "Expires",
        "Current",
        "Created by",
    ];
    const OPTIONAL: &'static [&'static str] =
        &["Created by", "Created", "Current", "Last used", "Operator"];
    const WHOLE: &'static [&'static str] = &["Key"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.key_id.to_string(),
            self.name.clone(),
            self.email.clone(),
            times::timestamp(self.created_at.as_ref()),
            times::timestamp(self.last_used_at.as_ref()),
            times::timestamp(self.expires_at.as_ref()),
            if self.current { "yes" } else { "" }.to_owned(),
            match self.made_by_key_id {
                0 => String::new(),
                maker => format!("key {maker}"),
            },
        ]
    }
}
