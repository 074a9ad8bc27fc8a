"""Scans by an upstream-like node on a running server: the command, the accepted reports, and the operator's view.

Read the fixture `scan` first: one whole conversation, held once over gRPC and once over a Connect JSON stream.
"""

import os
import uuid
from types import SimpleNamespace

import pytest
from conftest import unique_name
from refusals import refused

from fleetwire import node as upstream
from fleetwire.connect import ConnectError
from fleetwire.events import read_events
from fleetwire.node import HELLO, auto_identifier, decode_command, device

TRANSPORTS = {"grpc": "10.77.1", "connect-json": "10.77.2"}
"""How the operator watches, and the first three octets of the addresses that its scan asks for."""

LEDGER_PARTS = ("identified", "owned_elsewhere", "unidentified", "refused", "silent", "skipped", "not_reached", "unknown")


def broken_rows(address: str) -> list:
    """Devices that each break one bound of a report's element, all inside the scope."""
    return [
        device("", address),
        device("i" * 256, address),
        device("serial:b3", "10.77.001.1"),
        device("serial:b4", address, port="0"),
        device("serial:b5", address, port="04028"),
        device("serial:b6", address, url_scheme="h" * 33),
        device("serial:b7", address, url_scheme="1http"),
        device("serial:b8", address, driver_name=""),
        device("serial:b9", address, driver_name="d" * 51),
        device("serial:b10", address, model="m" * 256),
        device("serial:b11", address, model="bell\a"),
    ]


def unique_mac() -> str:
    """A MAC in the canonical form: locally administered, not multicast."""
    return "02:" + ":".join(f"{octet:02X}" for octet in uuid.uuid4().bytes[:5])


@pytest.fixture(scope="module", params=TRANSPORTS)
def scan(request, node, operator) -> SimpleNamespace:
    """One scan of three addresses and two ports, with every invalid message of a node in between."""
    net, seen = TRANSPORTS[request.param], SimpleNamespace(node=node, operator=operator)
    seen.addresses, seen.ports = [f"{net}.{host}" for host in (11, 12, 13)], ["80", "4028"]
    by_mac = device(f"mac:{unique_mac()}", seen.addresses[0])
    odd_mac = unique_mac()
    by_odd_mac = device(f"mac:{odd_mac.lower().replace(':', '-')}", seen.addresses[1], port="80", driver_name="asicrs", firmware_version="")
    by_nothing = device("auto:0000000000000000", seen.addresses[2])
    seen.by_mac = by_mac
    seen.identifiers = [
        by_mac.device_identifier,
        f"mac:{odd_mac}",
        auto_identifier(node.node_id, seen.addresses[2], "4028", by_nothing.driver_name, by_nothing.model),
    ]
    outside = device("serial:outside", f"{net}.99")
    outside_port = device("serial:outside-port", seen.addresses[1], port="8080")

    with node.open_stream() as stream:
        stream.send(hello=HELLO())
        stream.acknowledge(str(uuid.uuid4()), code="OK", succeeded=True)
        stream.acknowledge("c" * 129, code="OK", succeeded=True)
        targets = {"ipList": {"ipAddresses": seen.addresses, "ports": seen.ports}}
        watch = operator.discover(request.param, node.node_id, targets)
        seen.command = stream.next("command")
        command_id = seen.command.command_id
        stream.send(ack={"command_id": command_id, "code": 5, "error_message": "e" * 4097})

        seen.second = operator.discover(request.param, node.node_id, targets).outcome()
        seen.first_report = node.report(command_id, by_mac, outside)
        seen.live = [d.device_identifier for d in watch.wait_for_devices(1)]
        seen.repeated_report = node.report(command_id, by_mac, outside)
        seen.broken = broken_rows(seen.addresses[1])
        seen.broken_report = node.report(command_id, by_mac, *seen.broken)
        seen.wrong_port_report = node.report(command_id, outside_port)
        seen.too_many = refusal_of(node, command_id, *([by_mac] * 1025))
        seen.last_report = node.report(command_id, by_odd_mac, by_nothing)
        watch.wait_for_devices(3)

        stream.acknowledge(command_id, code="OK", succeeded=True)
        seen.outcome = watch.outcome()
        seen.late_report = refusal_of(node, command_id, by_mac)
        seen.stream_lived = stream.alive
        seen.kinds = list(stream.kinds)
    seen.scan_id, seen.devices, seen.errors = watch.scan_id, watch.devices, watch.errors
    return seen


def refusal_of(node, command_id: str, *devices) -> ConnectError | tuple[int, int]:
    """Returns the refusal of a report, or its counts if it was accepted."""
    try:
        return node.report(command_id, *devices)
    except ConnectError as refusal:
        return refusal


def test_the_node_gets_exactly_the_requested_targets(scan):
    command = decode_command(scan.command)
    assert command.WhichOneof("command") == "discover"
    assert command.discover.WhichOneof("mode") == "ip_list"
    assert sorted(command.discover.ip_list.ip_addresses) == scan.addresses
    assert sorted(command.discover.ip_list.ports) == sorted(scan.ports)


def test_the_command_id_is_a_uuid_of_version_7(scan):
    assert uuid.UUID(scan.command.command_id).version == 7


def test_the_scan_id_is_in_a_header(scan):
    assert scan.scan_id


def test_a_device_outside_the_scope_is_rejected_and_its_neighbor_accepted(scan):
    assert scan.first_report == (1, 1)
    assert scan.wrong_port_report == (0, 1)


def test_broken_elements_are_rejected_by_themselves(scan):
    assert scan.broken_report == (1, len(scan.broken))


def test_a_repeated_report_is_answered_as_the_first_time(scan):
    assert scan.repeated_report == scan.first_report


def test_a_report_of_too_many_devices_fails_as_a_whole(scan):
    assert (scan.too_many.code, scan.too_many.http_status) == ("invalid_argument", 400)
    assert "devices" in scan.too_many.message


def test_a_device_reaches_the_operator_before_the_scan_ends(scan):
    assert scan.live == [scan.by_mac.device_identifier]


def test_the_operator_gets_each_accepted_device_once_under_its_canonical_identifier(scan):
    assert [d.device_identifier for d in scan.devices] == scan.identifiers


def test_the_operator_gets_the_endpoint_and_texts_that_were_reported(scan):
    first = scan.devices[0]
    for field in ("ip_address", "port", "url_scheme", "driver_name", "model", "manufacturer", "firmware_version"):
        assert getattr(first, field) == getattr(scan.by_mac, field), field


def test_an_ok_ack_completes_the_scan(scan):
    assert scan.outcome == ("ok", "")


def test_a_second_scan_of_a_busy_node_is_refused_at_once(scan):
    code, message = scan.second
    assert code == "resource_exhausted"
    assert "busy" in message.lower()


def test_a_report_after_the_ack_is_refused(scan):
    assert (scan.late_report.code, scan.late_report.http_status) == ("failed_precondition", 400)


def test_late_hellos_and_bad_acks_are_dropped_and_the_stream_lives(scan):
    assert scan.stream_lived
    assert scan.kinds.count("command") == 1
    assert set(scan.kinds) == {"accepted", "command"}


def test_the_event_stream_tells_the_same_devices(scan):
    events = list(read_events(scan.operator.client, scan.scan_id))
    devices = [event.data for event in events if event.type == "device"]
    assert [d["identifier"] for d in devices] == scan.identifiers
    assert (devices[0]["ip"], str(devices[0]["port"])) == (scan.by_mac.ip_address, scan.by_mac.port)
    assert {"seq", "driver", "model", "manufacturer", "firmware", "elapsed_ms"} <= devices[0].keys()
    assert {event.type for event in events} <= {"device", "progress", "warning", "ledger"}


def test_the_ledger_adds_up_and_is_the_last_event(scan):
    *_, last = read_events(scan.operator.client, scan.scan_id)
    ledger = last.data
    assert last.type == "ledger"
    assert ledger["targets"] == len(scan.addresses) == sum(ledger[part] for part in LEDGER_PARTS)
    assert ledger["identified"] == len(scan.identifiers)
    assert ledger["reported"] == ledger["accepted"] + ledger["rejected"]
    assert ledger["accepted"] == len(scan.identifiers)


def test_the_event_stream_resumes_after_the_last_event_id(scan):
    events = list(read_events(scan.operator.client, scan.scan_id))
    cursors = [int(event.id) for event in events if event.id is not None]
    assert cursors == sorted(set(cursors))
    first_device = next(event for event in events if event.type == "device")
    resumed = list(read_events(scan.operator.client, scan.scan_id, last_event_id=first_device.id))
    assert durable(resumed) == durable(events[events.index(first_device) + 1 :])


def durable(events) -> list[tuple[str, str]]:
    """Returns the events that have a sequence number, as (id, type)."""
    return [(event.id, event.type) for event in events if event.id is not None]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_list_of_4097_addresses_is_refused_by_name(operator, node, transport):
    addresses = [f"10.77.{n // 250}.{n % 250 + 1}" for n in range(4097)]
    code, message = operator.discover(transport, node.node_id, {"ipList": {"ipAddresses": addresses, "ports": ["80"]}}).outcome()
    assert code == "invalid_argument"
    assert "ip_addresses" in message


@pytest.mark.parametrize("address", ["8.8.8.8", "169.254.169.254", "100.64.0.1", "010.8.8.8"])
def test_a_target_that_is_not_private_is_refused_by_name(operator, node, address):
    code, message = operator.discover("grpc", node.node_id, {"ipList": {"ipAddresses": ["10.77.3.1", address], "ports": ["80"]}}).outcome()
    assert code == "invalid_argument"
    assert address in message


@pytest.mark.parametrize("port", ["80/tcp", "0", "70000", ""])
def test_a_port_that_is_not_one_is_refused(operator, node, port):
    code, _ = operator.discover("grpc", node.node_id, {"ipList": {"ipAddresses": ["10.77.3.1"], "ports": [port]}}).outcome()
    assert code == "invalid_argument"


@pytest.mark.parametrize(
    ("ack", "code", "reason"),
    [
        ({"code": "OK", "succeeded": False}, "internal", ""),
        ({"code": "BUSY"}, "resource_exhausted", "busy"),
        ({"code": "BAD_REQUEST"}, "invalid_argument", ""),
        ({"code": "AGENT_INCAPABLE"}, "failed_precondition", ""),
        ({"code": "SCAN_FAILED"}, "internal", "the lamp is off"),
        ({"code": "REPORT_FAILED"}, "internal", "stored"),
        ({"code": "UNIMPLEMENTED"}, "internal", "the lamp is off"),
        ({"code": 99}, "internal", "the lamp is off"),
    ],
    ids=lambda value: str(value.get("code")) if isinstance(value, dict) else "",
)
def test_the_nodes_answer_becomes_the_operators_error(operator, node, stream, ack, code, reason):
    watch = operator.discover("grpc", node.node_id, {"ipList": {"ipAddresses": ["10.77.3.1"], "ports": ["80"]}})
    stream.acknowledge(stream.next("command").command_id, error_message="the lamp is off", **ack)
    outcome, message = watch.outcome()
    assert outcome == code
    assert reason in message.lower()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_partial_scan_ends_ok_and_says_why(operator, node, stream, transport):
    watch = operator.discover(transport, node.node_id, {"ipList": {"ipAddresses": ["10.77.3.1"], "ports": ["80"]}})
    stream.acknowledge(stream.next("command").command_id, code="PARTIAL", succeeded=True, error_message="the lamp is off")
    assert watch.outcome()[0] == "ok"
    assert "the lamp is off" in watch.errors[-1]


def test_a_target_scan_reaches_a_upstream_node_as_a_target(operator, node, stream):
    watch = operator.discover("grpc", node.node_id, {"nmap": {"target": "10.77.4.0/30", "ports": ["80"]}})
    command = stream.next("command")
    discover = decode_command(command).discover
    assert discover.WhichOneof("mode") == "nmap"
    assert (discover.nmap.target, list(discover.nmap.ports)) == ("10.77.4.0/30", ["80"])
    stream.acknowledge(command.command_id, code="OK", succeeded=True)
    assert watch.outcome()[0] == "ok"


def test_a_whole_range_reaches_an_upstream_node_as_a_list(operator, node, stream):
    watch = operator.discover("grpc", node.node_id, {"ipRange": {"startIp": "10.77.4.0", "endIp": "10.77.4.4", "ports": ["80"]}})
    command = stream.next("command")
    discover = decode_command(command).discover
    assert discover.WhichOneof("mode") == "ip_list"
    assert sorted(discover.ip_list.ip_addresses) == [f"10.77.4.{host}" for host in range(5)]
    stream.acknowledge(command.command_id, code="OK", succeeded=True)
    assert watch.outcome()[0] == "ok"


def test_mdns_is_not_asked_of_an_upstream_node(operator, node, stream):
    watch = operator.discover("grpc", node.node_id, {"mdns": {"serviceType": "_http._tcp", "domain": "local", "timeoutSeconds": 1}})
    assert watch.outcome()[0] == "failed_precondition"
    assert "command" not in stream.kinds


def test_a_refreshed_session_keeps_stream_and_scan(operator, node, stream):
    watch = operator.discover("grpc", node.node_id, {"ipList": {"ipAddresses": ["10.77.5.1"], "ports": ["4028"]}})
    command = stream.next("command")
    former = node.session_token
    node.authenticate()
    assert node.session_token != former
    found = device(f"serial:{unique_name('rotated')}", "10.77.5.1")
    assert node.report(command.command_id, found) == (1, 0)
    stream.acknowledge(command.command_id, code="OK", succeeded=True)
    assert watch.outcome()[0] == "ok"
    assert [d.device_identifier for d in watch.devices] == [found.device_identifier]


def test_a_dropped_stream_has_its_command_issued_again_under_a_new_id(operator, node):
    first = node.open_stream()
    watch = operator.discover("grpc", node.node_id, {"ipList": {"ipAddresses": ["10.77.6.1", "10.77.6.2"], "ports": ["4028"]}})
    dead = first.next("command")
    found = device(f"serial:{unique_name('dropped')}", "10.77.6.1")
    assert node.report(dead.command_id, found) == (1, 0)
    first.drop()
    with node.open_stream() as second:
        again = second.next("command")
        assert again.command_id != dead.command_id
        assert decode_command(again) == decode_command(dead)
        with refused("failed_precondition"):
            node.report(dead.command_id, found)
        assert node.report(again.command_id, found) == (1, 0)
        second.acknowledge(again.command_id, code="OK", succeeded=True)
        assert watch.outcome()[0] == "ok"
    assert {d.device_identifier for d in watch.devices} == {found.device_identifier}


def test_devices_that_really_answer_are_reported(operator, node, stream):
    endpoints = os.environ.get("FLEET_SIM_DEVICE") or pytest.skip("FLEET_SIM_DEVICE is not set: no device to dial")
    wanted = [(ip.strip("[]"), port) for ip, _, port in (text.strip().rpartition(":") for text in endpoints.split(","))]
    targets = {"ipAddresses": sorted({ip for ip, _ in wanted}), "ports": sorted({port for _, port in wanted})}
    watch = operator.discover("grpc", node.node_id, {"ipList": targets})
    command = stream.next("command")
    found = [device("auto:0000000000000000", ip, port=port) for ip, port in wanted if upstream.answers(ip, port)]
    assert len(found) == len(wanted), "a device of FLEET_SIM_DEVICE does not answer"
    assert node.report(command.command_id, *found) == (len(found), 0)
    stream.acknowledge(command.command_id, code="OK", succeeded=True)
    assert watch.outcome()[0] == "ok"
    assert {(d.ip_address, d.port) for d in watch.devices} == set(wanted)
