"""Asks the server for its own schema by gRPC server reflection and compares it with the table.

The comparison goes by structure, from each method down, because the wire facts leave some names free (`FREE_NAMES`);
the server may know more than the table only where `EXTRA` or the extension range allows it. Read `differences` first.
"""

from google.protobuf import descriptor_pb2

from . import control, descriptors
from .descriptors import ENUMS, MESSAGES, SCALARS, SERVICES

INFO = descriptors.method("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo")

FREE_NAMES = {
    "common.v1.FleetErrorCommon",
    "fleetnodegateway.v1.GoodbyeReason",
    "fleetnodegateway.v1.ControlProgress",
    "fleetnodegateway.v1.ControlPins",
    "fleetnodegateway.v1.PinnedName",
    "fleetnodegateway.v1.ControlCancel",
    "fleetnodegateway.v1.ControlGoodbye",
    "fleetnodegateway.v1.RegisterRequest.identity_proof",
}
"""Types and one field whose numbers and shapes are fixed by the wire format, but whose names are not."""

EXTRA = {"pairing.v1.Device": {10}, "fleetnodegateway.v1.AgentCommand": {3, 4}}
"""Upstream fields that exist on the wire but not in this table."""

FIRST_EXTENSION = 100


class Schema:
    """The server's descriptors: service names, and messages, enums and services by full name."""

    def __init__(self, base_url: str):
        self.base_url = base_url
        self.services: set[str] = set()
        self.files: set[str] = set()
        self.types: dict[str, object] = {}

    def ask(self, **request):
        """Sends one reflection request on a new stream."""
        with control.channel(self.base_url) as channel:
            call = channel.stream_stream(
                control.path(self.base_url, INFO),
                request_serializer=INFO.request.SerializeToString,
                response_deserializer=INFO.response.FromString,
            )
            (answer,) = call(iter([INFO.request(**request)]), timeout=30)
        assert answer.WhichOneof("message_response") != "error_response", (request, answer.error_response.error_message)
        return answer

    def load_symbol(self, name: str) -> None:
        """Fetches the file that defines a symbol, and all that it needs."""
        self._take(self.ask(file_containing_symbol=name))

    def _take(self, answer) -> None:
        missing = []
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(raw)
            if file.name not in self.files:
                self.files.add(file.name)
                self._index(file.package, file.message_type, file.enum_type)
                self.types |= {f"{file.package}.{service.name}": service for service in file.service}
                missing += file.dependency
        for name in missing:
            if name not in self.files and not name.startswith("google/protobuf/"):
                self._take(self.ask(file_by_filename=name))

    def _index(self, prefix: str, messages, enums) -> None:
        self.types |= {f"{prefix}.{enum.name}": enum for enum in enums}
        for message in messages:
            self.types[f"{prefix}.{message.name}"] = message
            self._index(f"{prefix}.{message.name}", message.nested_type, message.enum_type)


def fetch(base_url: str) -> Schema:
    """The server's list of services with the files that define them."""
    schema = Schema(base_url)
    schema.services = {service.name for service in schema.ask(list_services="*").list_services_response.service}
    for service in sorted(schema.services & SERVICES.keys()):
        schema.load_symbol(service)
    return schema


def differences(schema: Schema, service: str) -> list[str]:
    """Returns the differences between the server's schema of a service and the table, one sentence each."""
    if service not in schema.types:
        return [f"{service} is not in the server's schema"]
    theirs = {method.name: method for method in schema.types[service].method}
    found = []
    for name, rpc in SERVICES[service].items():
        if name not in theirs:
            found.append(f"{service}/{name} is missing")
            continue
        method = theirs[name]
        streams = (method.client_streaming, method.server_streaming)
        if streams != (rpc.client_streams, rpc.server_streams):
            found.append(f"{service}/{name} streams {streams} (client, server)")
        found += message_differences(schema, rpc.request, method.input_type.lstrip("."))
        found += message_differences(schema, rpc.response, method.output_type.lstrip("."))
    return list(dict.fromkeys(found))


def message_differences(schema: Schema, ours: str, theirs: str, seen: frozenset = frozenset()) -> list[str]:
    """Returns the differences between a message of the server and the table, including nested messages."""
    if ours in seen or (ours == theirs and ours in descriptors.WELL_KNOWN.values()):
        return []
    if theirs not in schema.types:
        return [f"{ours}: the server's {theirs} is not in its schema"]
    message = schema.types[theirs]
    by_number = {field.number: field for field in message.field}
    known = {f.number for f in MESSAGES.get(ours, [])}
    found = [
        f"{theirs} has a field {number} that the table does not"
        for number in by_number.keys() - known
        if number < FIRST_EXTENSION and number not in EXTRA.get(ours, ())
    ]
    for f in MESSAGES.get(ours, []):
        if f.number not in by_number:
            found.append(f"{ours}.{f.name} ({f.number}) is missing")
        else:
            found += field_differences(schema, ours, f, message, by_number[f.number], seen | {ours})
    return found


def field_differences(schema: Schema, message: str, ours, owner, theirs, seen: frozenset) -> list[str]:
    """Returns the differences of a field and of its type."""
    where, found = f"{message}.{ours.name} ({ours.number})", []
    if theirs.name != ours.name and f"{message}.{ours.name}" not in FREE_NAMES:
        found.append(f"{where} is named {theirs.name}")
    if (theirs.label == theirs.LABEL_REPEATED) != ours.repeated:
        found.append(f"{where}: repeated is {not ours.repeated}")
    if theirs.proto3_optional != ours.optional:
        found.append(f"{where}: optional is {theirs.proto3_optional}")
    oneof = owner.oneof_decl[theirs.oneof_index].name if theirs.HasField("oneof_index") and not theirs.proto3_optional else None
    if oneof != ours.oneof:
        found.append(f"{where} is in oneof {oneof}")
    type_name = theirs.type_name.lstrip(".")
    if ours.type in SCALARS:
        return found + ([f"{where} has type number {theirs.type}"] if theirs.type != SCALARS[ours.type] else [])
    if type_name != ours.type and ours.type not in FREE_NAMES:
        found.append(f"{where} has type {type_name or theirs.type}")
    if ours.type not in ENUMS:
        return found + message_differences(schema, ours.type, type_name, seen)
    numbers = {value.number: value.name for value in getattr(schema.types.get(type_name), "value", [])}
    for label, number in ENUMS[ours.type].items():
        if numbers.get(number) != label and (ours.type not in FREE_NAMES or number not in numbers):
            found.append(f"{where}: {ours.type} {number} is {numbers.get(number)}, not {label}")
    return found
