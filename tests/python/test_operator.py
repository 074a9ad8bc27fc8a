"""What an operator can do, one test for each item of docs/README.md#what-an-operator-can-do, by `fleetctl` on real programs.

The tests share one server, one node and a few simulated devices, and build on each other in the order of the file.
"""

import csv
import io
import json
import os
import re
import subprocess
import urllib.request

import pytest

from test_metrics import scrape
from world import PORTS, ROOT, World, eventually, free_port, program

SUBNET = "127.92.0.0/28"
TARGETS = 16
"""Addresses of the subnet, of which the first and the last are skipped."""


class Operator:
    """`fleetctl` with a key."""

    def __init__(self, world: World, key: str):
        self.world, self.key = world, key

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess:
        command = [program("fleetctl"), "--server", self.world.url, *map(str, words)]
        environment = os.environ | {"FLEET_API_KEY": self.key} | variables
        return subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)

    def text(self, *words: str, **variables: str) -> str:
        done = self.run(*words, **variables)
        assert done.returncode == 0, (words, done)
        return done.stdout

    def json(self, *words: str):
        return json.loads(self.text("-o", "json", *words))

    def scan(self, *words: str) -> dict:
        """Scans the subnet at the ports of the simulated devices, and returns the ended scan."""
        ports = ",".join(map(str, PORTS))
        started = self.json("scan", "start", "--no-watch", "--node", "barn", "--port", ports, *words)
        return self.world.finished(only(started)["scanId"])


def only(value):
    """The one row of an answer, which is a list or the row itself."""
    return value[0] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def metrics() -> int:
    return free_port()


@pytest.fixture(scope="module")
def world(tmp_path_factory, metrics):
    with World(tmp_path_factory.mktemp("operator") / "world", ["--metrics-listen", str(metrics)]) as world:
        world.devices = world.site(SUBNET, 6)
        yield world


@pytest.fixture(scope="module")
def admin(world) -> Operator:
    return Operator(world, world.key)


@pytest.fixture(scope="module")
def node(world, admin):
    """The node, enrolled with one command and one paste."""
    code = admin.text("nodes", "code").split()[-1]
    enroll = [program("fleetnode"), "enroll", "--name", "barn", "--server-url", world.url, "--state-dir", world.folder / "barn", "--wait", "300"]
    process = subprocess.Popen(enroll, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(f"{code}\n")
    process.stdin.close()
    fingerprint = next(line for line in process.stdout if line.startswith("Fingerprint: ")).split()[-1]
    eventually("a node that waits for its key", lambda: any(one.get("fetchesKey") for one in admin.json("nodes", "list")))
    confirmed = admin.run("nodes", "confirm", "barn", "--fingerprint", fingerprint)
    assert (confirmed.returncode, confirmed.stdout) == (0, ""), confirmed
    assert process.wait(120) == 0
    node = world.run_node("barn", "--allow-network", "127.92.0.0/24", "--local-subnet", SUBNET)
    world.until_connected(1)
    return node


@pytest.fixture(scope="module")
def scanned(admin, node) -> dict:
    return admin.scan(SUBNET)


def test_01_a_node_enrolls_with_one_command(admin, node):
    listed = only(admin.json("nodes", "list"))
    assert (listed["name"], listed["enrollment"], listed["connected"]) == ("barn", "confirmed", True)
    assert listed["keyFetchedAt"]


def test_02_a_node_only_dials_out(node):
    folder = f"/proc/{node.child.pid}"
    links = [os.readlink(f"{folder}/fd/{number}") for number in os.listdir(f"{folder}/fd")]
    inodes = {match[1] for link in links if (match := re.match(r"socket:\[(\d+)\]", link))}
    assert inodes
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in open(f"{folder}/net/{table}").readlines()[1:]]
        listening = [row for row in rows if row[3] == "0A" and row[9] in inodes]
        assert not listening, "the node has an inbound port"


def test_03_versions_and_missing_capabilities_are_listed(admin, node):
    table = admin.text("nodes", "list", "--wide")
    assert "Needs upgrade for" in table, table
    listed = only(admin.json("nodes", "list"))
    assert listed["version"] and not listed.get("missingCapabilities"), listed


def test_04_targets_are_checked_before_a_scan_and_excluded(admin, node):
    refused = admin.run("scan", "plan", "--node", "barn", "127.92.0.0/28 127.92.0.300")
    assert refused.returncode != 0 and "127.92.0.300" in refused.stderr, refused
    excluded = only(admin.json("scan", "plan", "--node", "barn", f"{SUBNET} !127.92.0.9"))
    whole = only(admin.json("scan", "plan", "--node", "barn", SUBNET))
    assert int(excluded["skipped"]) - int(whole["skipped"]) == 1, (whole, excluded)


def test_05_server_and_node_both_enforce_what_may_be_scanned(admin, node):
    public = admin.run("scan", "start", "--node", "barn", "8.8.8.8")
    assert public.returncode != 0 and "8.8.8.8" in public.stderr, public
    # The server allows this address; the policy of the node does not.
    outside = admin.scan("127.93.0.1")
    assert int(outside["ledger"].get("identified", 0)) == 0, outside
    shown = admin.text("scan", "show", outside["scanId"])
    assert "allow" in shown.lower(), shown


def test_06_progress_has_a_denominator(admin, node):
    words = ["-o", "ndjson", "scan", "start", "--node", "barn", "--port", PORTS[0], SUBNET]
    events = [json.loads(line) for line in admin.text(*words).splitlines()]
    totals = {int(event["progress"]["total"]) for event in events if "progress" in event}
    assert totals == {TARGETS}, events


def test_07_a_scan_is_canceled_and_keeps_its_devices(admin, node):
    slow = only(admin.json("scan", "start", "--no-watch", "--node", "barn", "--rate", "1", "127.92.0.0/24"))
    scan = slow["scanId"]
    eventually("a running scan", lambda: admin.world.scan(scan)["state"] == "SCAN_STATE_RUNNING")
    admin.text("scan", "cancel", scan)
    assert admin.world.finished(scan)["state"] == "SCAN_STATE_CANCELED"


def test_08_the_outcome_of_a_scan_is_a_sentence_with_counts(admin, scanned):
    shown = admin.text("scan", "show", scanned["scanId"])
    assert re.search(r"identified +6\b", shown), shown
    assert re.search(rf"targets +{TARGETS}\b", shown), shown


def test_09_a_schedule_runs_again_and_again(admin, node):
    assert len(admin.json("schedule", "preview", "--when", "30 2 * * *", "--zone", "Europe/Berlin")) > 1
    admin.text("schedule", "create", "--name", "nightly", "--when", "30 2 * * *", "--zone", "Europe/Berlin", "--node", "barn", "--port", PORTS[0], SUBNET)
    scan = admin.text("schedule", "run", "nightly").split()[-1]
    assert admin.world.finished(scan)["state"] == "SCAN_STATE_COMPLETED"
    admin.text("schedule", "pause", "nightly")
    assert only(admin.json("schedule", "list"))["pausedAt"]
    admin.text("schedule", "resume", "nightly")


def test_10_a_device_keeps_its_identity_with_first_and_last_seen(admin, scanned):
    before = {device["deviceId"]: device for device in admin.json("devices", "list")}
    admin.scan(SUBNET)
    after = {device["deviceId"]: device for device in admin.json("devices", "list")}
    assert before.keys() == after.keys() and len(after) == 6
    for device, row in after.items():
        assert row["firstSeen"] == before[device]["firstSeen"]
        assert row["lastSeen"] > before[device]["lastSeen"]


def test_11_devices_are_paired_together(admin, scanned):
    done = admin.run("-o", "json", "devices", "pair-all", "--node", "barn", "--try-defaults", FLEET_DEVICE_PASSWORD="fleetsim")
    results = json.loads(done.stdout)
    assert len(results) == 6, done
    assert all(row["pairingStatus"] for row in results), results


def test_12_a_printer_is_not_probed_at_its_raw_port(admin, node):
    assert 9100 not in only(admin.json("scan", "plan", "--node", "barn", SUBNET)).get("ports", [])
    assert "printers" in admin.text("scan", "plan", "--node", "barn", "--port", "9100", SUBNET)


def test_13_a_viewer_reads_and_the_audit_trail_has_the_refusal(world, admin, scanned):
    admin.text("operators", "create", "--email", "viewer@example.org", "--role", "viewer")
    viewer = Operator(world, world.admin("create-key", "--email", "viewer@example.org").strip())
    assert len(viewer.json("devices", "list")) == 6
    refused = viewer.run("scan", "start", "--node", "barn", SUBNET)
    assert refused.returncode != 0 and "fleetnode:manage" in refused.stderr, refused
    records = admin.json("audit", "list", "--refused")
    assert any("viewer@example.org" in json.dumps(record) for record in records), records
    admin.text("audit", "verify")


def test_14_devices_scans_and_differences_are_exported(admin, scanned):
    again = admin.scan(SUBNET)
    for words in (["devices", "list"], ["scan", "list"], ["scan", "diff", again["scanId"]]):
        rows = list(csv.reader(io.StringIO(admin.text("-o", "csv", *words))))
        assert len(rows) > 1 and len({len(row) for row in rows}) == 1, (words, rows)
        lines = [json.loads(line) for line in admin.text("-o", "ndjson", *words).splitlines()]
        assert lines, words
        assert admin.json(*words), words
    for path in ("devices.csv", "devices.json", "devices.ndjson", "scans.csv", "scans.json", "scans.ndjson"):
        asked = urllib.request.Request(f"{admin.world.url}/api/export/{path}", headers={"authorization": f"Bearer {admin.key}"})
        assert urllib.request.urlopen(asked, timeout=60).read(), path


def test_15_metrics_are_served_and_a_rule_watches_silent_nodes(admin, scanned, metrics):
    assert scrape(metrics)[("fleet_connected_nodes", ())] == 1
    admin.text("alerts", "create-channel", "--name", "hook", "--webhook", "http://127.0.0.1:9/alerts")
    admin.text("alerts", "create-rule", "--name", "silent", "--event", "node.silent", "--threshold", "5", "--channel", "hook")
    assert only(admin.json("alerts", "rules"))["spec"]["event"] == "node.silent"
    admin.text("alerts", "test", "hook")
    assert only(admin.json("alerts", "deliveries"))["event"] == "test"


def test_17_a_plan_warns_of_container_networks(admin, node):
    warned = admin.text("scan", "plan", "--node", "barn", "172.17.0.0/24")
    assert "containers" in warned, warned


NOT_OF_FLEETCTL = {"FetchNodeKey": "a node calls it"}


def test_every_procedure_of_our_api_is_used_by_fleetctl():
    sources = "\n".join(file.read_text() for file in (ROOT / "bins/fleetctl/src").rglob("*.rs"))
    procedures = set()
    for file in (ROOT / "fleet-wire/proto/fleet/v1").glob("*.proto"):
        procedures |= set(re.findall(r"^  rpc (\w+)\(", file.read_text(), re.MULTILINE))
    assert len(procedures) > 70
    used = lambda name: re.search(rf"\.{re.sub('(?<!^)(?=[A-Z])', '_', name).lower()}\(", sources)
    assert {name for name in procedures if not used(name)} == NOT_OF_FLEETCTL.keys()
