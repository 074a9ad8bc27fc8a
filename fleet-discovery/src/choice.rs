//! The nodes that an operator names for a scan. Start with [`NodeChoice`]. Which of them scans which target is decided
//! in `shares.rs`.

use std::{fmt, str::FromStr};

use fleet_core::{NodeId, SiteId};

/// The nodes that an operator names for a scan. Its text form is `node 3`, `nodes 3,5`, `site 2` or `auto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeChoice {
    /// One node, which scans every target, also those outside of its subnets.
    Node(NodeId),
    /// Several nodes, by id.
    Nodes(Vec<NodeId>),
    /// The nodes of a site.
    Site(SiteId),
    /// All nodes.
    Auto,
}

impl NodeChoice {
    /// Creates the choice of these nodes. One node scans every target; of several, each scans the targets that its
    /// subnets cover. Returns `None` for an empty list.
    pub fn of_nodes(nodes: impl IntoIterator<Item = NodeId>) -> Option<Self> {
        let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
        nodes.sort_unstable();
        nodes.dedup();
        match nodes.as_slice() {
            [] => None,
            [node] => Some(Self::Node(*node)),
            _ => Some(Self::Nodes(nodes)),
        }
    }
}

impl fmt::Display for NodeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Nodes(nodes) => {
                let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                write!(f, "nodes {}", ids.join(","))
            }
            Self::Site(site) => write!(f, "site {site}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// The text is not that of a [`NodeChoice`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no nodes: write `node 3`, `nodes 3,5`, `site 2` or `auto`")]
pub struct NodeChoiceError(String);

impl FromStr for NodeChoice {
    type Err = NodeChoiceError;

    fn from_str(text: &str) -> Result<Self, NodeChoiceError> {
        let refused = || NodeChoiceError(text.chars().take(64).collect());
        let id = |text: &str| text.parse::<i64>().ok().filter(|id| *id > 0);
        let choice = match text.split_once(' ') {
            None if text == "auto" => Some(Self::Auto),
            Some(("node", node)) => id(node).map(|node| Self::Node(NodeId(node))),
            Some(("nodes", nodes)) => {
                let nodes: Option<Vec<_>> =
                    nodes.split(',').map(|one| Some(NodeId(id(one)?))).collect();
                nodes.and_then(Self::of_nodes)
            }
            Some(("site", site)) => id(site).map(|site| Self::Site(SiteId(site))),
            _ => None,
        };
        choice.ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        for text in ["node 3", "nodes 3,5", "site 2", "auto"] {
            let choice: NodeChoice = text.parse().expect(text);
            assert_eq!(choice.to_string(), text);
        }
        for (text, expected) in [("nodes 5,3,5", "nodes 3,5"), ("nodes 3,3", "node 3")] {
            let choice: NodeChoice = text.parse().expect(text);
            assert_eq!(choice.to_string(), expected);
        }
        for text in [
            "", "node", "node 0", "node -1", "node x", "nodes ", "nodes 1,", "site", "auto 1",
            "Auto",
        ] {
            let refused = text.parse::<NodeChoice>().expect_err(text);
            assert!(
                refused.to_string().contains(&format!("`{text}`")),
                "{refused}"
            );
        }
    }
}
