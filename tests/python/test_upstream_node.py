"""An upstream-like node on a running server: enrollment, handshake, session, control stream, revocation.

Scans have a file of their own, `test_upstream_scan.py`.
"""

import json
import re
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from conftest import unique_name
from refusals import refused

from fleetwire import descriptors
from fleetwire.connect import ConnectClient
from fleetwire.control import ControlStream
from fleetwire.node import CHALLENGE_TAG, COMPLETE, HEARTBEAT, HELLO, Node, device, fingerprint
from fleetwire.operator import CREATE_CODE, LIST_NODES

LOW_ORDER_POINT = bytes(32)
"""The X25519 point zero: every shared secret with it is zero (RFC 7748, section 6.1)."""

STATUS_PENDING = descriptors.enum_value("fleetnodegateway.v1.EnrollmentStatus", "ENROLLMENT_STATUS_PENDING")
REPLACED = descriptors.enum_value("fleetnodegateway.v1.GoodbyeReason", "GOODBYE_REASON_REPLACED")


@pytest.fixture(scope="module")
def invitation(operator) -> dict:
    """A second code, which must stay usable after refused registrations."""
    return operator.create_code()


@pytest.fixture(scope="module")
def awaiting(server_url, enrolled, invitation) -> Node:
    """A second node, registered and not confirmed, after three registrations that the same code survived.

    Its name has 255 code points and twice as many bytes.
    """
    newcomer = Node(server_url, unique_name("ä").ljust(255, "ö"))
    with refused("failed_precondition"):
        newcomer.register(invitation["code"], name=enrolled.node.name)
    with refused("invalid_argument", "failed_precondition"):
        newcomer.register(invitation["code"], encryption_pubkey=LOW_ORDER_POINT)
    with refused("invalid_argument", "failed_precondition", "unauthenticated"):
        newcomer.register(invitation["code"], identity_proof=bytes(64))
    newcomer.register(invitation["code"])
    return newcomer


# Enrollment


def test_a_code_shows_its_kind_and_expires_after_an_hour(invitation):
    code = invitation["code"]
    assert code.startswith("fnc_")
    assert 20 <= len(code) <= 512
    remaining = instant(invitation["expiresAt"]) - datetime.now(UTC)
    assert timedelta(minutes=55) < remaining < timedelta(minutes=65)


def test_register_answers_pending_and_the_fingerprint_the_node_computes_itself(enrolled):
    assert enrolled.registered.fleet_node_id > 0
    assert enrolled.registered.enrollment_status == STATUS_PENDING
    assert enrolled.registered.identity_fingerprint == fingerprint(enrolled.node.keys.identity_pubkey)


def test_confirm_answers_a_node_key(enrolled):
    assert enrolled.confirmed["apiKey"].startswith("fnk_")
    assert 20 <= len(enrolled.confirmed["apiKey"]) <= 512


def test_the_list_shows_the_confirmed_node(enrolled, operator):
    listed = operator.nodes()[enrolled.node.node_id]
    assert listed["name"] == enrolled.node.name
    assert listed["enrollmentStatus"] == "FLEET_NODE_ENROLLMENT_STATUS_CONFIRMED"
    assert listed["identityFingerprint"] == fingerprint(enrolled.node.keys.identity_pubkey)
    assert instant(listed["createdAt"]) <= datetime.now(UTC) + timedelta(minutes=5)


def test_used_and_unknown_codes_answer_alike(enrolled, server_url):
    outsider = Node(server_url, unique_name("outsider"))
    with refused("unauthenticated") as used:
        outsider.register(enrolled.invitation["code"])
    with refused("unauthenticated") as unknown:
        outsider.register("fnc_" + "0" * 50)
    assert used.value.message == unknown.value.message


@pytest.mark.parametrize(("field", "value"), [("name", "n" * 256), ("identity_pubkey", bytes(31))])
def test_a_broken_bound_names_its_field(invitation, server_url, field, value):
    with refused("invalid_argument", naming=field):
        Node(server_url, unique_name("bounds")).register(invitation["code"], **{field: value})


def test_a_refusal_is_connect_json(server_url):
    body = COMPLETE.request(challenge=bytes(15), signature=bytes(64)).SerializeToString()
    status, headers, answer = ConnectClient(server_url).raw_unary(COMPLETE.path, "application/proto", body)
    assert (status, headers.get_content_type()) == (400, "application/json")
    refusal = json.loads(answer)
    assert refusal["code"] == "invalid_argument"
    assert "challenge" in refusal["message"]


def test_an_awaiting_node_is_listed_with_its_invitation(awaiting, invitation, operator):
    listed = operator.nodes()[awaiting.node_id]
    assert listed["name"] == awaiting.name
    assert listed["enrollmentStatus"] == "FLEET_NODE_ENROLLMENT_STATUS_AWAITING_CONFIRMATION"
    assert listed["pendingEnrollmentId"] == invitation["pendingEnrollmentId"]


def test_an_awaiting_node_can_not_be_asked_to_scan(awaiting, operator):
    watch = operator.discover("connect-json", awaiting.node_id, {"ipList": {"ipAddresses": ["10.77.9.1"], "ports": ["80"]}})
    assert watch.outcome()[0] == "failed_precondition"


def test_revoking_an_awaiting_node_needs_its_invitation(awaiting, operator):
    with refused("invalid_argument", naming="pending_enrollment_id"):
        operator.revoke(awaiting.node_id)


def test_confirm_needs_the_matching_invitation(awaiting, invitation, operator):
    with refused("failed_precondition"):
        operator.confirm(awaiting.node_id, int(invitation["pendingEnrollmentId"]) + 1_000_000)


def test_unknown_nodes_are_not_found(invitation, operator):
    unknown = 9_000_000_000
    with refused("not_found"):
        operator.confirm(unknown, int(invitation["pendingEnrollmentId"]))
    with refused("not_found"):
        operator.revoke(unknown)
    watch = operator.discover("grpc", unknown, {"ipList": {"ipAddresses": ["10.77.9.1"], "ports": ["80"]}})
    assert watch.outcome()[0] == "not_found"


# Handshake and session


def test_a_challenge_is_the_tag_and_32_random_bytes(node):
    first, second = node.begin().challenge, node.begin().challenge
    assert len(CHALLENGE_TAG) == 16
    assert first.startswith(CHALLENGE_TAG) and second.startswith(CHALLENGE_TAG)
    assert len(first) == len(second) == 48
    assert 16 <= len(first) <= 64
    assert first != second


def test_a_session_lives_a_day_by_the_servers_clock(enrolled, node):
    now = node.heartbeat().received_at.ToDatetime(UTC)
    remaining = enrolled.session.expires_at.ToDatetime(UTC) - now
    assert timedelta(hours=23, minutes=30) < remaining <= timedelta(hours=24)


def test_a_challenge_is_consumed_by_a_wrong_answer(node):
    challenge = node.begin().challenge
    with refused("unauthenticated"):
        node.complete(challenge, signature=node.keys.identity.sign(b"something else"))
    with refused("unauthenticated"):
        node.complete(challenge)


def test_the_newest_challenge_replaces_the_older(node):
    older, newer = node.begin().challenge, node.begin().challenge
    with refused("unauthenticated"):
        node.complete(older)
    assert older != newer


def test_a_wrong_node_key_begins_nothing(node, server_url):
    impostor = Node(server_url, node.name)
    impostor.keys, impostor.api_key = node.keys, "fnk_" + "0" * 50
    with refused("unauthenticated"):
        impostor.begin()


def test_a_heartbeat_moves_last_seen(node, operator):
    received = node.heartbeat().received_at.ToDatetime(UTC)
    assert instant(operator.nodes()[node.node_id]["lastSeenAt"]) >= received.replace(microsecond=0)


def test_a_heartbeat_without_its_time_is_refused(node):
    with refused("invalid_argument", naming="sent_at"):
        node.session().unary(HEARTBEAT)


@pytest.mark.parametrize("token", [None, "not-a-token", "x" * 600], ids=["none", "wrong", "long"])
def test_a_wrong_bearer_opens_no_node_procedure(server_url, token):
    request = HEARTBEAT.request()
    request.sent_at.GetCurrentTime()
    with refused("unauthenticated"):
        ConnectClient(server_url, token).unary(HEARTBEAT, request)


def test_an_operator_key_opens_no_node_procedure(node, operator):
    with refused("unauthenticated", "permission_denied"):
        node.heartbeat(token=operator.key)


def test_a_session_token_opens_no_operator_procedure(node):
    for method in (LIST_NODES, CREATE_CODE):
        with refused("unauthenticated", "permission_denied"):
            node.session().unary_json(method)


def test_no_bearer_opens_no_operator_procedure(server_url):
    with refused("unauthenticated"):
        ConnectClient(server_url).unary_json(LIST_NODES)


def test_upstream_telemetry_is_unimplemented(node):
    path = HEARTBEAT.path.replace("UploadHeartbeat", "UploadTelemetry")
    status, _, answer = node.session().raw_unary(path, "application/proto", b"")
    assert (status, json.loads(answer)["code"]) == (501, "unimplemented")


# Control stream


def test_the_stream_is_accepted_with_the_servers_time(stream):
    (accepted,) = stream.accepted
    assert abs(accepted.server_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=5)
    assert accepted.version
    assert accepted.epoch > 0


@pytest.mark.parametrize("token", [None, "not-a-token"], ids=["none", "wrong"])
def test_a_wrong_bearer_opens_no_stream(server_url, token):
    with ControlStream(server_url, token) as stream:
        stream.send(hello=HELLO())
        assert stream.ended()[0] == grpc.StatusCode.UNAUTHENTICATED


def test_an_operator_key_opens_no_stream(server_url, operator):
    with ControlStream(server_url, operator.key) as stream:
        stream.send(hello=HELLO())
        assert stream.ended()[0] in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def test_a_first_message_other_than_hello_is_refused(server_url, node):
    with ControlStream(server_url, node.session_token) as stream:
        stream.acknowledge("none", code="OK", succeeded=True)
        assert stream.ended()[0] == grpc.StatusCode.INVALID_ARGUMENT
        assert stream.kinds == []


def test_a_stream_without_a_hello_is_ended(server_url, node):
    with ControlStream(server_url, node.session_token) as stream:
        assert stream.ended()[0] == grpc.StatusCode.FAILED_PRECONDITION
        assert stream.kinds == []


def test_the_newest_stream_wins_and_the_older_ends_cleanly(node, stream):
    with node.open_stream() as newer:
        assert stream.ended()[0] == grpc.StatusCode.OK
        assert set(stream.kinds) <= {"accepted", "command"}, "an upstream node saw an arm that it must refuse"
        assert newer.alive
        assert newer.accepted[0].epoch > stream.accepted[0].epoch


def test_a_node_that_knows_goodbye_receives_that_it_was_replaced(node):
    hello = HELLO(version="0.0.1", capabilities=["goodbye"], instance_id=bytes(range(16)))
    with node.open_stream(hello, extended=True) as older, node.open_stream(hello, extended=True):
        assert older.next("goodbye").reason == REPLACED
        assert older.ended()[0] == grpc.StatusCode.OK


# Revocation; the second node is used up here, so these stand last and in order.


def test_a_confirmed_node_without_a_stream_can_not_be_asked_to_scan(awaiting, invitation, operator):
    awaiting.api_key = operator.confirm(awaiting.node_id, int(invitation["pendingEnrollmentId"]))["apiKey"]
    watch = operator.discover("grpc", awaiting.node_id, {"ipList": {"ipAddresses": ["10.77.9.1"], "ports": ["80"]}})
    assert watch.outcome()[0] == "failed_precondition"


def test_revoke_ends_scan_stream_session_and_key_and_keeps_the_results(awaiting, operator):
    awaiting.authenticate()
    with awaiting.open_stream() as stream:
        watch = operator.discover("grpc", awaiting.node_id, {"ipList": {"ipAddresses": ["10.77.9.1"], "ports": ["4028"]}})
        command = stream.next("command")
        found = device(f"serial:{unique_name('revoked')}", "10.77.9.1")
        assert awaiting.report(command.command_id, found) == (1, 0)
        watch.wait_for_devices(1)

        operator.revoke(awaiting.node_id)

        stream.ended()
        assert watch.outcome()[0] == "failed_precondition"
        assert [d.device_identifier for d in watch.devices] == [found.device_identifier]
    with refused("unauthenticated", "not_found"):
        awaiting.heartbeat()
    with refused("unauthenticated"):
        awaiting.begin()
    with ControlStream(awaiting.base_url, awaiting.session_token) as late:
        late.send(hello=HELLO())
        assert late.ended()[0] in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND)
    with refused("not_found"):
        operator.revoke(awaiting.node_id)


def instant(text: str) -> datetime:
    """A proto3 JSON time; nanoseconds are cut to microseconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z$", r"\1Z", text))
