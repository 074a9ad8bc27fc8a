"""The wire format without a server: golden bytes of every message, the walker that checks them, and identity vectors.

`tests/golden/wire.json` holds one instance of every message with every field set (one an arm for a oneof), as proto3
JSON and as hex; it is not tied to a language. Labels are used for enum values wherever the wire fixes them, else numbers.
"""

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from fleetwire import descriptors, walker
from fleetwire.node import auto_identifier, fingerprint

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "wire.json").read_text(encoding="utf-8"))
OURS = [f"{package}.{name}" for package in descriptors.WIRE for name in descriptors.PACKAGES[package].messages]


def case_id(entry: dict) -> str:
    """Names a case by its message and the fields set in it."""
    return f"{entry['message']}({','.join(entry['json'])})"


each_case = pytest.mark.parametrize("entry", GOLDEN, ids=case_id)


@each_case
def test_encoding_gives_the_golden_bytes(entry):
    encoded = json_format.ParseDict(entry["json"], descriptors.message(entry["message"])())
    assert encoded.SerializeToString(deterministic=True).hex() == entry["hex"]


@each_case
def test_decoding_the_golden_bytes_gives_the_message(entry):
    cls = descriptors.message(entry["message"])
    assert cls.FromString(bytes.fromhex(entry["hex"])) == json_format.ParseDict(entry["json"], cls())


@each_case
def test_the_walker_reads_the_same_from_tags_alone(entry):
    walked = walker.walk(entry["message"], bytes.fromhex(entry["hex"]))
    assert without_fractions(walked) == without_fractions(walker.enums_as_numbers(entry["message"], entry["json"]))


@pytest.mark.parametrize("name", OURS)
def test_every_field_of_every_message_is_in_the_golden_file(name):
    entries = [entry["json"] for entry in GOLDEN if entry["message"] == name]
    assert entries, f"{name} has no golden entry"
    fields = descriptors.MESSAGES[name]
    if any(f.oneof for f in fields):
        covered = {field for entry in entries for field in entry}
    else:
        covered = set(max(entries, key=len))
    assert covered == {walker.json_name(f.name) for f in fields}


def test_golden_names_only_messages_of_the_table():
    assert {entry["message"] for entry in GOLDEN} == set(OURS)


def test_field_values_within_a_golden_message_are_distinct():
    for entry in GOLDEN:
        values = [json.dumps(value) for value in entry["json"].values() if not isinstance(value, bool)]
        assert len(values) == len(set(values)), case_id(entry)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("0a", "end inside a varint"),
        ("0a0561", "past the end"),
        ("0801", "wire type 0"),
        ("0d00000000", "wire type 5"),
        ("c20c0161", "no field 200"),
        ("12016b0a0161", "comes after field 2"),
        ("0a01610a0162", "comes after field 1"),
    ],
)
def test_the_walker_refuses(damage, complaint):
    with pytest.raises(walker.WalkError, match=complaint):
        walker.walk("pairing.v1.FleetNodePairTarget", bytes.fromhex(damage))


def test_a_upstream_peer_skips_our_extensions():
    extended = descriptors.message("fleetnodegateway.v1.ControlAck")(command_id="c", succeeded=True, outcomes=b"\x04", notes=["slow"])
    upstream = [(number, value) for number, _, value in walker.tags(extended.SerializeToString()) if number < 100]
    assert upstream == [(1, b"c"), (2, 1)]


@pytest.mark.parametrize(
    ("parts", "identifier"),
    [
        ((1, "10.0.0.7", "4028", "antminer", "S19"), "auto:bc7e693e1d31d8f6"),
        ((42, "192.168.1.20", "80", "asicrs", ""), "auto:f14f697b8f32b52d"),
    ],
)
def test_auto_identifiers_match_the_vectors(parts, identifier):
    assert auto_identifier(*parts) == identifier


def test_fingerprint_is_the_first_eight_bytes_of_sha256():
    # SHA-256 over 32 zero bytes begins 66687aadf862bd77.
    assert fingerprint(bytes(32)) == "66687aadf862bd77"


def without_fractions(value):
    """Drops trailing zeros of a time's decimals, which proto3 JSON leaves to the writer."""
    if isinstance(value, dict):
        return {key: without_fractions(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_fractions(item) for item in value]
    if isinstance(value, str) and value.endswith("Z") and "." in value and value[:2] == "20":
        return value.removesuffix("Z").rstrip("0") + "Z"
    return value
