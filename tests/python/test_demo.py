"""`fleetd demo`: two at the same time on one machine, what they print, and what their pages have to show."""

import json
import os
import re
import subprocess
import urllib.request
from collections import Counter

import pytest

from world import ROOT, Process, eventually, program

LAST = "devices pair-all --node 1"
"""The end of what a demo prints before it waits for Ctrl-C."""


class Demo:
    """A running demo."""

    def __init__(self, name: str, folder, *flags: str):
        self.process = Process(name, folder, [program("fleetd"), "demo", *flags])

    @property
    def lines(self) -> list[str]:
        return self.process.log.read_text(errors="replace").splitlines()

    def is_ready(self) -> bool:
        assert self.process.running(), self.process.tail()
        return self.process.logged(LAST) > 0

    def word(self, label: str) -> str:
        """The first word after a label."""
        line = next(line.strip() for line in self.lines if line.strip().startswith(label))
        return line.removeprefix(label).split()[0]

    def fleetctl(self, *words: str):
        """Runs `fleetctl` and returns its JSON."""
        environment = os.environ | {"FLEET_API_KEY": self.word("key ")}
        command = [program("fleetctl"), "--server", self.word("server "), "-o", "json", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
        assert done.returncode == 0, (words, done)
        return json.loads(done.stdout)

    def alerts(self) -> list[str]:
        label = "alert received: "
        return sorted(line.removeprefix(label) for line in self.lines if line.startswith(label))


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Two demos that start at the same time with the same port, one of them as the README has it."""
    folder = tmp_path_factory.mktemp("demos")
    demos = [Demo("first", folder), Demo("second", folder, "--devices", "120")]
    try:
        for demo in demos:
            eventually("a demo that is ready", demo.is_ready, 300)
        yield demos
    finally:
        for demo in demos:
            demo.process.kill()


def test_two_demos_have_ports_networks_and_data_of_their_own(demos):
    servers = {demo.word("server ") for demo in demos}
    assert len(servers) == 2
    for server in servers:
        assert urllib.request.urlopen(f"{server}/readyz", timeout=30).status == 200
    networks = [{device["ip"].split(".")[1] for device in demo.fleetctl("devices", "list")} for demo in demos]
    assert all(len(network) == 1 for network in networks) and networks[0] != networks[1], networks


def test_the_webhook_of_a_demo_receives_its_alerts_and_the_server_lists_them_as_delivered(demos):
    for demo in demos:

        def settled():
            rows = demo.fleetctl("alerts", "deliveries")
            return all(row["state"] == "delivered" for row in rows) and rows

        deliveries = eventually("delivered alerts", settled)
        assert {row["answer"] for row in deliveries} == {"HTTP 204"}, deliveries
        assert sorted(row["title"] for row in deliveries) == demo.alerts()
        events = Counter(row["event"] for row in deliveries)
        # Both scans found new devices. On a slow machine, a scan can miss a device that changed.
        assert events["device.new"] == 2 and len(events) >= 2, events
        assert set(events.values()) <= {1, 2}, "one message for each kind of change"


def test_most_devices_of_a_demo_are_paired_and_some_need_another_password(demos):
    for demo in demos:
        statuses = Counter(device["pairingStatus"] for device in demo.fleetctl("devices", "list"))
        paired = statuses["PAIRED"] + statuses["OPEN"]
        assert paired > statuses.total() / 2, statuses
        assert statuses["PAIRED"] and statuses["OPEN"] and statuses["AUTHENTICATION_NEEDED"], statuses
        line = next(line for line in demo.lines if line.startswith("pairing "))
        assert f" {paired} of " in line and f", {statuses['AUTHENTICATION_NEEDED']} need another password" in line, line


def test_a_demo_has_two_nodes_of_one_site_a_schedule_and_changes(demos):
    for demo in demos:
        nodes = demo.fleetctl("nodes", "list")
        assert len(nodes) == 2 and len({node["siteId"] for node in nodes}) == 1
        assert all(node["connected"] for node in nodes)
        assert [schedule["name"] for schedule in demo.fleetctl("schedule", "list")] == ["nightly"]
        second, first = demo.fleetctl("scan", "list")
        assert {second["state"], first["state"]} == {"SCAN_STATE_COMPLETED"}
        groups = Counter(row["group"] for row in demo.fleetctl("scan", "diff", second["scanId"])["rows"])
        assert groups["DIFFERENCE_GROUP_NEW"] >= 3 and groups["DIFFERENCE_GROUP_MISSING"], groups
        assert groups["DIFFERENCE_GROUP_MOVED"] or groups["DIFFERENCE_GROUP_CHANGED"], groups


def shape(line: str) -> str:
    """A printed line without what differs between runs: ids, ports, counts, times, and which devices were identified."""
    if re.match(r"127\.\d+\.\d+\.\d+:\d+ +(mac|serial|auto):\S+ +\w+ +\S", line):
        return "DEVICE"
    for pattern, by in [
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
        (r"fingerprint [0-9a-f]{16}", "fingerprint HEX"),
        (r"\d+(\.\d+)? m?s\b", "TIME"),
        (r"\d+", "N"),
        # An alert about one device has another word.
        (r"alert received: .*", "ALERT"),
    ]:
        line = re.sub(pattern, by, line)
    return " ".join(line.split())


def test_the_readme_shows_what_the_demo_prints(demos):
    readme = (ROOT / "README.md").read_text()
    excerpt = next(block for block in re.findall(r"^```text\n(.*?)^```", readme, re.MULTILINE | re.DOTALL) if block.startswith("server "))
    printed = {shape(line) for line in demos[0].lines}
    for line in excerpt.splitlines():
        assert line == "..." or shape(line) in printed, f"the demo does not print: {line}"
