//! Tables of all cases.

use fleet_core::{NodeId, PairingStatus, enrollment::NodeState};

use super::*;

const HERE: NodeId = NodeId(1);
const THERE: NodeId = NodeId(2);

#[test]
fn a_device_is_bound_to_one_confirmed_node_or_to_nobody_else() {
    use BindDecision::{Already, Bind};
    use BindRefusal::{BoundToNode, BoundToServer, NotConfirmed};
    let table = [
        (NodeState::Confirmed, Binding::Free, Ok(Bind)),
        (NodeState::Confirmed, Binding::Node(HERE), Ok(Already)),
        (
            NodeState::Confirmed,
            Binding::Node(THERE),
            Err(BoundToNode(THERE)),
        ),
        (NodeState::Confirmed, Binding::Server, Err(BoundToServer)),
    ];
    for (state, binding, expected) in table {
        assert_eq!(
            decide_bind(HERE, state, binding),
            expected,
            "{state:?} {binding:?}"
        );
        for state in [NodeState::Pending, NodeState::Revoked] {
            assert_eq!(decide_bind(HERE, state, binding), Err(NotConfirmed(HERE)));
        }
    }
}

#[test]
fn the_server_takes_only_devices_that_no_node_ever_found() {
    for binding in [Binding::Free, Binding::Node(HERE), Binding::Server] {
        for owner in [None, Some(HERE)] {
            for endpoint_node in [None, Some(THERE)] {
                for has_endpoint in [false, true] {
                    let claim = ServerClaim {
                        binding,
                        owner,
                        has_endpoint,
                        endpoint_node,
                    };
                    let expected = match (owner, endpoint_node, binding) {
                        (Some(node), _, _) | (None, Some(node), _) => {
                            Err(BindRefusal::FoundByNode(node))
                        }
                        (None, None, Binding::Node(node)) => Err(BindRefusal::BoundToNode(node)),
                        (None, None, Binding::Server) => Ok(BindDecision::Already),
                        (None, None, Binding::Free) if has_endpoint => Ok(BindDecision::Bind),
                        (None, None, Binding::Free) => Err(BindRefusal::NoEndpoint),
                    };
                    assert_eq!(decide_bind_to_server(claim), expected, "{claim:?}");
                }
            }
        }
    }
}

#[test]
fn a_node_pairs_devices_that_it_found_or_that_are_bound_to_it() {
    let candidate = PairCandidate {
        binding: Binding::Free,
        owner: Some(HERE),
        status: PairingStatus::Unpaired,
        has_endpoint: true,
        claimed_from: None,
    };
    let cases = [
        (candidate, Ok(())),
        (
            PairCandidate {
                owner: Some(THERE),
                ..candidate
            },
            Err(NotPairable::NotOfNode(HERE)),
        ),
        (
            PairCandidate {
                owner: None,
                ..candidate
            },
            Err(NotPairable::NotOfNode(HERE)),
        ),
        (
            PairCandidate {
                binding: Binding::Node(HERE),
                owner: Some(THERE),
                ..candidate
            },
            Ok(()),
        ),
        // Credentials wait until an operator has confirmed a claim by binding the device.
        (
            PairCandidate {
                claimed_from: Some(THERE),
                ..candidate
            },
            Err(NotPairable::Claimed(THERE)),
        ),
        (
            PairCandidate {
                claimed_from: Some(THERE),
                binding: Binding::Node(HERE),
                ..candidate
            },
            Ok(()),
        ),
        (
            PairCandidate {
                binding: Binding::Node(THERE),
                ..candidate
            },
            Err(BindRefusal::BoundToNode(THERE).into()),
        ),
        (
            PairCandidate {
                binding: Binding::Server,
                ..candidate
            },
            Err(BindRefusal::BoundToServer.into()),
        ),
        (
            PairCandidate {
                has_endpoint: false,
                ..candidate
            },
            Err(BindRefusal::NoEndpoint.into()),
        ),
    ];
    for (candidate, expected) in cases {
        assert_eq!(decide_target(HERE, candidate), expected, "{candidate:?}");
    }
}

#[test]
fn all_unpaired_leaves_out_paired_devices_and_without_a_password_those_with_a_login() {
    for status in PairingStatus::ALL.iter().copied() {
        let candidate = PairCandidate {
            binding: Binding::Node(HERE),
            owner: Some(HERE),
            status,
            has_endpoint: true,
            claimed_from: None,
        };
        let expected = |with_password: bool| match status {
            PairingStatus::Paired | PairingStatus::DefaultPassword | PairingStatus::Open => {
                Err(NotPairable::Paired)
            }
            PairingStatus::AuthenticationNeeded if !with_password => {
                Err(NotPairable::PasswordMissing)
            }
            PairingStatus::AuthenticationNeeded
            | PairingStatus::Unpaired
            | PairingStatus::Pending
            | PairingStatus::Failed => Ok(()),
        };
        for with_password in [false, true] {
            assert_eq!(
                decide_unpaired_target(HERE, candidate, with_password),
                expected(with_password),
                "{status} {with_password}"
            );
        }
    }
}
