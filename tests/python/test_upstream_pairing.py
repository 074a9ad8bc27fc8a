"""Pairing through an upstream-like node on a running server: the command, the accepted results, and the operator's view."""

import threading
from types import SimpleNamespace

import pytest

from fleetwire import descriptors
from fleetwire.connect import ConnectError
from fleetwire.node import GATEWAY, decode_command, device
from fleetwire.operator import ADMIN
from test_upstream_scan import unique_mac

PAIR = descriptors.method(ADMIN, "PairDiscoveredDevicesOnFleetNode")
BIND = descriptors.method(ADMIN, "PairDeviceToFleetNode")
LIST_FOUND = descriptors.method(ADMIN, "ListFleetNodeDiscoveredDevices")
REPORT_PAIRED = descriptors.method(GATEWAY, "ReportPairedDevices")

PASSWORD = "canary of the upstream node"
PAIRED, AUTH_NEEDED = 1, 2


@pytest.fixture(scope="module")
def pairing(node, operator) -> SimpleNamespace:
    """Three devices are found and paired; the node reports results for two of them."""
    seen = SimpleNamespace()
    addresses = [f"10.77.9.{host}" for host in (1, 2, 3)]
    rows = [device(f"mac:{unique_mac()}", address) for address in addresses]
    seen.identifiers = [row.device_identifier for row in rows]
    with node.open_stream() as stream:
        watch = operator.discover("grpc", node.node_id, {"ipList": {"ipAddresses": addresses, "ports": ["4028"]}})
        scan = stream.next("command")
        node.report(scan.command_id, *rows)
        stream.acknowledge(scan.command_id, code="OK", succeeded=True)
        watch.outcome()

        seen.results = []
        request = {
            "fleetNodeId": str(node.node_id),
            "deviceIdentifiers": seen.identifiers,
            "credentials": {"username": "root", "password": PASSWORD},
        }
        reader = threading.Thread(target=read, args=(operator, request, seen), daemon=True)
        reader.start()
        command = stream.next("command")
        seen.command = decode_command(command)
        results = [
            {"device_identifier": seen.identifiers[0], "outcome": PAIRED, "default_password_active": True},
            {"device_identifier": seen.identifiers[1], "outcome": AUTH_NEEDED},
            {"device_identifier": "serial:nobody-asked", "outcome": PAIRED},
        ]
        answer = node.session().unary(REPORT_PAIRED, command_id=command.command_id, results=results)
        seen.counts = (answer.accepted_count, answer.rejected_count)
        stream.acknowledge(command.command_id, code="OK", succeeded=True)
        reader.join(30)
        try:
            node.session().unary(REPORT_PAIRED, command_id=command.command_id, results=results)
            seen.late = None
        except ConnectError as refusal:
            seen.late = refusal.code
    listed = operator.client.unary_json(LIST_FOUND, {"fleetNodeId": str(node.node_id)})["devices"]
    seen.statuses = {row["deviceIdentifier"]: row["pairingStatus"] for row in listed}
    return seen


def read(operator, request: dict, seen: SimpleNamespace) -> None:
    """Collects the results of a pairing until its stream ends."""
    for answer in operator.client.server_stream_json(PAIR, request):
        seen.results.extend((result.device_identifier, result.pairing_status) for result in answer.results)


def test_the_node_is_sent_targets_and_credentials(pairing):
    assert pairing.command.WhichOneof("command") == "pair"
    assert sorted(target.device_identifier for target in pairing.command.pair.targets) == sorted(pairing.identifiers)
    assert pairing.command.pair.credentials.password == PASSWORD


def test_only_requested_results_are_accepted(pairing):
    assert pairing.counts == (2, 1)
    assert pairing.late == "failed_precondition"


def test_the_operator_sees_every_device_once(pairing):
    default, needed, failed = (
        descriptors.enum_value("fleetmanagement.v1.PairingStatus", f"PAIRING_STATUS_{name}") for name in ("DEFAULT_PASSWORD", "AUTHENTICATION_NEEDED", "FAILED")
    )
    assert sorted(pairing.results) == sorted(zip(pairing.identifiers, (default, needed, failed), strict=True))


def test_the_list_has_the_statuses_as_words(pairing):
    assert [pairing.statuses[name] for name in pairing.identifiers] == ["DEFAULT_PASSWORD", "AUTHENTICATION_NEEDED", "FAILED"]


def test_a_device_that_is_not_there_cannot_be_bound(operator, node):
    with pytest.raises(ConnectError) as refused:
        operator.client.unary_json(BIND, {"fleetNodeId": str(node.node_id), "deviceId": "999999999"})
    assert refused.value.code == "not_found"
