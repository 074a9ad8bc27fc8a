"""A node behind a proxy that is configured wrongly loses nothing, and reports the fault where an administrator looks."""

import subprocess

import pytest

from proxies import Nginx, replaced
from test_proxies import certificate  # noqa: F401: a fixture
from world import World, eventually, free_port, program

DEVICES = 40
SCANS = 10


class WithSmallBodies(Nginx):
    """Ends a control stream after six kilobytes; nginx's default is one megabyte."""

    def adapted(self, text: str) -> str:
        return replaced(super().adapted(text), **{"client_max_body_size 0": "client_max_body_size 6k"})


class OverHttp1(Nginx):
    """Forwards requests as HTTP/1.1, each after its whole body, as nginx does with `proxy_pass`."""

    def adapted(self, text: str) -> str:
        words = {
            "grpc_pass grpc://": "proxy_http_version 1.1; proxy_buffering on; proxy_request_buffering on; proxy_pass http://",
            "grpc_read_timeout": "proxy_read_timeout",
            "grpc_send_timeout": "proxy_send_timeout",
            "grpc_set_header": "proxy_set_header",
        }
        return replaced(super().adapted(text), **words)


@pytest.fixture
def behind(tmp_path, certificate):  # noqa: F811
    """Starts a server, a proxy of the given kind, and an enrolled node behind it."""
    worlds, proxies = [], []

    def start(kind: type[Nginx]) -> World:
        kind.executable()
        port = free_port()
        world = World(tmp_path / "world", ["--trusted-proxy", "127.0.0.1/32", "--log", "info"], nodes_url=f"https://127.0.0.1:{port}")
        worlds.append(world)
        world.ca = certificate[0]
        world.change_proxy = lambda kind: proxies.append(kind(world, port, *certificate))
        world.change_proxy(kind)
        world.proxies = proxies
        world.node_id = world.enroll("barn")
        world.run_node("barn")
        return world

    yield start
    for proxy in proxies:
        proxy.kill()
    for world in worlds:
        world.__exit__()


def test_a_limit_on_bodies_ends_streams_and_loses_no_device(behind):
    world = behind(WithSmallBodies)
    devices = world.site("127.96.0.0/22", DEVICES)
    world.until_connected(1)
    for _ in range(SCANS):
        scan = world.finished(world.start_scan(world.node_id, "127.96.0.0/22"))
        assert scan["state"] == "SCAN_STATE_COMPLETED" and int(scan["ledger"]["identified"]) == len(devices), scan
    assert world.server.logged("node connected") > 1, "the proxy ended no stream"


ROUTE = "the route to the server does not carry HTTP/2"


def test_a_proxy_without_http2_to_the_server_is_named_on_the_node_and_in_the_list(behind):
    world = behind(OverHttp1)
    (node,) = world.nodes

    def listed() -> dict:
        return world.call("fleet.v1.NodeService/ListNodes")["nodes"][0]

    def status() -> str:
        command = [program("fleetnode"), "status", "--state-dir", world.folder / "barn"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    eventually("a report of the node", lambda: node.logged(ROUTE))
    (line,) = [line for line in node.log.read_text().splitlines() if ROUTE in line]
    assert "WARN" in line and "grpc_pass" in line, line
    assert ROUTE in status() and "grpc_pass" in status(), status()
    seen = eventually("the list of nodes", lambda: ROUTE in (entry := listed()).get("disconnectedReason", "") and entry)
    assert seen["online"] and not seen.get("connected"), seen
    assert "grpc_pass" in seen["disconnectedReason"], seen
    # Repeated attempts are no news.
    assert node.logged(ROUTE) == 1, node.tail()

    world.proxies[0].kill()
    world.change_proxy(Nginx)
    world.until_connected(1)
    assert not listed().get("disconnectedReason"), listed()
    eventually("the status of a connected node", lambda: "connection   connected" in status())
