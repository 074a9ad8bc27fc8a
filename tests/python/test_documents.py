"""docs/api.md against the definitions and a live server: every procedure is documented, every example is accepted."""

import json
import re
import shlex
import urllib.error
import urllib.request
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("procedure", procedures())
def test_each_procedure_is_documented(procedure):
    method = procedure.partition("/")[2]
    assert re.search(rf"\b{method}\b", API), f"docs/api.md does not mention {procedure}"


def test_the_script_is_valid_python():
    (script,) = blocks("python")
    compile(script, "docs/api.md", "exec")


@pytest.mark.parametrize("procedure, body", examples())
def test_each_example_is_accepted_as_a_request(operator, server_url, procedure, body):
    """An error about an id that does not exist is fine; one about the procedure or the shape of the body is not."""
    assert procedure in procedures()
    headers = {"authorization": f"Bearer {operator.key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{server_url}/{procedure}", body.encode(), headers)
    try:
        urllib.request.urlopen(request, timeout=30).read()
    except urllib.error.HTTPError as refused:
        error = json.load(refused)
        assert error["code"] in {"not_found", "failed_precondition", "invalid_argument", "resource_exhausted"}, error
        assert not re.search(r"unknown field|unknown variant|invalid type|JSON", error["message"]), error
