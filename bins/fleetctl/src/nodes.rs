//! `fleetctl nodes`.

use std::io::{self, Write};

use fleet_wire::{
    admin::{ConfirmFleetNodeRequest, CreateEnrollmentCodeRequest, RevokeFleetNodeRequest},
    fleet::{
        CancelEnrollmentCodeRequest, EnrollmentCode, ListEnrollmentCodesRequest, ListNodesRequest,
        ListRevokedNodesRequest, Node,
    },
};

use crate::{
    ask::agreed,
    cli::{Format, Nodes},
    failure::Failure,
    output::{self, Rows},
    server::Server,
    times,
};

pub(crate) async fn run(server: &Server, format: Format, command: Nodes) -> Result<u8, Failure> {
    match command {
        Nodes::List { revoked: true } => {
            let nodes = server
                .nodes
                .list_revoked_nodes(&ListRevokedNodesRequest {}, server.call()?)
                .await?
                .nodes;
            output::rows(format, &nodes)?;
        }
        Nodes::List { revoked: false } => {
            let nodes = server
                .nodes
                .list_nodes(&ListNodesRequest {}, server.call()?)
                .await?
                .nodes;
            if nodes.is_empty() && format == Format::Table {
                writeln!(
                    io::stderr(),
                    "no nodes: create a code with `fleetctl nodes code`, then run `fleetnode enroll` on the network of the devices"
                )?;
            }
            output::rows(format, &nodes)?;
        }
        Nodes::Code { replaces } => code(server, format, replaces).await?,
        Nodes::Codes => {
            let codes = server
                .nodes
                .list_enrollment_codes(&ListEnrollmentCodesRequest {}, server.call()?)
                .await?
                .codes;
            output::rows(format, &codes)?;
        }
        Nodes::CancelCode { id } => {
            server
                .nodes
                .cancel_enrollment_code(
                    &CancelEnrollmentCodeRequest {
                        pending_enrollment_id: id,
                    },
                    server.call()?,
                )
                .await?;
        }
        Nodes::Confirm { node, fingerprint } => {
            confirm(server, node, fingerprint.as_deref()).await?
        }
        Nodes::Revoke { node, yes } => revoke(server, node, yes).await?,
    }
    Ok(0)
}

/// Prints the code on standard output and instructions on standard error.
async fn code(server: &Server, format: Format, replaces: i64) -> Result<(), Failure> {
    let request = CreateEnrollmentCodeRequest {
        replaces_fleet_node_id: replaces,
    };
    let made = server
        .admin
        .create_enrollment_code(&request, server.call()?)
        .await?;
    if format == Format::Table {
        writeln!(io::stdout(), "{}", made.code)?;
        writeln!(
            io::stderr(),
            "this code is shown only once and expires at {}\non the node, run: fleetnode enroll --server-url URL\nthen confirm the node with: fleetctl nodes confirm NODE",
            times::timestamp(made.expires_at.as_ref())
        )?;
    } else {
        let line = serde_json::json!({ "code": made.code, "pending_enrollment_id": made.pending_enrollment_id, "expires_at": times::timestamp(made.expires_at.as_ref()) });
        writeln!(io::stdout(), "{line}")?;
    }
    Ok(())
}

async fn find(server: &Server, id: i64) -> Result<Node, Failure> {
    let nodes = server
        .nodes
        .list_nodes(&ListNodesRequest {}, server.call()?)
        .await?
        .nodes;
    nodes
        .into_iter()
        .find(|node| node.fleet_node_id == id)
        .ok_or_else(|| {
            fleet_wire::RpcError::not_found(format!(
                "no node {id} in this organization: `fleetctl nodes list` shows them"
            ))
            .into()
        })
}

/// Confirms a node after its fingerprint was compared, by argument or by answer.
async fn confirm(server: &Server, id: i64, fingerprint: Option<&str>) -> Result<(), Failure> {
    let node = find(server, id).await?;
    let Some(pending_enrollment_id) = node.pending_enrollment_id else {
        return Err(Failure::Declined(format!(
            "node {id} ({}) is not waiting for confirmation: it is {}",
            output::plain(&node.name),
            node.enrollment
        )));
    };
    match fingerprint {
        Some(given) if given.eq_ignore_ascii_case(&node.identity_fingerprint) => {}
        Some(given) => {
            return Err(Failure::Declined(format!(
                "node {id} has the fingerprint {}, not {given}: compare again, and if they differ, refuse the machine with `fleetctl nodes revoke {id}`",
                node.identity_fingerprint
            )));
        }
        None => {
            let question = format!(
                "node {id} ({}) has the fingerprint {}. Does the node show the same fingerprint?",
                output::plain(&node.name),
                node.identity_fingerprint
            );
            agreed(
                &question,
                "use --fingerprint with the fingerprint that `fleetnode enroll` printed",
            )?;
        }
    }
    let request = ConfirmFleetNodeRequest {
        fleet_node_id: id,
        pending_enrollment_id,
    };
    let confirmed = server
        .admin
        .confirm_fleet_node(&request, server.call()?)
        .await?;
    writeln!(io::stdout(), "{}", confirmed.api_key)?;
    writeln!(
        io::stderr(),
        "confirmed; the API key is shown only once: paste it at the prompt of the node"
    )?;
    Ok(())
}

async fn revoke(server: &Server, id: i64, yes: bool) -> Result<(), Failure> {
    let node = find(server, id).await?;
    if !yes {
        let question = format!(
            "revoke node {id} ({}) permanently? Its scans end and its devices are released.",
            output::plain(&node.name)
        );
        agreed(&question, "use --yes")?;
    }
    let request = RevokeFleetNodeRequest {
        fleet_node_id: id,
        pending_enrollment_id: node.pending_enrollment_id,
    };
    server
        .admin
        .revoke_fleet_node(&request, server.call()?)
        .await?;
    Ok(())
}

impl Rows for Node {
    const HEAD: &'static [&'static str] = &[
        "Node",
        "Name",
        "Status",
        "Last seen",
        "Fingerprint",
        "Version",
        "Scans",
        "Subnets",
    ];

    fn cells(&self) -> Vec<String> {
        let status = match (
            self.enrollment.as_str(),
            self.duplicate_identity,
            self.connected,
            self.online,
        ) {
            (_, true, _, _) => "duplicate identity",
            ("confirmed", _, true, _) => "online",
            ("confirmed", _, _, true) => "reconnecting",
            ("confirmed", _, _, false) => "offline",
            (other, ..) => other,
        };
        vec![
            self.fleet_node_id.to_string(),
            self.name.clone(),
            status.to_owned(),
            times::timestamp(self.last_seen_at.as_ref()),
            self.identity_fingerprint.clone(),
            self.version.clone(),
            self.queued_scans.to_string(),
            self.local_subnets.join(" "),
        ]
    }
}

impl Rows for EnrollmentCode {
    const HEAD: &'static [&'static str] = &["Id", "State", "Node", "Created by", "Expires"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.pending_enrollment_id.to_string(),
            self.state.clone(),
            self.fleet_node_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
            self.created_by.clone(),
            times::timestamp(self.expires_at.as_ref()),
        ]
    }
}
