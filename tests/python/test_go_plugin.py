"""A driver in Go on hashicorp/go-plugin, as upstream's drivers are, hosted by a node: the devices that it finds."""

import shutil
import socketserver
import threading

import pytest

import peers
from world import World, eventually

ADDRESS, PORT = "127.0.0.85", 4478
DEVICE = b"GOPHER G1 SN-85 02:00:5E:00:00:85\n"


class Answer(socketserver.StreamRequestHandler):
    """A device of the driver."""

    def handle(self) -> None:
        if self.rfile.readline().strip() == b"WHO":
            self.wfile.write(DEVICE)


class Device(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


@pytest.fixture
def device():
    """The address of a device that only the driver knows."""
    with Device((ADDRESS, PORT), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield ADDRESS
        server.shutdown()


def test_a_go_plugin_driver_finds_its_device(tmp_path, device):
    driver = peers.go("driver")
    plugins = tmp_path / "plugins"
    plugins.mkdir(mode=0o755)
    shutil.copy(driver, plugins / "gopher")
    with World(tmp_path / "world") as world:
        node_id = world.enroll("barn")
        node = world.run_node("barn", "--plugin-dir", plugins)
        world.until_connected(1)
        eventually("the plugin", lambda: node.logged("a plugin is serving"))
        # Without ports in the request, the node's default ports include the driver's.
        scan_id = world.start_scan(node_id, device, request={"nmap": {"target": device}})
        scan = world.finished(scan_id)
        assert scan["state"] == "SCAN_STATE_COMPLETED", (scan, node.tail())
        (found,) = world.call("fleet.v1.DeviceService/ListDevices")["devices"]
        assert found["identifier"] == "mac:02:00:5E:00:00:85", found
        assert (found["driver"], found["model"], found["manufacturer"]) == ("gopher", "G1", "Gopher Works"), found


def test_a_driver_is_asked_about_silent_addresses_only_if_the_node_allows_it(tmp_path):
    driver = peers.go("driver")
    plugins = tmp_path / "plugins"
    plugins.mkdir(mode=0o755)
    shutil.copy(driver, plugins / "gopher")
    with World(tmp_path / "world") as world:
        for count, (name, flags, devices) in enumerate([("silent", [], []), ("asking", ["--ask-silent", "gopher"], ["127.0.0.86"])], 1):
            node_id = world.enroll(name)
            node = world.run_node(name, "--plugin-dir", plugins, *flags)
            world.until_connected(count)
            eventually("the plugin", lambda: node.logged("a plugin is serving"))
            # The server sends the addresses of a network as a list, too: that one is not explicit.
            scan_id = world.start_scan(node_id, "", request={"nmap": {"target": "127.0.0.84/30"}})
            assert world.finished(scan_id)["state"] == "SCAN_STATE_COMPLETED", node.tail()
            assert world.call("fleet.v1.DeviceService/ListDevices").get("devices", []) == [], node.tail()
            scan_id = world.start_scan(node_id, "", request={"ip_list": {"ip_addresses": ["127.0.0.86", "127.0.0.87"]}})
            scan = world.finished(scan_id)
            assert scan["state"] == "SCAN_STATE_COMPLETED", (scan, node.tail())
            found = world.call("fleet.v1.DeviceService/ListDevices").get("devices", [])
            assert [device["ip"] for device in found] == devices, (name, found)
