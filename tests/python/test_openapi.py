"""The OpenAPI description: valid, and true for the answers of a real server."""

import json
import urllib.error
import urllib.request
from pathlib import Path

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from world import World

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/openapi.json"


def test_the_document_is_valid_openapi():
    validate(json.loads(DOCUMENT.read_text()), cls=OpenAPIV31SpecValidator)


def schema(api: dict, node: dict) -> dict:
    """A schema whose references lead into the document. Properties that it does not have are defects."""
    closed = json.loads(json.dumps(api["components"]))
    for one in closed["schemas"].values():
        if one.get("type") == "object" and "properties" in one:
            one["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": closed, **node}


def test_answers_and_errors_of_a_server_have_the_described_form(tmp_path):
    api = json.loads(DOCUMENT.read_text())
    with World(tmp_path / "world") as world:
        served = json.load(urllib.request.urlopen(f"{world.url}/api/openapi.json", timeout=30))
        assert served == api
        node = world.enroll("barn")
        world.run_node("barn")
        world.until_connected(1)
        request = {"ipList": {"ipAddresses": ["127.91.9.1"], "ports": ["4028"]}}
        world.call("fleet.v1.ScanService/StartScan", requestId="one", fleetNodeId=node, request=request)
        calls = [
            "fleet.v1.NodeService/ListNodes", "fleet.v1.ScanService/ListScans", "fleet.v1.AccountService/WhoAmI",
            "fleet.v1.KeyService/ListKeys", "fleet.v1.OperatorService/ListOperators", "fleet.v1.AuditService/ListAudit",
            "fleetnodeadmin.v1.FleetNodeAdminService/ListFleetNodes",
        ]
        for procedure in calls:
            operation = api["paths"][f"/{procedure}"]["post"]
            answer = world.call(procedure)
            assert answer, procedure
            form = operation["responses"]["200"]["content"]["application/json"]["schema"]
            Draft202012Validator(schema(api, form)).validate(answer)

        body = json.dumps({"scanId": "none"}).encode()
        headers = {"authorization": f"Bearer {world.key}", "content-type": "application/json"}
        asked = urllib.request.Request(f"{world.url}/fleet.v1.ScanService/GetScan", body, headers)
        try:
            urllib.request.urlopen(asked, timeout=30)
            raise AssertionError("an invalid id is refused")
        except urllib.error.HTTPError as refused:
            form = api["components"]["responses"]["error"]["content"]["application/json"]["schema"]
            Draft202012Validator(schema(api, form)).validate(json.load(refused))
