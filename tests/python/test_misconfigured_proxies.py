"""A node behind a proxy that is configured wrongly loses nothing."""

import pytest

from proxies import Nginx, replaced
from test_proxies import certificate  # noqa: F401: a fixture
from world import World, free_port

DEVICES = 40
SCANS = 10


class WithSmallBodies(Nginx):
    """Ends a control stream after six kilobytes; nginx's default is one megabyte."""

    def adapted(self, text: str) -> str:
        return replaced(super().adapted(text), **{"client_max_body_size 0": "client_max_body_size 6k"})


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
        proxies.append(kind(world, port, *certificate))
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
