"""The running server, its operator and one enrolled node, shared by all tests that need them.

Without FLEET_SERVER_URL every such test is skipped by name. The whole run registers nine times, within the server's
default of ten a minute; a second run within the same minute needs a server whose rate limits are off.
"""

import os
import uuid
from dataclasses import dataclass

import pytest

from fleetwire.node import Node
from fleetwire.operator import Operator


PEERS: dict[str, str] = {}
"""The third-party programs that the run used, with their versions."""


def pytest_terminal_summary(terminalreporter):
    """Names the peers, because docs/interop.md states results for versions."""
    for name, version in sorted(PEERS.items()):
        terminalreporter.write_line(f"peer {name} {version}")


@dataclass
class Enrolled:
    """A node with the server's response to each step of its enrollment."""

    node: Node
    invitation: dict
    registered: object
    confirmed: dict
    session: object


@pytest.fixture(scope="session")
def server_url() -> str:
    """The URL of the server under test, `http://host:port`."""
    return os.environ.get("FLEET_SERVER_URL") or pytest.skip("FLEET_SERVER_URL is not set: no live server")


@pytest.fixture(scope="session")
def operator(server_url) -> Operator:
    """The operator whose key the environment holds."""
    key = os.environ.get("FLEET_OPERATOR_KEY")
    assert key, "FLEET_SERVER_URL is set, FLEET_OPERATOR_KEY is not: give an operator key (fok_...)"
    return Operator(server_url, key)


@pytest.fixture(scope="session")
def enrolled(server_url, operator) -> Enrolled:
    """One node, enrolled step by step as an upstream node and its operator would."""
    node = Node(server_url, unique_name("python"))
    invitation = operator.create_code()
    registered = node.register(invitation["code"])
    confirmed = operator.confirm(node.node_id, int(invitation["pendingEnrollmentId"]))
    node.api_key = confirmed["apiKey"]
    return Enrolled(node, invitation, registered, confirmed, node.authenticate())


@pytest.fixture(scope="session")
def node(enrolled) -> Node:
    """The enrolled node."""
    return enrolled.node


@pytest.fixture
def stream(node):
    """The node's control stream, accepted, with the empty Hello of an upstream node; open commands end with the test."""
    with node.open_stream() as stream:
        yield stream


def unique_name(prefix: str) -> str:
    """A name that no earlier run has used."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
