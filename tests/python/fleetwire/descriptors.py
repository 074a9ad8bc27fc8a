"""The wire as one table, and the protobuf classes, methods and services built from it at import.

The table below is the only statement of names, numbers and types in this client. It deliberately holds no bounds
(the server checks them) and no behavior. Read `WIRE` first, then `message` and `method`.

How to read the table: `1 name string` is field number, name, type; `repeated` and `optional` stand before the type;
`T` is google.protobuf.Timestamp and `D` google.protobuf.Duration; a type with a dot is of another package. An `rpc`
states its request and response either as fields (the message is then `<Method>Request` or `<Method>Response`) or by name, `stream` in front.
Field numbers from 100 on are extensions, which an upstream peer skips as unknown.
"""

import re
from dataclasses import dataclass, field

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2

WIRE = {
    "common.v1": """
        enum FleetErrorCommon FLEET_ERROR_COMMON_: UNSPECIFIED 0, NOT_ACTIVE 1
        message FleetErrorDetails: oneof code { 1 common FleetErrorCommon; 2 service int32; 3 endpoint int32 }
        message DeviceIdentifierList: 1 device_identifiers repeated string
    """,
    "fleetmanagement.v1": """
        enum PairingStatus PAIRING_STATUS_: UNSPECIFIED 0, PAIRED 1, UNPAIRED 2, AUTHENTICATION_NEEDED 3, PENDING 4, FAILED 5, DEFAULT_PASSWORD 6
    """,
    "minercommand.v1": """
        message DeviceFilter: 2 pairing_status repeated fleetmanagement.v1.PairingStatus; 3 models repeated string; 4 manufacturers repeated string
        message DeviceSelector: oneof selection_type { 1 all_devices DeviceFilter; 2 include_devices common.v1.DeviceIdentifierList }
    """,
    "pairing.v1": """
        message Device: 1 device_identifier string; 2 ip_address string; 3 port string; 4 mac_address string; 5 serial_number string; 6 model string; 7 manufacturer string; 8 url_scheme string; 11 firmware_version string; 12 driver_name string
        message Credentials: 1 username string; 2 password optional string; 100 try_defaults bool

        message IPListModeRequest: 1 ip_addresses repeated string; 2 ports repeated string; 100 explicit bool
        message IPRangeModeRequest: 1 start_ip string; 2 end_ip string; 3 ports repeated string
        message MDNSModeRequest: 1 service_type string; 2 domain string; 3 timeout_seconds int32
        message NmapModeRequest: 1 target string; 2 ports repeated string
        message DiscoverRequest: oneof mode { 1 ip_list IPListModeRequest; 2 ip_range IPRangeModeRequest; 3 mdns MDNSModeRequest; 4 nmap NmapModeRequest }; 100 max_rate uint32
        message DiscoverResponse: 1 devices repeated Device; 2 error string

        message FleetNodePairTarget: 1 device_identifier string; 2 ip_address string; 3 port string; 4 url_scheme string; 5 driver_name string; 6 manufacturer string; 7 firmware_version string
        message FleetNodePairRequest: 1 targets repeated FleetNodePairTarget; 2 credentials Credentials

        service PairingService
        rpc Discover
            request DiscoverRequest
            response stream DiscoverResponse
        rpc Pair
            request 1 credentials Credentials; 2 device_selector minercommand.v1.DeviceSelector
            response 1 failed_device_ids repeated string
    """,
    "fleetnodegateway.v1": """
        enum EnrollmentStatus ENROLLMENT_STATUS_: UNSPECIFIED 0, PENDING 1, CONFIRMED 2, REVOKED 3
        enum PairOutcome PAIR_OUTCOME_: UNSPECIFIED 0, PAIRED 1, AUTH_NEEDED 2, AUTH_FAILED 3, ERROR 4
        enum AckCode ACK_CODE_: UNSPECIFIED 0, OK 1, PARTIAL 2, BAD_REQUEST 3, AGENT_INCAPABLE 4, SCAN_FAILED 5, REPORT_FAILED 6, INTERNAL 7, BUSY 8, UNAUTHENTICATED 9, UNIMPLEMENTED 10, FORBIDDEN 11
        enum CommandProtocolVersion COMMAND_PROTOCOL_VERSION_: UNSPECIFIED 0, V1 1
        enum GoodbyeReason GOODBYE_REASON_: UNSPECIFIED 0, DRAIN 1, REPLACED 2, REVOKED 3, DUPLICATE 4

        message DiscoveredDeviceReport: 1 device_identifier string; 2 ip_address string; 3 port string; 4 url_scheme string; 5 driver_name string; 6 model string; 7 manufacturer string; 8 firmware_version string; 100 mac_address string; 101 serial_number string; 102 evidence string; 103 host_name string; 104 host_name_source string
        message UnidentifiedHostReport: 1 ip_address string; 2 mac_address string; 3 open_ports repeated uint32; 4 reply_port uint32; 5 reply string; 6 requests repeated string; 7 host_name string; 8 host_name_source string
        message EncryptedCredentials: 1 username bytes; 2 password bytes
        message FleetNodePairResult: 1 device_identifier string; 2 outcome PairOutcome; 3 serial_number string; 4 mac_address string; 5 model string; 6 manufacturer string; 7 firmware_version string; 8 error_message string; 12 default_password_active optional bool; 13 encrypted_credentials EncryptedCredentials; 100 open bool

        message ControlHello: 1 max_command_protocol_version CommandProtocolVersion; 100 version string; 101 capabilities repeated string; 102 instance_id bytes; 103 running repeated string; 104 default_ports repeated string; 105 local_subnets repeated string; 106 max_targets uint32; 107 max_ports uint32; 108 rate uint32; 109 arp bool; 110 denied_ports repeated string; 111 allowed_networks repeated string
        message ControlAck: 1 command_id string; 2 succeeded bool; 3 error_message string; 4 code AckCode; 5 payload bytes; 100 outcomes bytes; 101 notes repeated string
        message ControlProgress: 1 command_id string; 2 targets_done uint64; 3 targets_total uint64; 4 phase string; 5 note string
        message PinnedName: 1 name string; 2 addresses repeated string; 3 skipped_reason string
        message ControlPins: 1 command_id string; 2 names repeated PinnedName
        message ControlStreamRequest: oneof kind { 1 hello ControlHello; 2 ack ControlAck; 100 progress ControlProgress; 101 pins ControlPins }

        message ControlAccepted: 1 server_time T; 100 version string; 101 capabilities repeated string; 102 epoch uint64
        message ControlCommand: 1 command_id string; 2 payload bytes
        message ControlCancel: 1 command_id string
        message ControlGoodbye: 1 reason GoodbyeReason; 2 retry_after_ms uint32
        message ControlStreamResponse: oneof kind { 1 accepted ControlAccepted; 2 command ControlCommand; 100 cancel ControlCancel; 101 goodbye ControlGoodbye }

        message AgentCommand: oneof command { 1 discover pairing.v1.DiscoverRequest; 2 pair pairing.v1.FleetNodePairRequest }

        service FleetNodeGatewayService
        rpc Register
            request 1 enrollment_token string; 2 name string; 3 identity_pubkey bytes; 4 encryption_pubkey bytes; 100 identity_proof bytes
            response 1 fleet_node_id int64; 2 enrollment_status EnrollmentStatus; 3 identity_fingerprint string
        rpc BeginAuthHandshake
            request 1 api_key string; 2 identity_pubkey bytes
            response 1 challenge bytes; 2 expires_at T
        rpc CompleteAuthHandshake
            request 1 challenge bytes; 2 signature bytes
            response 1 session_token string; 2 expires_at T
        rpc UploadHeartbeat
            request 1 sent_at T; 100 halted optional bool; 101 halt_reason string; 102 stream_problem string
            response 1 received_at T
        rpc ReportDiscoveredDevices
            request 1 devices repeated DiscoveredDeviceReport; 2 command_id string; 100 hosts repeated UnidentifiedHostReport
            response 1 accepted_count int64; 2 rejected_count int64; 100 owned_elsewhere_count int64
        rpc ReportPairedDevices
            request 1 command_id string; 2 results repeated FleetNodePairResult
            response 1 accepted_count int64; 2 rejected_count int64
        rpc ControlStream
            request stream ControlStreamRequest
            response stream ControlStreamResponse
    """,
    "fleetnodeadmin.v1": """
        enum FleetNodeEnrollmentStatus FLEET_NODE_ENROLLMENT_STATUS_: UNSPECIFIED 0, PENDING 1, AWAITING_CONFIRMATION 2, CONFIRMED 3, REVOKED 4

        message FleetNodeSummary: 1 fleet_node_id int64; 2 name string; 3 enrollment_status FleetNodeEnrollmentStatus; 4 identity_fingerprint string; 5 created_at T; 6 last_seen_at optional T; 7 pending_enrollment_id optional int64
        message FleetNodeDeviceSummary: 1 fleet_node_id int64; 2 device_id int64; 3 device_identifier string; 4 device_type string; 5 assigned_at T; 6 assigned_by optional int64
        message FleetNodeDiscoveredDevice: 1 fleet_node_id int64; 2 device_identifier string; 3 ip_address string; 4 port string; 5 url_scheme string; 6 driver_name string; 7 model string; 8 manufacturer string; 9 firmware_version string; 10 last_seen T; 11 pairing_status string
        message DevicePairingResult: 1 device_identifier string; 2 pairing_status fleetmanagement.v1.PairingStatus; 3 error string; 100 open bool

        service FleetNodeAdminService
        rpc CreateEnrollmentCode
            request
            response 1 code string; 2 expires_at T; 3 pending_enrollment_id int64
        rpc ListFleetNodes
            request
            response 1 fleet_nodes repeated FleetNodeSummary
        rpc ConfirmFleetNode
            request 1 fleet_node_id int64; 2 pending_enrollment_id int64
            response 1 api_key string; 2 expires_at optional T
        rpc RevokeFleetNode
            request 1 fleet_node_id int64; 2 pending_enrollment_id optional int64
            response
        rpc PairDeviceToFleetNode
            request 1 fleet_node_id int64; 2 device_id int64
            response
        rpc UnpairDevice
            request 1 device_id int64
            response
        rpc ListFleetNodeDevices
            request 1 fleet_node_id int64
            response 1 pairs repeated FleetNodeDeviceSummary
        rpc DiscoverOnFleetNode
            request 1 fleet_node_id int64; 2 request pairing.v1.DiscoverRequest
            response stream 1 response pairing.v1.DiscoverResponse
        rpc ListFleetNodeDiscoveredDevices
            request 1 fleet_node_id int64; 2 limit int32; 3 cursor int64
            response 1 devices repeated FleetNodeDiscoveredDevice; 2 next_cursor int64
        rpc PairDiscoveredDevicesOnFleetNode
            request 1 fleet_node_id int64; 2 device_identifiers repeated string; 3 pair_all_unpaired bool; 4 credentials pairing.v1.Credentials
            response stream 1 results repeated DevicePairingResult
    """,
    "fleet.v1": """
        enum ScanState SCAN_STATE_: UNSPECIFIED 0, QUEUED 1, RUNNING 2, COMPLETED 3, PARTIAL 4, FAILED 5, CANCELED 6, EXPIRED 7

        message ScheduleTiming: 1 when string; 2 time_zone string; 3 jitter D; 4 blackouts string
        message Schedule: 1 schedule_id string; 2 name string; 3 fleet_node_id int64; 4 node_name string; 5 request pairing.v1.DiscoverRequest; 6 timing ScheduleTiming; 7 operator string; 8 created_at T; 9 paused_at T; 10 paused_reason string; 11 next_run_at T; 12 last_scan_id string; 13 last_scan_state ScanState; 14 runs int64; 15 missed int64; 16 fleet_node_ids repeated int64; 17 site_id int64; 18 auto bool
        message ScheduleRun: 1 due_at T; 2 at T; 3 scan_id string; 4 missed int64; 5 reason string
        message PlannedRun: 1 due_at T; 2 local string

        service ScheduleService
        rpc CreateSchedule
            request 1 name string; 2 fleet_node_id int64; 3 request pairing.v1.DiscoverRequest; 4 timing ScheduleTiming; 5 fleet_node_ids repeated int64; 6 site_id int64; 7 auto bool
            response 1 schedule Schedule
        rpc UpdateSchedule
            request 1 schedule_id string; 2 name string; 3 fleet_node_id int64; 4 request pairing.v1.DiscoverRequest; 5 timing ScheduleTiming; 6 fleet_node_ids repeated int64; 7 site_id int64; 8 auto bool
            response 1 schedule Schedule
        rpc ListSchedules
            request
            response 1 schedules repeated Schedule
        rpc GetSchedule
            request 1 schedule_id string
            response 1 schedule Schedule; 2 last_runs repeated ScheduleRun
        rpc PauseSchedule
            request 1 schedule_id string
            response 1 schedule Schedule
        rpc ResumeSchedule
            request 1 schedule_id string
            response 1 schedule Schedule
        rpc RunSchedule
            request 1 schedule_id string
            response 1 scan_id string
        rpc DeleteSchedule
            request 1 schedule_id string
            response
        rpc PreviewSchedule
            request 1 timing ScheduleTiming; 2 count uint32
            response 1 runs repeated PlannedRun

        message AlertChannel: 1 channel_id int64; 2 name string; 3 kind string; 4 target string; 5 created_at T
        message AlertRuleSpec: 1 name string; 2 event string; 3 threshold uint32; 4 channel_ids repeated int64; 5 quiet_hours string; 6 time_zone string; 7 disabled bool
        message AlertRule: 1 rule_id int64; 2 spec AlertRuleSpec; 3 created_at T
        message AlertDelivery: 1 delivery_id string; 2 channel_name string; 3 rule string; 4 event string; 5 title string; 6 items repeated string; 7 count int64; 8 state string; 9 attempts uint32; 10 answer string; 11 created_at T; 12 due_at T; 13 ended_at T; 14 scan_id string; 15 fleet_node_id int64

        service AlertService
        rpc CreateAlertChannel
            request 1 name string; 2 webhook_url string; 3 email string
            response 1 channel AlertChannel; 2 signing_secret string
        rpc ListAlertChannels
            request
            response 1 channels repeated AlertChannel; 2 email_available bool
        rpc DeleteAlertChannel
            request 1 channel_id int64
            response
        rpc TestAlertChannel
            request 1 channel_id int64
            response 1 delivery AlertDelivery
        rpc CreateAlertRule
            request 1 spec AlertRuleSpec
            response 1 rule AlertRule
        rpc UpdateAlertRule
            request 1 rule_id int64; 2 spec AlertRuleSpec
            response 1 rule AlertRule
        rpc ListAlertRules
            request
            response 1 rules repeated AlertRule
        rpc DeleteAlertRule
            request 1 rule_id int64
            response
        rpc ListAlertDeliveries
            request 1 state string; 2 limit uint32; 3 before_delivery_id string
            response 1 deliveries repeated AlertDelivery
        rpc RetryAlertDelivery
            request 1 delivery_id string
            response 1 delivery AlertDelivery
    """,
}
"""Every package of ours that is on the wire, in an order in which each needs only earlier ones. Of fleet.v1, the services
for schedules and alerts."""

STANDARD = {
    "grpc.health.v1": """
        enum ServingStatus _: UNKNOWN 0, SERVING 1, NOT_SERVING 2, SERVICE_UNKNOWN 3
        service Health
        rpc Check
            request 1 service string
            response 1 status ServingStatus
    """,
    "grpc.reflection.v1": """
        message ServerReflectionRequest: 1 host string; oneof message_request { 3 file_by_filename string; 4 file_containing_symbol string; 7 list_services string }
        message FileDescriptorResponse: 1 file_descriptor_proto repeated bytes
        message ServiceResponse: 1 name string
        message ListServiceResponse: 1 service repeated ServiceResponse
        message ErrorResponse: 1 error_code int32; 2 error_message string
        message ServerReflectionResponse: 1 valid_host string; 2 original_request ServerReflectionRequest; oneof message_response { 4 file_descriptor_response FileDescriptorResponse; 6 list_services_response ListServiceResponse; 7 error_response ErrorResponse }
        service ServerReflection
        rpc ServerReflectionInfo
            request stream ServerReflectionRequest
            response stream ServerReflectionResponse
    """,
}
"""The two gRPC services that every server here also offers, as far as this client uses them (gRPC health checking and server reflection)."""

TIMESTAMP = "google.protobuf.Timestamp"
DURATION = "google.protobuf.Duration"
WELL_KNOWN = {"T": TIMESTAMP, "D": DURATION}
SCALARS = {name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}") for name in ("bool", "bytes", "int32", "int64", "string", "uint32", "uint64")}


@dataclass(frozen=True)
class Field:
    """One field as the table states it; `type` is a scalar's name or the full name of a message or enum."""

    number: int
    name: str
    type: str
    repeated: bool = False
    optional: bool = False
    oneof: str | None = None


@dataclass
class Package:
    """One package of the table, parsed: its enums, messages and services by short name."""

    name: str
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    messages: dict[str, list[Field]] = field(default_factory=dict)
    services: dict[str, dict[str, "Rpc"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rpc:
    """One method of the table: full names of its messages and which sides stream."""

    request: str
    response: str
    client_streams: bool
    server_streams: bool


@dataclass(frozen=True)
class Method:
    """A method that a transport can call: its path without the leading slash, and its message classes."""

    path: str
    request: type
    response: type


def parse_package(name: str, text: str) -> Package:
    """Reads one package of the table; a line of unknown kind is a ValueError that quotes it."""
    package, service, rpc = Package(name), None, None
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "enum":
            enum, prefix, values = re.fullmatch(r"(\w+) (\w+): (.*)", rest).groups()
            prefix = "" if prefix == "_" else prefix
            package.enums[enum] = {prefix + label: int(number) for label, number in map(str.split, values.split(", "))}
        elif word == "message":
            message, _, fields = rest.partition(": ")
            package.messages[message] = parse_fields(name, fields)
        elif word == "service":
            service = package.services.setdefault(rest, {})
        elif word == "rpc":
            rpc, request = rest, None
        elif word == "request":
            request = parse_side(package, rpc, "Request", rest)
        elif word == "response":
            (request_type, client), (response_type, server) = request, parse_side(package, rpc, "Response", rest)
            service[rpc] = Rpc(request_type, response_type, client, server)
        else:
            raise ValueError(f"{name}: no meaning known for {line!r}")
    return package


def parse_side(package: Package, rpc: str, suffix: str, text: str) -> tuple[str, bool]:
    """Reads a request or response line; fields on it define the message that is named after the method."""
    streams = text.startswith("stream ")
    text = text.removeprefix("stream ")
    if text and not text[0].isdigit():
        return f"{package.name}.{text}", streams
    package.messages[rpc + suffix] = parse_fields(package.name, text)
    return f"{package.name}.{rpc}{suffix}", streams


def parse_fields(package: str, text: str) -> list[Field]:
    """Reads `1 a string; oneof o { 2 b bytes; 3 c X }; ...` into fields, in the order written."""
    fields = []
    for part in re.finditer(r"\s*oneof (?P<oneof>\w+) \{(?P<arms>[^}]*)\}|(?P<plain>[^;{}]+)", text):
        for item in filter(None, map(str.strip, (part["arms"] or part["plain"]).split(";"))):
            number, name, *label, type_name = item.split()
            fields.append(
                Field(
                    number=int(number),
                    name=name,
                    type=qualify(package, type_name),
                    repeated=label == ["repeated"],
                    optional=label == ["optional"],
                    oneof=part["oneof"],
                )
            )
    return fields


def qualify(package: str, type_name: str) -> str:
    """Gives a message or enum its full name; a scalar stays as it is."""
    if type_name in WELL_KNOWN:
        return WELL_KNOWN[type_name]
    if type_name in SCALARS or "." in type_name:
        return type_name
    return f"{package}.{type_name}"


def file_descriptor(package: Package, enums: set[str]) -> descriptor_pb2.FileDescriptorProto:
    """Turns a parsed package into the descriptor that protoc would have made; `enums` are all full names of enums so far."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package.name}.proto", package=package.name, syntax="proto3")
    used = {f.type for fields in package.messages.values() for f in fields} - SCALARS.keys()
    used |= {t for rpcs in package.services.values() for r in rpcs.values() for t in (r.request, r.response)}
    homes = {t.rpartition(".")[0] for t in used - set(WELL_KNOWN.values())} - {package.name}
    file.dependency.extend(f"{home}.proto" for home in sorted(homes))
    file.dependency.extend(one.DESCRIPTOR.name for one in (timestamp_pb2, duration_pb2))
    for name, values in package.enums.items():
        enum = file.enum_type.add(name=name)
        for label, number in values.items():
            enum.value.add(name=label, number=number)
    for name, fields in package.messages.items():
        add_message(file.message_type.add(name=name), fields, enums)
    for name, rpcs in package.services.items():
        service = file.service.add(name=name)
        for rpc_name, rpc in rpcs.items():
            service.method.add(
                name=rpc_name,
                input_type=f".{rpc.request}",
                output_type=f".{rpc.response}",
                client_streaming=rpc.client_streams,
                server_streaming=rpc.server_streams,
            )
    return file


def add_message(message: descriptor_pb2.DescriptorProto, fields: list[Field], enums: set[str]) -> None:
    """Adds the fields; real oneofs come before the synthetic ones of `optional`, as the descriptor rules demand."""
    oneofs = list(dict.fromkeys(f.oneof for f in fields if f.oneof))
    oneofs += [f"_{f.name}" for f in fields if f.optional]
    for oneof in oneofs:
        message.oneof_decl.add(name=oneof)
    for f in fields:
        proto = message.field.add(name=f.name, number=f.number)
        proto.label = proto.LABEL_REPEATED if f.repeated else proto.LABEL_OPTIONAL
        if f.type in SCALARS:
            proto.type = SCALARS[f.type]
        else:
            proto.type = proto.TYPE_ENUM if f.type in enums else proto.TYPE_MESSAGE
            proto.type_name = f".{f.type}"
        if f.optional:
            proto.proto3_optional = True
        if f.oneof or f.optional:
            proto.oneof_index = oneofs.index(f.oneof or f"_{f.name}")


PACKAGES = {name: parse_package(name, text) for name, text in (WIRE | STANDARD).items()}
ENUMS = {f"{p.name}.{name}": values for p in PACKAGES.values() for name, values in p.enums.items()}
MESSAGES = {f"{p.name}.{name}": fields for p in PACKAGES.values() for name, fields in p.messages.items()}
SERVICES = {f"{p.name}.{name}": rpcs for p in PACKAGES.values() for name, rpcs in p.services.items()}

_POOL = descriptor_pool.DescriptorPool()
for _known in (timestamp_pb2, duration_pb2):
    _POOL.AddSerializedFile(_known.DESCRIPTOR.serialized_pb)
for _package in PACKAGES.values():
    _POOL.AddSerializedFile(file_descriptor(_package, set(ENUMS)).SerializeToString())


def message(full_name: str) -> type:
    """The class of a message, by full name."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(full_name))


def method(service: str, name: str) -> Method:
    """A method of a service, ready for a transport."""
    rpc = SERVICES[service][name]
    return Method(f"{service}/{name}", message(rpc.request), message(rpc.response))


def enum_value(enum: str, label: str) -> int:
    """The number of an enum's value."""
    return ENUMS[enum][label]
