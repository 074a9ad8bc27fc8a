"""docs/api.md against the definitions and a live server: every procedure is documented, every example is accepted."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import unique_name

from fleetwire.node import CHALLENGE_TAG, device
from fleetwire.reflection import Schema

ROOT = Path(__file__).parents[2]
API = (ROOT / "docs/api.md").read_text()
# Services for nodes and for monitoring, which operators do not call.
NOT_FOR_OPERATORS = ("fleetnodegateway.v1.", "grpc.")


def blocks(language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", API, re.DOTALL)


def procedures() -> list[str]:
    """Every procedure of the definitions, as `package.Service/Method`."""
    found = []
    for file in sorted((ROOT / "fleet-wire/proto").rglob("*.proto")):
        text = file.read_text()
        package = re.search(r"^package (.+);", text, re.MULTILINE)[1]
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            found += [f"{package}.{service}/{method}" for method in re.findall(r"^  rpc (\w+)\(", body, re.MULTILINE)]
    return [name for name in found if not name.startswith(NOT_FOR_OPERATORS)]


def examples() -> list[tuple[str, str]]:
    """Procedure and body of every `call` in the document, with ids that no other test uses."""
    calls = re.findall(r"^call ((?:'[^']*'|[^\n'])+)", "\n".join(blocks("bash")), re.MULTILINE)
    words = [shlex.split(call, comments=True) for call in calls]
    unused = lambda body: re.sub(r'("\w+Id": ?)"?\d+"?', r'\g<1>"987654321"', body)
    return [(procedure, unused(rest[0] if rest else "{}")) for procedure, *rest in words]


@pytest.fixture(scope="module")
def schema(server_url) -> Schema:
    """The server's own definitions, loaded as they are needed."""
    return Schema(server_url)


def unknown_fields(schema: Schema, message: str, body: dict) -> list[str]:
    """Fields of a JSON body that the message does not have. The server ignores such fields, as JSON clients expect."""
    if message not in schema.types:
        schema.load_symbol(message)
    fields = {camel(field.name): field for field in schema.types[message].field}
    found = [f"{message}.{name}" for name in body if name not in fields]
    for name, value in body.items():
        if name in fields and isinstance(value, dict):
            found += unknown_fields(schema, fields[name].type_name.lstrip("."), value)
    return found


def camel(name: str) -> str:
    """The JSON name of a field."""
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


@pytest.mark.parametrize("procedure", procedures())
def test_each_procedure_is_documented(procedure):
    method = procedure.partition("/")[2]
    assert re.search(rf"\b{method}\b", API), f"docs/api.md does not mention {procedure}"


def test_a_field_that_does_not_exist_is_found(schema):
    body = {"fleetNodeId": 1, "request": {"nmap": {"target": "10.0.0.1", "prots": []}}, "requestID": "x"}
    found = unknown_fields(schema, "fleet.v1.StartScanRequest", body)
    assert found == ["fleet.v1.StartScanRequest.requestID", "pairing.v1.NmapModeRequest.prots"]


def test_the_script_starts_a_scan_and_follows_it_to_its_end(server_url, operator, node, stream):
    """The script runs as it is printed; only the node and the target are replaced."""
    (script,) = blocks("python")
    assert len([line for line in script.splitlines() if line]) <= 17
    for printed, used in [('"fleetNodeId": 1', f'"fleetNodeId": {node.node_id}'), ("10.0.0.0/24", "10.82.0.0/30"), ('"monday"', f'"{unique_name("script")}"')]:
        assert printed in script
        script = script.replace(printed, used)
    environment = os.environ | {"FLEET": server_url, "FLEET_API_KEY": operator.key}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        command = stream.next("command")
        assert node.report(command.command_id, device("mac:02:00:5E:10:82:01", "10.82.0.1")) == (1, 0)
        stream.acknowledge(command.command_id, succeeded=True, code="OK")
        printed, _ = running.communicate(timeout=60)
    assert running.returncode == 0, printed
    events = [ast.literal_eval(line) for line in printed.splitlines()]
    assert [event["ip"] for event in events if event["type"] == "device"] == ["10.82.0.1"]
    assert events[-1]["type"] == "ledger" and events[-1]["accepted"] == 1


def test_the_documented_signature_is_the_one_that_nodes_make():
    """docs/api.md states what `signature` signs; the node of fleetwire signs exactly that."""
    assert "which is the ed25519 signature\n   of the raw challenge" in API
    assert CHALLENGE_TAG.decode() in API


def test_every_reason_of_an_error_is_documented():
    sources = "".join(file.read_text() for file in (ROOT / "fleet-server/src").rglob("*.rs"))
    reasons = {*re.findall(r"=> \w+ ([A-Z_]{3,})[;, ]", sources), *re.findall(r'with_reason\("(\w+)"\)', sources)}
    assert "NODE_BUSY" in reasons and "RATE_LIMITED" in reasons
    assert {reason for reason in reasons if f"`{reason}`" not in API} == set()


def test_event_streams_ask_proxies_not_to_buffer(operator, server_url, node, stream):
    started = {"requestId": unique_name("buffer"), "fleetNodeId": node.node_id, "request": {"nmap": {"target": "10.83.0.1"}}}
    scan = json.loads(operator.client.raw_unary("fleet.v1.ScanService/StartScan", "application/json", json.dumps(started).encode())[2])
    command = stream.next("command")
    connection, response = operator.client.get(f"/api/scans/{scan['scan']['scanId']}/events")
    with connection:
        assert response.headers["x-accel-buffering"] == "no"
        assert response.readline().startswith(b":"), "the first line comes before any event"
    stream.acknowledge(command.command_id, succeeded=True, code="OK")


@pytest.mark.parametrize("procedure, body", examples())
def test_each_example_is_accepted_as_a_request(schema, operator, server_url, procedure, body):
    """An error about an id that does not exist is fine; one about the procedure or the shape of the body is not."""
    service, method = procedure.split("/")
    schema.load_symbol(service)
    (definition,) = [rpc for rpc in schema.types[service].method if rpc.name == method]
    assert unknown_fields(schema, definition.input_type.lstrip("."), json.loads(body)) == []
    headers = {"authorization": f"Bearer {operator.key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{server_url}/{procedure}", body.encode(), headers)
    try:
        urllib.request.urlopen(request, timeout=30).read()
    except urllib.error.HTTPError as refused:
        error = json.load(refused)
        assert error["code"] in {"not_found", "failed_precondition", "invalid_argument", "resource_exhausted"}, error
        assert not re.search("JSON", error["message"]), error


def test_every_row_of_the_interoperability_table_names_its_tests():
    text = (ROOT / "docs/interop.md").read_text()
    table = text.partition("## What is tested")[2].partition("\n## ")[0]
    rows = [line.rpartition(" | ")[2] for line in table.splitlines() if line.startswith("| ") and not line.startswith("| peer")]
    assert len(rows) > 20, rows
    for row in rows:
        named = [re.fullmatch(r"`([^`]+\.(?:rs|py))`: (.+?)\s*\|?", part) for part in row.split("; ")]
        assert all(named), row
        for file, tests in (match.groups() for match in named):
            source = (ROOT / file).read_text()
            names = re.findall(r"`(\w+)`", tests)
            assert names, row
            for name in names:
                assert re.search(rf"\b(?:fn|def) {name}\b", source), f"{file} has no test {name}"
