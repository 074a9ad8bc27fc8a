"""Addresses that proxies forward: the PROXY protocol from a trusted proxy, and a proxy that nobody declared."""

import json
import socket
import struct
import urllib.error
import urllib.request

import pytest

from world import World

GUESSES = 31
"""One more than an address may make in a minute."""
V1 = b"PROXY TCP4 192.0.2.71 127.0.0.1 4711 443\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", 0x21, 0x11, 12) + socket.inet_aton("192.0.2.72") + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 4711, 443)


@pytest.fixture(scope="module")
def trusting(tmp_path_factory):
    """A server whose only trusted proxy is 127.0.0.2."""
    with World(tmp_path_factory.mktemp("forwarding"), ["--trusted-proxy", "127.0.0.2/32", "--log", "info"]) as world:
        yield world


def refused_from(world, source: str, header: bytes) -> bytes:
    """Signs in with a wrong password, behind a header of the PROXY protocol; returns the answer."""
    body = json.dumps({"email": "lab@example.org", "password": "not the password"}).encode()
    head = f"POST /api/session HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.port), timeout=30, source_address=(source, 0)) as connection:
        connection.sendall(header + head.encode() + body)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def recorded_addresses(world) -> set[str]:
    """The addresses of refused sign-ins in the audit trail."""
    records = world.call("fleet.v1.AuditService/ListAudit", limit=50, action="operator.sign_in").get("records", [])
    return {record.get("fromAddress", "") for record in records}


@pytest.mark.parametrize("header, client", [(V1, "192.0.2.71"), (V2, "192.0.2.72")], ids=["version 1", "version 2"])
def test_a_trusted_proxy_names_its_client(trusting, header, client):
    assert refused_from(trusting, "127.0.0.2", header).startswith(b"HTTP/1.1 401")
    assert client in recorded_addresses(trusting)


def test_a_trusted_proxy_may_send_no_header(trusting):
    assert refused_from(trusting, "127.0.0.2", b"").startswith(b"HTTP/1.1 401")


def test_nobody_else_can_name_a_client(trusting):
    assert not refused_from(trusting, "127.0.0.3", V1).startswith(b"HTTP/1.1 401")


def sign_in(world, email: str, password: str, client: str) -> int:
    """Signs in through a proxy that adds its client's address; returns the status."""
    headers = {"content-type": "application/json", "x-forwarded-for": f"203.0.113.9, {client}"}
    body = json.dumps({"email": email, "password": password}).encode()
    try:
        return urllib.request.urlopen(urllib.request.Request(f"{world.url}/api/session", body, headers), timeout=60).status
    except urllib.error.HTTPError as refused:
        return refused.code


def test_guesses_through_an_undeclared_proxy_lock_nobody_else_out(trusting):
    trusting.admin("create-operator", "--org", "lab", "--email", "owner@example.org", "--role", "admin")
    statuses = [sign_in(trusting, "nobody@example.org", "a wrong guess", "198.51.100.6") for _ in range(GUESSES)]
    assert statuses[-1] == 429, statuses
    # A wrong password is judged, not limited: the owner comes from another address.
    assert sign_in(trusting, "owner@example.org", "not the password", "198.51.100.7") == 401
    assert trusting.server.logged("--trusted-proxy") == 1, "the log names the flag once"
