//! The connection to the server: the operator key, the channel and the API clients.

use std::{collections::BTreeSet, io::Read};

use fleet_core::{Secret, SecretKind};
use fleet_wire::{
    RpcError,
    admin::FleetNodeAdminClient,
    client::{CallOptions, Channel, ChannelConfig, Roots},
    fleet::{
        AccountClient, AlertClient, AuditClient, DeviceClient, DeviceDetailClient,
        DevicePairingClient, DeviceSearchClient, DirectClient, KeyClient, NodeClient,
        NodeConfirmationClient, OperatorClient, OverviewClient, ResultClient, ScanClient,
        ScheduleClient, SiteClient,
    },
    pairing::PairingClient,
};

use crate::{cli::Cli, failure::Failure};

/// Reads all pages of a list. `read` returns the rows of the page after a cursor, and the cursor of the next page.
pub(crate) async fn pages<T>(
    read: impl AsyncFn(i64) -> Result<(Vec<T>, i64), Failure>,
) -> Result<Vec<T>, Failure> {
    let (mut rows, mut cursor) = (Vec::new(), 0);
    let mut seen = BTreeSet::from([0]);
    loop {
        let (page, next) = read(cursor).await?;
        rows.extend(page);
        // A faulty server that repeats a cursor must not cause an endless loop.
        if !seen.insert(next) {
            return Ok(rows);
        }
        cursor = next;
    }
}

/// The API clients of a server, with the operator key for it.
#[derive(Debug)]
pub(crate) struct Server {
    key: Secret,
    pub(crate) nodes: NodeClient,
    pub(crate) confirmation: NodeConfirmationClient,
    pub(crate) overview: OverviewClient,
    pub(crate) sites: SiteClient,
    pub(crate) admin: FleetNodeAdminClient,
    pub(crate) scans: ScanClient,
    pub(crate) results: ResultClient,
    pub(crate) schedules: ScheduleClient,
    pub(crate) alerts: AlertClient,
    pub(crate) search: DeviceSearchClient,
    pub(crate) devices: DeviceClient,
    pub(crate) details: DeviceDetailClient,
    pub(crate) direct: DirectClient,
    pub(crate) own_network: PairingClient,
    pub(crate) pairing: DevicePairingClient,
    pub(crate) account: AccountClient,
    pub(crate) audit: AuditClient,
    pub(crate) keys: KeyClient,
    pub(crate) operators: OperatorClient,
}

impl Server {
    /// Reads the key and prepares the channel. The first call connects.
    pub(crate) fn new(cli: &Cli) -> Result<Self, Failure> {
        refuse_clear_text(cli)?;
        let key = key(cli)?;
        let roots = cli.ca.clone().map_or(Roots::System, Roots::File);
        let channel = Channel::new(
            &cli.server,
            &ChannelConfig {
                roots,
                ..ChannelConfig::default()
            },
        )?;
        Ok(Self {
            key,
            nodes: NodeClient::new(channel.clone()),
            confirmation: NodeConfirmationClient::new(channel.clone()),
            overview: OverviewClient::new(channel.clone()),
            sites: SiteClient::new(channel.clone()),
            admin: FleetNodeAdminClient::new(channel.clone()),
            scans: ScanClient::new(channel.clone()),
            results: ResultClient::new(channel.clone()),
            schedules: ScheduleClient::new(channel.clone()),
            alerts: AlertClient::new(channel.clone()),
            search: DeviceSearchClient::new(channel.clone()),
            devices: DeviceClient::new(channel.clone()),
            details: DeviceDetailClient::new(channel.clone()),
            direct: DirectClient::new(channel.clone()),
            own_network: PairingClient::new(channel.clone()),
            audit: AuditClient::new(channel.clone()),
            pairing: DevicePairingClient::new(channel.clone()),
            account: AccountClient::new(channel.clone()),
            keys: KeyClient::new(channel.clone()),
            operators: OperatorClient::new(channel),
        })
    }

    /// Returns call options that carry the operator key.
    pub(crate) fn call(&self) -> Result<CallOptions, RpcError> {
        CallOptions::new().bearer(self.key.expose()).map_err(|_| {
            RpcError::invalid_argument("the operator key contains an invalid character")
        })
    }
}

/// Refuses plain HTTP to another machine, because others on the path could read the key.
fn refuse_clear_text(cli: &Cli) -> Result<(), Failure> {
    let Some(rest) = cli.server.strip_prefix("http://") else {
        return Ok(());
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority
        .strip_prefix('[')
        .and_then(|v6| v6.split(']').next())
        .unwrap_or_else(|| authority.split(':').next().unwrap_or_default());
    let local =
        host == "localhost" || fleet_core::parse_literal(host).is_some_and(|ip| ip.is_loopback());
    if local || cli.allow_insecure_transport {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--server is {}, which would send the key in clear text: use https or --allow-insecure-transport",
        cli.server
    )))
}

fn key(cli: &Cli) -> Result<Secret, Failure> {
    let text = match &cli.api_key {
        None => std::env::var("FLEET_API_KEY").map_err(|_| Failure::Usage("no operator key: set FLEET_API_KEY or use --api-key FILE; `fleetd admin create-key` creates a key".to_owned()))?,
        Some(path) if path.as_os_str() == "-" => {
            let mut text = String::new();
            std::io::stdin().take(1_024).read_to_string(&mut text).map_err(|error| Failure::Usage(format!("cannot read the operator key from standard input: {error}")))?;
            text
        }
        Some(path) if path.to_string_lossy().starts_with(SecretKind::OperatorKey.prefix()) => {
            return Err(Failure::Usage("--api-key takes a file, because other users of this machine can read arguments: use a file or FLEET_API_KEY".to_owned()));
        }
        Some(path) => std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("cannot read the key file {}: {error}", path.display())))?,
    };
    Secret::parse(SecretKind::OperatorKey, text.trim())
        .map_err(|error| Failure::Usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Reads a list whose pages lead to these cursors. Returns the cursors that were asked for.
    async fn asked(next: &[(i64, i64)]) -> Vec<i64> {
        let asked = RefCell::new(Vec::new());
        let read = async |cursor: i64| {
            asked.borrow_mut().push(cursor);
            let next = next.iter().find(|(from, _)| *from == cursor);
            Ok::<_, Failure>((vec![cursor], next.map_or(0, |(_, to)| *to)))
        };
        let rows = pages(read).await.expect("a list");
        assert_eq!(rows, *asked.borrow(), "the rows of each page, once");
        rows
    }

    #[tokio::test]
    async fn every_page_is_read_once_and_a_repeated_cursor_ends_the_list() {
        for (next, expected) in [
            (&[][..], &[0][..]),
            (&[(0, 7), (7, 9)], &[0, 7, 9]),
            // Lists from the newest entry on have cursors that shrink.
            (&[(0, 9), (9, 7)], &[0, 9, 7]),
            (&[(0, 7), (7, 7)], &[0, 7]),
            (&[(0, 7), (7, 9), (9, 7)], &[0, 7, 9]),
        ] {
            assert_eq!(asked(next).await, expected, "{next:?}");
        }
    }
}
