#!/usr/bin/env python3
"""A driver plugin written from the plugins' contract alone: devices of Acme, which listen on port 4477 and say what they
are when they are sent `WHO`. What such a device says also makes the plugin misbehave, so that its host can be tested:

    ACME MODEL SERIAL MAC   a device
    LIES                    reports another address for a device
    OTHER                   none of this plugin's devices
    LOGIN, GONE, FAIL       the errors UNAUTHENTICATED, UNAVAILABLE, UNKNOWN
    CRASH                   the process ends at once
    SLEEP                   no answer
    GARBAGE, HUGE           an answer that is no message, or one of a megabyte
    PRINT                   a device, after a line of a megabyte on standard output
"""

import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, message_factory

PORT = "4477"
PASSWORD = "sesame"

STRING, INT32, BOOL, MESSAGE = 9, 5, 8, 11
MESSAGES = {
    "HandshakeResponse": [("driver_name", 1, STRING), ("api_version", 2, STRING)],
    "GetDiscoveryPortsResponse": [("ports", 1, [STRING])],
    "DiscoverDeviceRequest": [("ip_address", 1, STRING), ("port", 2, STRING)],
    "DeviceInfo": [
        ("host", 1, STRING),
        ("port", 2, INT32),
        ("url_scheme", 3, STRING),
        ("serial_number", 4, STRING),
        ("model", 5, STRING),
        ("manufacturer", 6, STRING),
        ("mac_address", 8, STRING),
        ("firmware_version", 9, STRING),
    ],
    "DeviceResponse": [("device", 1, "DeviceInfo")],
    "UsernamePassword": [("username", 1, STRING), ("password", 2, STRING)],
    "SecretBundle": [("version", 1, STRING), ("user_pass", 3, "UsernamePassword")],
    "GetDefaultCredentialsRequest": [("manufacturer", 1, STRING), ("firmware_version", 2, STRING)],
    "GetDefaultCredentialsResponse": [("credentials", 1, ["UsernamePassword"])],
    "PairDeviceRequest": [("device", 1, "DeviceInfo"), ("access", 2, "SecretBundle")],
}


def messages():
    """The classes of the messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="acme.proto", package="acme", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            label = 3 if isinstance(kind, list) else 1
            kind = kind[0] if isinstance(kind, list) else kind
            added = message.field.add(name=field, number=number, label=label)
            added.type = kind if isinstance(kind, int) else MESSAGE
            if isinstance(kind, str):
                added.type_name = f".acme.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"acme.{name}")) for name in MESSAGES}


M = messages()


def who(address, port):
    """What a device says that it is."""
    with socket.create_connection((address, int(port)), timeout=5) as device:
        device.sendall(b"WHO\n")
        return device.makefile().readline().split()


def handshake(_request, _context):
    return M["HandshakeResponse"](driver_name="acme", api_version="v1")


def discovery_ports(_request, _context):
    return M["GetDiscoveryPortsResponse"](ports=[PORT])


def device(host, port, words):
    """A device in the words of the contract."""
    _, model, serial, mac = words
    return M["DeviceInfo"](
        host=host,
        port=int(port),
        url_scheme="http",
        serial_number=serial,
        model=model,
        manufacturer="Acme",
        mac_address=mac,
        firmware_version="1.0",
    )


def discover(request, context):
    host, port = request.ip_address, request.port
    try:
        words = who(host, port)
    except OSError as error:
        context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
    errors = {
        "LOGIN": grpc.StatusCode.UNAUTHENTICATED,
        "GONE": grpc.StatusCode.UNAVAILABLE,
        "FAIL": grpc.StatusCode.UNKNOWN,
    }
    match words:
        case ["ACME", *_]:
            return M["DeviceResponse"](device=device(host, port, words))
        case ["LIES"]:
            return M["DeviceResponse"](device=device("8.8.8.8", 1, ["", "Liar", "L1", ""]))
        case ["PRINT"]:
            print("x" * 1_000_000, flush=True)
            return M["DeviceResponse"](device=device(host, port, ["", "Printer", "P1", ""]))
        case ["CRASH"]:
            os._exit(1)
        case ["SLEEP"]:
            time.sleep(3600)
        case ["GARBAGE"]:
            return b"\x0a\xff\xff\xff\xff\x0f"
        case ["HUGE"]:
            return M["DeviceResponse"](device=M["DeviceInfo"](model="x" * 1_000_000))
        case [word] if word in errors:
            context.abort(errors[word], f"{word} from {host}")
    context.abort(grpc.StatusCode.NOT_FOUND, "not mine")


def default_credentials(request, _context):
    logins = [("root", "wrong"), ("root", PASSWORD)] if request.manufacturer == "Acme" else []
    logins = [M["UsernamePassword"](username=name, password=password) for name, password in logins]
    return M["GetDefaultCredentialsResponse"](credentials=logins)


def pair(request, context):
    login = request.access.user_pass
    # The node must pass on what this plugin reported, not what another driver knows.
    if request.device != device(request.device.host, PORT, who(request.device.host, PORT)):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this is not the plugin's description")
    # Some devices need more time for a login than for a question.
    left = context.time_remaining()
    if left is not None and left <= 30:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this is too little time for a pairing")
    if request.access.version != "v1" or login.password != PASSWORD:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong password")
    return M["DeviceResponse"](device=request.device)


def encoded(message):
    return message if isinstance(message, bytes) else message.SerializeToString()


def method(handler, request):
    return grpc.unary_unary_rpc_method_handler(handler, request.FromString, encoded)


def main():
    if os.environ.get("MINER_DRIVER_PLUGIN") != "fleet-miner-driver":
        sys.exit("this is a driver plugin, started by a node")
    # Only shutting down by the host counts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    handlers = {
        "Handshake": method(handshake, empty_pb2.Empty),
        "GetDiscoveryPorts": method(discovery_ports, empty_pb2.Empty),
        "DiscoverDevice": method(discover, M["DiscoverDeviceRequest"]),
        "GetDefaultCredentials": method(default_credentials, M["GetDefaultCredentialsRequest"]),
        "PairDevice": method(pair, M["PairDeviceRequest"]),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("sdk.v1.Driver", handlers),))
    folder = os.environ.get("PLUGIN_UNIX_SOCKET_DIR")
    if folder:
        path = f"{folder}/acme-{os.getpid()}"
        server.add_insecure_port(f"unix:{path}")
        line = f"1|1|unix|{path}|grpc|"
    else:
        line = f"1|1|tcp|127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}|grpc"
    server.start()
    print(line, flush=True)
    print("acme is up", file=sys.stderr, flush=True)
    server.wait_for_termination()


main()
