//! `fleetctl nodes`.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use fleet_wire::{
    RpcError,
    admin::{ConfirmFleetNodeRequest, CreateEnrollmentCodeRequest, RevokeFleetNodeRequest},
    fleet::{
        CancelEnrollmentCodeRequest, ConfirmFetchingNodeRequest, EnrollmentCode,
        ListEnrollmentCodesRequest, ListNodesRequest, ListRevokedNodesRequest, MoveNodeRequest,
        Node, RenameNodeRequest,
    },
};

use crate::{
    ask::agreed,
    cli::{Format, Nodes},
    failure::Failure,
    output::{self, Rows},
    server::{Server, pages},
    times,
};

pub(crate) async fn run(server: &Server, format: Format, command: Nodes) -> Result<u8, Failure> {
    match command {
        Nodes::List { revoked: true } => {
            let nodes = pages(async |cursor| {
                let request = ListRevokedNodesRequest { limit: 0, cursor };
                let page = server.nodes.list_revoked_nodes(&request, server.call()?);
                let page = page.await?;
                Ok((page.nodes, page.next_cursor))
            })
            .await?;
            output::rows(format, &nodes)?;
        }
        Nodes::List { revoked: false } => {
            let nodes = list(server).await?;
            if nodes.is_empty() && format.is_table() {
                writeln!(
                    io::stderr(),
                    "no nodes: create a code with `fleetctl nodes code`, then run `fleetnode enroll` on the network of the devices"
                )?;
            }
            output::rows(format, &nodes)?;
        }
        Nodes::Code { replaces } => code(server, format, replaces).await?,
        Nodes::Codes => {
            let codes = pages(async |cursor| {
                let request = ListEnrollmentCodesRequest { limit: 0, cursor };
                let page = server.nodes.list_enrollment_codes(&request, server.call()?);
                let page = page.await?;
                Ok((page.codes, page.next_cursor))
            })
            .await?;
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
        Nodes::Confirm {
            node,
            fingerprint,
            paste,
        } => confirm(server, format, &node, fingerprint.as_deref(), paste).await?,
        Nodes::Rename { node, name } => {
            let request = RenameNodeRequest {
                fleet_node_id: resolve(server, &node).await?,
                name,
            };
            server.nodes.rename_node(&request, server.call()?).await?;
        }
        Nodes::ShareSite { node, with } => {
            let with = find(server, &with).await?;
            move_to(server, &node, with.site_id).await?;
        }
        Nodes::OwnSite { node } => move_to(server, &node, 0).await?,
        Nodes::Revoke { node, yes } => revoke(server, &node, yes).await?,
    }
    Ok(0)
}

/// Prints the code on standard output and instructions on standard error.
async fn code(server: &Server, format: Format, replaces: i64) -> Result<(), Failure> {
    let request = CreateEnrollmentCodeRequest {
        replaces_fleet_node_id: replaces,
    };
    let created = server
        .admin
        .create_enrollment_code(&request, server.call()?)
        .await?;
    let note = format!(
        "this code is shown only once and expires at {}\non the node, run: fleetnode enroll --server-url URL\nthen confirm the node with: fleetctl nodes confirm NODE",
        times::timestamp(created.expires_at.as_ref())
    );
    output::secret(format, &created, &created.code, &note)?;
    Ok(())
}

/// Resolves an id or a name of a node to its id. 0 stands for all nodes where a command is not limited to one.
pub(crate) async fn resolve(server: &Server, node: &str) -> Result<i64, Failure> {
    // An id needs no request, and works for revoked nodes too.
    match node.parse() {
        Ok(id) => Ok(id),
        Err(_) => Ok(find(server, node).await?.fleet_node_id),
    }
}

/// Resolves an optional filter by node; 0 means all nodes.
pub(crate) async fn resolve_filter(server: &Server, node: Option<&str>) -> Result<i64, Failure> {
    match node {
        None => Ok(0),
        Some(node) => resolve(server, node).await,
    }
}

async fn find(server: &Server, node: &str) -> Result<Node, Failure> {
    Ok(pick(list(server).await?, node)?)
}

/// All nodes of the organization.
async fn list(server: &Server) -> Result<Vec<Node>, Failure> {
    pages(async |cursor| {
        let request = ListNodesRequest { limit: 0, cursor };
        let page = server.nodes.list_nodes(&request, server.call()?).await?;
        Ok((page.nodes, page.next_cursor))
    })
    .await
}

/// Picks a node by id or name.
fn pick(nodes: Vec<Node>, wanted: &str) -> Result<Node, RpcError> {
    let id = wanted.parse::<i64>().ok();
    let mut found = nodes.into_iter().filter(|node| match id {
        Some(id) => node.fleet_node_id == id,
        None => node.name == wanted,
    });
    let wanted = output::plain(wanted);
    let Some(node) = found.next() else {
        return Err(RpcError::not_found(format!(
            "no node `{wanted}` in this organization: `fleetctl nodes list` shows them"
        )));
    };
    match found.next() {
        None => Ok(node),
        Some(other) => Err(RpcError::invalid_argument(format!(
            "nodes {} and {} have the name `{wanted}`: use an id",
            node.fleet_node_id, other.fleet_node_id
        ))),
    }
}

/// Confirms a node after its fingerprint was compared, by argument or by answer.
async fn confirm(
    server: &Server,
    format: Format,
    node: &str,
    fingerprint: Option<&str>,
    paste: bool,
) -> Result<(), Failure> {
    let node = find(server, node).await?;
    let id = node.fleet_node_id;
    let Some(pending_enrollment_id) = node.pending_enrollment_id else {
        return Err(Failure::Declined(format!(
            "node {id} ({}) is not waiting for confirmation: it is {}",
            output::plain(&node.name),
            node.enrollment
        )));
    };
    // A confirmation without comparison would defeat the enrollment (decision 0012).
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
    if node.fetches_key && !paste {
        let request = ConfirmFetchingNodeRequest {
            fleet_node_id: id,
            pending_enrollment_id,
        };
        server
            .confirmation
            .confirm_fetching_node(&request, server.call()?)
            .await?;
        return fetched(server, id).await;
    }
    let request = ConfirmFleetNodeRequest {
        fleet_node_id: id,
        pending_enrollment_id,
    };
    let confirmed = server
        .admin
        .confirm_fleet_node(&request, server.call()?)
        .await?;
    let note = "confirmed; the API key is shown only once: paste it at the prompt of the node";
    output::secret(format, &confirmed, &confirmed.api_key, note)?;
    Ok(())
}

/// How long to wait for a confirmed node to fetch its API key: it asks every few seconds.
const FETCH_WAIT: Duration = Duration::from_secs(30);

/// Says whether a confirmed node has fetched its API key.
async fn fetched(server: &Server, id: i64) -> Result<(), Failure> {
    let until = Instant::now() + FETCH_WAIT;
    while Instant::now() < until {
        if find(server, &id.to_string())
            .await?
            .key_fetched_at
            .is_some()
        {
            writeln!(io::stderr(), "confirmed; the node has fetched its API key")?;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    writeln!(
        io::stderr(),
        "confirmed, but the node has not fetched its API key yet: run `fleetnode enroll` on it within an hour; `fleetctl nodes list --wide` shows when it has"
    )?;
    Ok(())
}

/// Moves a node to a site; 0 is a new one.
async fn move_to(server: &Server, node: &str, site: i64) -> Result<(), Failure> {
    let request = MoveNodeRequest {
        fleet_node_id: resolve(server, node).await?,
        site_id: site,
    };
    server.nodes.move_node(&request, server.call()?).await?;
    Ok(())
}

async fn revoke(server: &Server, node: &str, yes: bool) -> Result<(), Failure> {
    let node = find(server, node).await?;
    let id = node.fleet_node_id;
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

/// The status of a node in a table. A node that is halted or not connected is shown with the reason.
fn status(node: &Node) -> String {
    let status = match (
        node.enrollment.as_str(),
        node.duplicate_identity,
        node.connected,
        node.online,
    ) {
        (_, true, _, _) => "duplicate identity",
        ("confirmed", _, true, _) if node.halted && node.halt_reason.is_empty() => "halted",
        ("confirmed", _, true, _) if node.halted => {
            return format!("halted: {}", node.halt_reason);
        }
        ("confirmed", _, true, _) => "online",
        ("confirmed", _, _, true) => "reconnecting",
        ("confirmed", _, _, false) => "offline",
        (other, ..) => other,
    };
    match node.disconnected_reason.as_str() {
        "" => status.to_owned(),
        reason => format!("{status}: {reason}"),
    }
}

impl Rows for Node {
    const HEAD: &'static [&'static str] = &[
        "Node",
        "Name",
        "Status",
        "Last seen",
        "Fingerprint",
        "Version",
        "Queued",
        "Subnets",
        "Site",
        "Key fetched",
        "Needs upgrade for",
    ];
    const OPTIONAL: &'static [&'static str] = &[
        "Needs upgrade for",
        "Key fetched",
        "Site",
        "Subnets",
        "Version",
        "Queued",
        "Last seen",
    ];
    const WHOLE: &'static [&'static str] = &["Node", "Fingerprint"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.fleet_node_id.to_string(),
            self.name.clone(),
            status(self),
            times::timestamp(self.last_seen_at.as_ref()),
            self.identity_fingerprint.clone(),
            self.version.clone(),
            self.queued_scans.to_string(),
            self.local_subnets.join(" "),
            format!("{} ({})", self.site_id, self.site_name),
            times::timestamp(self.key_fetched_at.as_ref()),
            self.missing_capabilities.join(" "),
        ]
    }
}

impl Rows for EnrollmentCode {
    const HEAD: &'static [&'static str] = &["Id", "State", "Node", "Created by", "Expires"];
    const OPTIONAL: &'static [&'static str] = &["State"];
    const WHOLE: &'static [&'static str] = &["Id", "Expires"];

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

#[cfg(test)]
mod tests {
    use fleet_wire::Code;

    use super::*;

    #[test]
    fn a_halted_node_is_shown_with_its_reason_while_it_is_connected() {
        let node = |connected, halted, reason: &str| Node {
            enrollment: "confirmed".to_owned(),
            connected,
            online: connected,
            halted,
            halt_reason: reason.to_owned(),
            ..Node::default()
        };
        for (node, expected) in [
            (node(true, false, ""), "online"),
            (node(true, true, ""), "halted"),
            (node(true, true, "new switch"), "halted: new switch"),
            (node(false, true, "new switch"), "offline"),
            (
                Node {
                    disconnected_reason: "node revoked".to_owned(),
                    ..node(false, false, "")
                },
                "offline: node revoked",
            ),
        ] {
            assert_eq!(status(&node), expected);
        }
    }

    #[test]
    fn a_node_is_picked_by_id_or_by_a_unique_name() {
        let node = |id, name: &str| Node {
            fleet_node_id: id,
            name: name.to_owned(),
            ..Node::default()
        };
        let nodes = || vec![node(1, "barn-1"), node(2, "barn-2"), node(3, "barn-2")];
        assert_eq!(pick(nodes(), "2").expect("an id").fleet_node_id, 2);
        assert_eq!(pick(nodes(), "barn-1").expect("a name").fleet_node_id, 1);
        let twice = pick(nodes(), "barn-2").expect_err("two nodes");
        assert_eq!(twice.code, Code::InvalidArgument);
        assert!(twice.message.contains("2 and 3"), "{}", twice.message);
        assert_eq!(
            pick(nodes(), "barn").expect_err("none").code,
            Code::NotFound
        );
    }
}
