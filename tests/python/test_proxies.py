"""Forty nodes, nine watchers and a hostile client behind one reverse proxy: nginx, HAProxy, Caddy, Envoy and Apache, as documented.

The nodes are real ones; they keep one URL, at which one proxy after the other listens. The devices are simulated.
"""

import json
import ssl
import subprocess
import threading
import urllib.error
import urllib.request

import pytest

import proxies
from conftest import PEERS
from hostile import header_of, resets
from world import World, eventually, free_port, program

NODES = 40
DEVICES = 1000
"""On 127.95.0.0/20, of which each node scans a /26: about sixteen devices for each node."""
WATCHERS = 9


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for the address of the proxies, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "fleet.crt", folder / "fleet.key"
    subprocess.run([program("fleetd"), "dev-cert", "--cert", cert, "--key", key], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def world(tmp_path_factory, certificate):
    """The server, and forty enrolled nodes that run and find no proxy yet."""
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    flags = ["--trusted-proxy", "127.0.0.1/32", "--public-url", url, "--log", "info"]
    with World(tmp_path_factory.mktemp("proxies"), flags, nodes_url=url) as world:
        world.proxy_port, world.ca = port, certificate[0]
        world.devices = world.site("127.95.0.0/20", DEVICES, delay_ms=400)
        yield world


@pytest.fixture(scope="module", params=proxies.ALL, ids=lambda proxy: proxy.title)
def proxy(request, world, certificate):
    """The proxy under test, with forty connected nodes."""
    PEERS[request.param.title] = request.param.version()
    proxy = request.param(world, world.proxy_port, *certificate)
    if not world.nodes:
        world.ids = [world.enroll(f"node-{number}") for number in range(NODES)]
        for number in range(NODES):
            world.run_node(f"node-{number}")
    world.until_connected(NODES)
    yield proxy
    proxy.kill()


class Watcher:
    """Follows a scan by SSE through the proxy, and resumes after each loss as a browser does."""

    def __init__(self, proxy, ca, key: str, scan_id: str):
        self.url, self.key = f"{proxy.url}/api/scans/{scan_id}/events", key
        self.context = ssl.create_default_context(cafile=ca)
        self.sequences: list[int] = []
        self.devices: list[str] = []
        self.resumed = 0
        self.over = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                self._follow()
            except (OSError, ValueError, urllib.error.URLError):
                self.resumed += 1
                self.over.wait(0.2)

    def _follow(self) -> None:
        last = str(self.sequences[-1]) if self.sequences else "0"
        headers = {"authorization": f"Bearer {self.key}", "last-event-id": last}
        for line in urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=60, context=self.context):
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if "seq" in event:
                self.sequences.append(event["seq"])
            if event["type"] == "device":
                self.devices.append(event["ip"])
            if event["type"] == "ledger":
                self.over.set()
                return


def scan_all(world) -> dict[int, str]:
    """Starts a scan on every node, each of its own network."""
    return {node: world.start_scan(node, f"127.95.{place // 4}.{place % 4 * 64}/26") for place, node in enumerate(world.ids)}


def expected(world, place: int) -> set[str]:
    """The addresses of the devices in a node's network, without its first and last address."""
    third, first = place // 4, place % 4 * 64
    inside = lambda octets: octets[2] == third and first < octets[3] < first + 63
    return {address for address in world.devices if inside([int(octet) for octet in address.split(".")])}


def test_forty_nodes_scan_while_nine_watch_and_the_proxy_is_reloaded_and_killed(world, proxy):
    scans = scan_all(world)
    watchers = [Watcher(proxy, world.ca, world.key, scan) for scan in list(scans.values())[:WATCHERS]]
    eventually("a device", lambda: any(watcher.devices for watcher in watchers))
    proxy.reload()
    eventually("devices for each watcher", lambda: all(watcher.devices for watcher in watchers))
    proxy.kill()
    proxy.start()
    for place, (node, scan_id) in enumerate(scans.items()):
        scan = world.finished(scan_id)
        assert scan["state"] == "SCAN_STATE_COMPLETED", scan
        assert int(scan["ledger"]["accepted"]) == len(expected(world, place)), (node, scan)
    for place, watcher in enumerate(watchers):
        assert watcher.over.wait(60), "a watcher did not receive the end of its scan"
        assert watcher.sequences == list(range(1, len(watcher.sequences) + 1)), "the events have gaps or repetitions"
        assert sorted(watcher.devices) == sorted(expected(world, place))
    world.until_connected(NODES)


def test_a_hostile_client_drops_no_other_peer_of_the_proxy(world, proxy):
    world.until_connected(NODES)
    before = world.server.logged("node connected")
    header_of(proxy.url, 45_000)
    resets(proxy.url, 30)
    header_of(proxy.url, 45_000)
    # Each node answers a command afterwards: a stream that had been dropped would show as a second connection.
    for scan_id in scan_all(world).values():
        assert world.finished(scan_id)["state"] == "SCAN_STATE_COMPLETED"
    assert world.server.logged("node connected") == before
