"""Clients of other projects against a running server: grpcurl, a node on connect-go, connect-es, and Node.js over HTTP/1.1.

Nothing of them is ours but the few lines that use them.
"""

import json
import os
import subprocess
from urllib.parse import urlsplit

import pytest
from google.protobuf import descriptor_pb2

import peers
from conftest import unique_name
from fleetwire.reflection import Schema

SCAN = {"ipList": {"ipAddresses": ["10.81.0.1", "10.81.0.2", "10.81.0.3"], "ports": ["4028"]}}
CONFIRM = "fleetnodeadmin.v1.FleetNodeAdminService/ConfirmFleetNode"
STATUSES = {"Connect": 2, "gRPC-Web": 2, "gRPC": 1}
"""How many HTTP versions each protocol has."""


def grpcurl(server_url: str, *what: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [peers.go("grpcurl"), "-plaintext", *flags, urlsplit(server_url).netloc, *what]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_grpcurl_lists_describes_and_calls_by_reflection(server_url, operator):
    listed = grpcurl(server_url, "list").stdout.split()
    assert {"fleet.v1.ScanService", "grpc.health.v1.Health", "fleetnodegateway.v1.FleetNodeGatewayService"} <= set(listed)
    assert "rpc StartScan" in grpcurl(server_url, "describe", "fleet.v1.ScanService").stdout
    key = f"authorization: Bearer {operator.key}"
    answered = grpcurl(server_url, "fleet.v1.AccountService/WhoAmI", flags=("-H", key))
    assert json.loads(answered.stdout)["role"] == "admin", answered
    assert json.loads(grpcurl(server_url, "grpc.health.v1.Health/Check").stdout) == {"status": "SERVING"}


def test_grpcurl_shows_the_code_and_the_reason_of_an_error(server_url):
    refused = grpcurl(server_url, "fleet.v1.AccountService/WhoAmI")
    assert refused.returncode == 64 + 16, refused
    assert "Code: Unauthenticated" in refused.stderr and '"domain": "fleet"' in refused.stderr, refused.stderr


def test_grpcurl_watches_the_health_of_an_unknown_service(server_url):
    """The stream stays open without credentials; grpcurl ends it after its own time."""
    flags = ("-max-time", "12", "-d", '{"service": "no.such.Service"}')
    watched = grpcurl(server_url, "grpc.health.v1.Health/Watch", flags=flags)
    assert json.loads(watched.stdout) == {"status": "SERVICE_UNKNOWN"}
    assert "DeadlineExceeded" in watched.stderr, "the server ended the stream"


def test_a_node_on_connect_go_enrolls_and_answers_a_scan(server_url, operator):
    command = [peers.go("node"), server_url, unique_name("gopher")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1) as node:
        try:
            code = operator.create_code()
            print(code["code"], file=node.stdin)
            node_id = int(read(node, "registered")[1])
            print(operator.confirm(node_id, int(code["pendingEnrollmentId"]))["apiKey"], file=node.stdin)
            read(node, "accepted")
            watch = operator.discover("connect-json", node_id, SCAN)
            assert read(node, "reported") == ["reported", "3", "accepted", "3", "rejected", "0"]
            assert watch.outcome()[0] == "ok"
            assert {device.ip_address for device in watch.devices} == set(SCAN["ipList"]["ipAddresses"])
            node.stdin.close()
            assert node.wait(30) == 0
        finally:
            node.kill()


def read(node: subprocess.Popen, word: str) -> list[str]:
    """The next line of the node, which begins with this word."""
    line = node.stdout.readline().split()
    assert line and line[0] == word, (line, node.poll() is not None and node.stderr.read())
    return line


@pytest.fixture(scope="module")
def descriptors(server_url, tmp_path_factory):
    """The definitions that the server reflects, as a file for clients without generated code."""
    schema, files = Schema(server_url), {}

    def add(answer) -> None:
        """Adds files after those that they import, as the readers of a set expect."""
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(raw)
            for name in file.dependency:
                if name not in files:
                    add(schema.ask(file_by_filename=name))
            files.setdefault(file.name, file)

    for service in ("fleet.v1.AccountService", "fleet.v1.ScanService"):
        add(schema.ask(file_containing_symbol=service))
    path = tmp_path_factory.mktemp("descriptors") / "set.bin"
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString())
    return path


def test_connect_es_speaks_every_protocol(server_url, operator, descriptors):
    runtime, folder = peers.node()
    environment = os.environ | {"FLEET_API_KEY": operator.key}
    command = [runtime, "client.mjs", server_url, descriptors]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 2 * sum(STATUSES.values()), "each protocol in binary and JSON"
    for result in results:
        assert result["email"], result
        expected = {"code": "NotFound", "details": ["google.rpc.ErrorInfo"]}
        assert result["unary"] == expected and result["stream"] == expected, result


def test_calls_after_rejected_ones_succeed_over_pooled_connections(server_url, operator):
    """Node.js sends its next request on the connection that a rejected one used."""
    runtime, folder = peers.node()
    environment = os.environ | {"FLEET_API_KEY": operator.key}
    done = subprocess.run([runtime, "rejections.mjs", server_url, "600"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert json.loads(done.stdout) == {"rejected": 600, "failures": {}}, done.stderr
