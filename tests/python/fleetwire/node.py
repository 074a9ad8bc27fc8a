"""A small node that behaves as an upstream one: it enrolls, proves itself, keeps its heartbeat, reports and opens its stream.

Everything unary goes by Connect protobuf over HTTP/1.1, the control stream by gRPC, as the wire facts say. It decides
nothing about scans: a test tells it what it has found. Read `Node` first.
"""

import hashlib
import socket
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from . import descriptors
from .connect import ConnectClient
from .control import ControlStream

GATEWAY = "fleetnodegateway.v1.FleetNodeGatewayService"
REGISTER = descriptors.method(GATEWAY, "Register")
BEGIN = descriptors.method(GATEWAY, "BeginAuthHandshake")
COMPLETE = descriptors.method(GATEWAY, "CompleteAuthHandshake")
HEARTBEAT = descriptors.method(GATEWAY, "UploadHeartbeat")
REPORT = descriptors.method(GATEWAY, "ReportDiscoveredDevices")

HELLO = descriptors.message("fleetnodegateway.v1.ControlHello")
AGENT_COMMAND = descriptors.message("fleetnodegateway.v1.AgentCommand")
DEVICE_REPORT = descriptors.message("fleetnodegateway.v1.DiscoveredDeviceReport")

CHALLENGE_TAG = b"fleet-node-auth1"
"""The first 16 bytes of a challenge. A node must sign nothing else, because such a signature could be used elsewhere."""


def fingerprint(identity_pubkey: bytes) -> str:
    """Lower-case hex of the first 8 bytes of SHA-256 over the raw key."""
    return hashlib.sha256(identity_pubkey).hexdigest()[:16]


def auto_identifier(node_id: int, address: str, port: str, driver: str, model: str) -> str:
    """The identifier of a device that shows neither MAC nor serial; the parts are joined by single NUL bytes."""
    joined = b"\0".join(part.encode() for part in (str(node_id), address, port, driver, model))
    return f"auto:{hashlib.sha256(joined).hexdigest()[:16]}"


def device(identifier: str, address: str, port: str = "4028", **fields):
    """A device report with the texts that a CGMiner-style driver would fill in, unless overridden."""
    texts = {"url_scheme": "http", "driver_name": "antminer", "model": "Antminer S19", "manufacturer": "Bitmain", "firmware_version": "2024.1"}
    return DEVICE_REPORT(device_identifier=identifier, ip_address=address, port=port, **(texts | fields))


@dataclass
class Keys:
    """The two key pairs of a node."""

    identity: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    encryption: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    @property
    def identity_pubkey(self) -> bytes:
        """The raw 32 bytes that name the node."""
        return self.identity.public_key().public_bytes_raw()

    @property
    def encryption_pubkey(self) -> bytes:
        """The raw 32 bytes that credentials are sealed to."""
        return self.encryption.public_key().public_bytes_raw()


class Node:
    """A node with its keys and, as it gets them, its id, API key and session token."""

    def __init__(self, base_url: str, name: str):
        self.base_url, self.name, self.keys = base_url, name, Keys()
        self.public = ConnectClient(base_url)
        self.node_id: int | None = None
        self.api_key: str | None = None
        self.session_token: str | None = None

    def register(self, code: str, **overrides):
        """Registers with an enrollment code and keeps the id; `overrides` replace request fields."""
        fields = {
            "enrollment_token": code,
            "name": self.name,
            "identity_pubkey": self.keys.identity_pubkey,
            "encryption_pubkey": self.keys.encryption_pubkey,
        }
        answer = self.public.unary(REGISTER, **(fields | overrides))
        self.node_id = answer.fleet_node_id
        return answer

    def begin(self):
        """Asks for a challenge."""
        return self.public.unary(BEGIN, api_key=self.api_key, identity_pubkey=self.keys.identity_pubkey)

    def complete(self, challenge: bytes, signature: bytes | None = None):
        """Answers a challenge, by default with the identity key's signature over it as it came."""
        signature = self.keys.identity.sign(challenge) if signature is None else signature
        return self.public.unary(COMPLETE, challenge=challenge, signature=signature)

    def authenticate(self):
        """Opens a new session and uses it from here on."""
        answer = self.complete(self.begin().challenge)
        self.session_token = answer.session_token
        return answer

    def session(self, token: str | None = None) -> ConnectClient:
        """A client that carries the session's bearer, or another one."""
        return ConnectClient(self.base_url, token or self.session_token)

    def heartbeat(self, token: str | None = None):
        """Sends one heartbeat with the node's own time."""
        request = HEARTBEAT.request()
        request.sent_at.GetCurrentTime()
        return self.session(token).unary(HEARTBEAT, request)

    def report(self, command_id: str, *devices) -> tuple[int, int]:
        """Reports devices under a command; returns how many were accepted and rejected."""
        answer = self.session().unary(REPORT, command_id=command_id, devices=devices)
        return answer.accepted_count, answer.rejected_count

    def open_stream(self, hello=None, **options) -> ControlStream:
        """Opens the control stream, sends Hello (empty unless given) and waits until it is accepted."""
        stream = ControlStream(self.base_url, self.session_token, **options)
        try:
            stream.send(hello=hello or HELLO())
            stream.next("accepted")
        except BaseException:
            stream.close()
            raise
        return stream


def decode_command(command):
    """The AgentCommand inside a ControlCommand; no arm set means a command this node does not know."""
    return AGENT_COMMAND.FromString(command.payload)


def answers(address: str, port: str, timeout: float = 3.0) -> bool:
    """Whether something accepts a TCP connection there within the time (seconds)."""
    try:
        with socket.create_connection((address, int(port)), timeout=timeout):
            return True
    except OSError:
        return False
