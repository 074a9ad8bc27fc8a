"""A second reader of encoded messages, independent of the protobuf runtime: it walks tags and compares them with the table.

It knows only the fields' table and the wire format (tag = number << 3 | wire type; varint 0, fixed64 1, length-delimited 2,
fixed32 5). It deliberately refuses what a good encoder never writes: unknown numbers, wrong wire types, fields out of order.
Read `walk` first.
"""

import base64
from datetime import UTC, datetime, timedelta

from .descriptors import DURATION, ENUMS, MESSAGES, TIMESTAMP, Field

VARINT, LENGTH_DELIMITED = 0, 2
# A timestamp and a duration have the same fields. The golden durations are whole seconds.
TIME_FIELDS = [Field(1, "seconds", "int64"), Field(2, "nanos", "int32")]


class WalkError(Exception):
    """The bytes do not match the table."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number that starts at `at` and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WalkError(f"the bytes end inside a varint at {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WalkError(f"a varint before {at} is longer than 10 bytes")


def tags(data: bytes):
    """Yields (field number, wire type, value) for each field; the value is an int or the delimited bytes."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, at = read_varint(data, at)
        elif wire_type == LENGTH_DELIMITED:
            length, at = read_varint(data, at)
            value, at = data[at : at + length], at + length
            if at > len(data):
                raise WalkError(f"field {number} claims {length} bytes, past the end")
        else:
            raise WalkError(f"field {number} has wire type {wire_type}, which no field of ours has")
        yield number, wire_type, value


def json_name(name: str) -> str:
    """The proto3 JSON name of a field: `ip_address` -> `ipAddress`."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def walk(full_name: str, data: bytes):
    """Decodes a message into its proto3 JSON shape by the table alone; enums come as numbers."""
    if full_name == TIMESTAMP:
        return timestamp(walk_fields(full_name, TIME_FIELDS, data))
    if full_name == DURATION:
        return f"{int(walk_fields(full_name, TIME_FIELDS, data).get('seconds', 0))}s"
    return walk_fields(full_name, MESSAGES[full_name], data)


def walk_fields(full_name: str, fields: list[Field], data: bytes) -> dict:
    """Decodes the fields of one message, strictly in ascending order of their numbers."""
    by_number = {f.number: f for f in fields}
    decoded, last, oneofs = {}, 0, {}
    for number, wire_type, raw in tags(data):
        f = by_number.get(number)
        if f is None:
            raise WalkError(f"{full_name} has no field {number}")
        if number < last or (number == last and not f.repeated):
            raise WalkError(f"{full_name}.{f.name} ({number}) comes after field {last}")
        last = number
        if f.oneof and oneofs.setdefault(f.oneof, number) != number:
            raise WalkError(f"{full_name}.{f.oneof} is set twice, by {oneofs[f.oneof]} and {number}")
        values = values_of(full_name, f, wire_type, raw)
        if f.repeated:
            decoded.setdefault(json_name(f.name), []).extend(values)
        else:
            (decoded[json_name(f.name)],) = values
    return decoded


def values_of(full_name: str, f: Field, wire_type: int, raw) -> list:
    """Reads one occurrence of a field; a packed repeated field gives several values, any other exactly one."""
    numeric = f.type in ("bool", "int32", "int64", "uint32", "uint64") or f.type in ENUMS
    if wire_type != (VARINT if numeric and not f.repeated else LENGTH_DELIMITED):
        raise WalkError(f"{full_name}.{f.name} ({f.number}, {f.type}) has wire type {wire_type}")
    if not numeric:
        return [text_of(f, raw)]
    if not f.repeated:
        return [number_of(f, raw)]
    values, at = [], 0
    while at < len(raw):
        value, at = read_varint(raw, at)
        values.append(number_of(f, value))
    return values


def text_of(f: Field, raw: bytes):
    """A length-delimited value in its JSON shape."""
    if f.type == "string":
        return raw.decode("utf-8", errors="strict")
    if f.type == "bytes":
        return base64.b64encode(raw).decode("ascii")
    return walk(f.type, raw)


def number_of(f: Field, raw: int):
    """A varint in its JSON shape: 64-bit integers are strings there."""
    if f.type == "bool":
        return bool(raw)
    if f.type in ("int32", "int64") and raw >= 1 << 63:
        raw -= 1 << 64
    return str(raw) if f.type in ("int64", "uint64") else raw


def timestamp(fields: dict) -> str:
    """RFC 3339 with as many decimals as the value has microseconds for."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(fields.get("seconds", 0)))
    micros = fields.get("nanos", 0) // 1000
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{micros:06d}Z" if micros else "Z")


def enums_as_numbers(full_name: str, value: dict) -> dict:
    """Rewrites the enum labels in a message's JSON as numbers, so that it can be compared with what `walk` gives."""
    out = {}
    for f in MESSAGES[full_name]:
        if (name := json_name(f.name)) not in value:
            continue
        items = value[name] if f.repeated else [value[name]]
        if f.type in ENUMS:
            items = [ENUMS[f.type][item] if isinstance(item, str) else item for item in items]
        elif f.type in MESSAGES:
            items = [enums_as_numbers(f.type, item) for item in items]
        out[name] = items if f.repeated else items[0]
    if unknown := value.keys() - {json_name(f.name) for f in MESSAGES[full_name]}:
        raise WalkError(f"{full_name} has no field named {sorted(unknown)}")
    return out
