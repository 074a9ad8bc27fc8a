"""The metrics of server and node, read by the parser of Prometheus' own client library, and the service discovery."""

import json
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from world import PORTS, World, eventually, free_port


def scrape(port: int) -> dict:
    """The samples of an endpoint by name and labels. The parser refuses what the format does not allow."""
    answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30)
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    assert families and all(family.documentation for family in families), text
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def test_a_scan_is_counted_by_server_and_node_and_its_devices_become_targets(tmp_path):
    server_port, node_port = free_port(), free_port()
    with World(tmp_path / "world", ["--metrics-listen", str(server_port)]) as world:
        before = scrape(server_port)
        assert before[("fleet_database_up", ())] == 1
        assert before[("fleet_connected_nodes", ())] == 0

        devices = world.site("127.91.0.0/28", 6)
        node_id = world.enroll("barn")
        world.run_node("barn", "--metrics-listen", f"127.0.0.1:{node_port}")
        world.until_connected(1)
        ports = [str(port) for port in PORTS]
        request = {"nmap": {"target": "127.91.0.0/28", "ports": ports}}
        scan = world.call("fleet.v1.ScanService/StartScan", requestId="one", fleetNodeId=node_id, request=request)["scan"]["scanId"]
        ended = lambda: world.call("fleet.v1.ScanService/GetScan", scanId=scan)["scan"].get("ledger")
        ledger = eventually("the end of the scan", ended)

        of_server = scrape(server_port)
        assert of_server[("fleet_connected_nodes", ())] == 1
        assert of_server[("fleet_nodes", (("state", "confirmed"),))] == 1
        assert of_server[("fleet_scans_started_total", ())] == 1
        accepted = int(ledger["accepted"])
        assert accepted > 0
        assert of_server[("fleet_devices", ())] == accepted
        assert of_server[("fleet_reported_devices_total", (("outcome", "accepted"),))] == accepted

        of_node = scrape(node_port)
        assert of_node[("fleet_node_connected", ())] == 1
        assert of_node[("fleet_node_halted", ())] == 0
        assert of_node[("fleet_node_commands_total", (("outcome", "succeeded"),))] == 1
        assert of_node[("fleet_node_targets_total", (("outcome", "identified"),))] == int(ledger["identified"])
        assert of_node[("fleet_node_reported_devices_total", (("outcome", "accepted"),))] == accepted

        headers = {"authorization": f"Bearer {world.key}"}
        asked = urllib.request.Request(f"{world.url}/api/prometheus/targets", headers=headers)
        answer = urllib.request.urlopen(asked, timeout=30)
        assert answer.headers["content-type"] == "application/json"
        groups = json.load(answer)
        assert len(groups) == accepted
        assert {group["targets"][0].split(":")[0] for group in groups} <= set(devices)
        assert {group["labels"]["__meta_fleet_node"] for group in groups} == {"barn"}
