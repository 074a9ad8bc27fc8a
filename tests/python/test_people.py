"""The people of an organization, and what they rename and remove, by `fleetctl` and `fleetnode` on real programs.

The page's side is in test_page.py. The tests share one server.
"""

import json
import subprocess
import urllib.error
import urllib.request

import pytest

from test_operator import Operator, only
from world import PORTS, World, program


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("people") / "world") as world:
        yield world


@pytest.fixture(scope="module")
def admin(world) -> Operator:
    return Operator(world, world.key)


def listed(admin: Operator, *words: str) -> dict[str, dict]:
    """The rows of a list by e-mail, name or id."""
    rows = admin.json(*words)
    return {row.get("name") or row.get("email") or row["sessionId"]: row for row in rows}


def sign_in(world: World, **credential: str) -> str | None:
    """The cookie of a new browser session; None if the sign-in is refused."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{world.url}/api/session", json.dumps(credential).encode(), headers)
    try:
        return urllib.request.urlopen(request, timeout=30).headers["set-cookie"].split(";")[0]
    except urllib.error.HTTPError:
        return None


def is_open(world: World, cookie: str) -> bool:
    request = urllib.request.Request(f"{world.url}/api/session", headers={"cookie": cookie})
    try:
        return urllib.request.urlopen(request, timeout=30).status == 200
    except urllib.error.HTTPError:
        return False


def test_operators_are_created_changed_and_removed(world, admin):
    once = admin.text("operators", "create", "--email", "bob@example.org", "--role", "viewer").strip()
    bob = listed(admin, "operators", "list")["bob@example.org"]
    assert bob["role"] == "viewer" and bob["hasPassword"]
    admin.text("operators", "set-role", bob["operatorId"], "operator")
    assert listed(admin, "operators", "list")["bob@example.org"]["role"] == "operator"
    again = admin.text("operators", "reset-password", bob["operatorId"]).strip()
    own = "correct horse battery staple"
    assert sign_in(world, email="bob@example.org", password=once, newPassword=own) is None
    cookie = sign_in(world, email="bob@example.org", password=again, newPassword=own)
    assert is_open(world, cookie)
    admin.text("operators", "remove", bob["operatorId"], "--yes")
    assert "bob@example.org" not in listed(admin, "operators", "list")
    assert not is_open(world, cookie)
    refused = admin.run("operators", "unlink", listed(admin, "operators", "list")["lab@example.org"]["operatorId"])
    assert refused.returncode != 0 and "linked to no account" in refused.stderr, refused


def test_keys_and_sessions_of_all_operators_are_listed_and_ended(world, admin):
    admin.text("operators", "create", "--email", "carl@example.org", "--role", "viewer")
    carl = listed(admin, "operators", "list")["carl@example.org"]["operatorId"]
    key = admin.text("keys", "create", "--name", "nightly", "--operator", carl).strip()
    as_carl = Operator(world, key)
    assert only(as_carl.json("whoami"))["email"] == "carl@example.org"
    row = listed(admin, "keys", "list", "--all")["nightly"]
    assert row["email"] == "carl@example.org"
    assert "nightly" not in listed(admin, "keys", "list"), "the administrator's own keys"
    assert as_carl.run("keys", "list", "--all").returncode == 77

    cookie = sign_in(world, key=key)
    session = next(row for row in admin.json("sessions", "list", "--all") if row["email"] == "carl@example.org")
    admin.text("sessions", "end", session["sessionId"])
    assert not is_open(world, cookie)
    cookie = sign_in(world, key=key)
    admin.text("keys", "revoke", row["keyId"])
    assert not is_open(world, cookie) and as_carl.run("whoami").returncode != 0


def test_a_node_is_renamed_and_unenrolled(world, admin):
    node = world.enroll("barn")
    admin.text("nodes", "rename", "barn", "north barn")
    assert listed(admin, "nodes", "list")["north barn"]["fleetNodeId"] == str(node)
    state = world.folder / "barn"
    unenroll = [program("fleetnode"), "unenroll", "--state-dir", state]
    asked = subprocess.run(unenroll, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert asked.returncode == 64 and "--yes" in asked.stderr, asked
    done = subprocess.run([*unenroll, "--yes"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and f"fleetctl nodes revoke {node}" in done.stdout, done
    again = subprocess.run([*unenroll, "--yes"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert again.returncode == 0 and "not enrolled" in again.stdout, again
    # The state of the node has no key any more, and the operator revokes the node.
    assert subprocess.run([program("fleetnode"), "run", "--state-dir", state], capture_output=True, timeout=60).returncode != 0
    admin.text("nodes", "revoke", "north barn", "--yes")
    assert "north barn" in listed(admin, "nodes", "list", "--revoked")
    assert "north barn" not in listed(admin, "nodes", "list")


def test_a_device_is_deleted_with_a_reason(world, admin):
    name = "barn-2"
    world.enroll(name)
    world.run_node(name, "--allow-network", "127.93.0.0/24")
    world.until_connected(1)
    world.site("127.93.0.0/28", 3)
    started = admin.json("scan", "start", "--no-watch", "--node", name, "--port", ",".join(map(str, PORTS)), "127.93.0.0/28")
    world.finished(only(started)["scanId"])
    devices = admin.json("devices", "list")
    assert len(devices) == 3
    without = admin.run("devices", "delete", devices[0]["deviceId"], "--yes")
    assert without.returncode == 64 and "reason" in without.stderr, without
    admin.text("devices", "delete", devices[0]["deviceId"], "--reason", "sold", "--yes")
    assert {row["deviceId"] for row in admin.json("devices", "list")} == {row["deviceId"] for row in devices[1:]}
    record = admin.world.call("fleet.v1.AuditService/ListAudit", action="device.delete")["records"][0]
    assert "sold" in record["subject"], record
