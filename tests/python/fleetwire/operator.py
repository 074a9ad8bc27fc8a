"""The operator's side: enrollment by Connect JSON, and a scan watched by gRPC or by a Connect JSON stream.

Read `Operator` first; `Watch` is a scan somebody looks at, in a thread of its own.
"""

import threading

import grpc
from google.protobuf import json_format

from . import control, descriptors
from .connect import ConnectClient, ConnectError

ADMIN = "fleetnodeadmin.v1.FleetNodeAdminService"
CREATE_CODE = descriptors.method(ADMIN, "CreateEnrollmentCode")
LIST_NODES = descriptors.method(ADMIN, "ListFleetNodes")
CONFIRM = descriptors.method(ADMIN, "ConfirmFleetNode")
REVOKE = descriptors.method(ADMIN, "RevokeFleetNode")
DISCOVER = descriptors.method(ADMIN, "DiscoverOnFleetNode")


class Operator:
    """An operator, identified by a key."""

    def __init__(self, base_url: str, key: str):
        self.base_url, self.key = base_url, key
        self.client = ConnectClient(base_url, key)

    def create_code(self) -> dict:
        """A new enrollment code, as JSON: `code`, `expiresAt`, `pendingEnrollmentId`."""
        return self.client.unary_json(CREATE_CODE)

    def confirm(self, node_id: int, pending_enrollment_id: int) -> dict:
        """Confirms a registered node; the JSON holds its `apiKey`."""
        return self.client.unary_json(CONFIRM, {"fleetNodeId": str(node_id), "pendingEnrollmentId": str(pending_enrollment_id)})

    def revoke(self, node_id: int, pending_enrollment_id: int | None = None) -> dict:
        """Revokes a node; one that still awaits its confirmation needs the id of its invitation."""
        request = {"fleetNodeId": str(node_id)}
        if pending_enrollment_id is not None:
            request["pendingEnrollmentId"] = str(pending_enrollment_id)
        return self.client.unary_json(REVOKE, request)

    def nodes(self) -> dict[int, dict]:
        """All nodes as JSON, by id."""
        return {int(node["fleetNodeId"]): node for node in self.client.unary_json(LIST_NODES).get("fleetNodes", [])}

    def discover(self, transport: str, node_id: int, request: dict) -> "Watch":
        """Starts a scan (`request` is a DiscoverRequest as JSON) and watches it over `grpc` or `connect-json`."""
        return Watch(self, transport, {"fleetNodeId": str(node_id), "request": request})


class Watch:
    """A watch of a scan until its stream ends: devices and error texts in order of arrival, then the final code."""

    def __init__(self, operator: Operator, transport: str, request: dict):
        self.scan_id: str | None = None
        self.devices: list = []
        self.errors: list[str] = []
        self.code: str | None = None
        self.message = ""
        self.trouble: BaseException | None = None
        self._changed = threading.Condition()
        read = {"grpc": self._read_grpc, "connect-json": self._read_connect}[transport]
        self._thread = threading.Thread(target=self._run, args=(read, operator, request), name=f"watch-{transport}", daemon=True)
        self._thread.start()

    def wait_for_devices(self, count: int, timeout: float = 30.0) -> list:
        """Waits (seconds) until that many devices have arrived, and returns them."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.devices) >= count, timeout):
                raise TimeoutError(f"{len(self.devices)} of {count} devices within {timeout} s; ended: {self.code} {self.message}")
            return list(self.devices)

    def outcome(self, timeout: float = 60.0) -> tuple[str, str]:
        """Waits (seconds) for the end and returns (code in snake case, message); the code of success is `ok`."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the watch has not ended within {timeout} s; devices so far: {self.devices}")
        if self.trouble is not None:
            raise self.trouble
        return self.code, self.message

    def _run(self, read, operator: Operator, request: dict) -> None:
        try:
            read(operator, request)
            self.code = "ok"
        except ConnectError as refusal:
            self.code, self.message = refusal.code, refusal.message
        except grpc.RpcError as refusal:
            code = refusal.code().name.lower()
            self.code, self.message = {"cancelled": "canceled"}.get(code, code), refusal.details()
        except Exception as trouble:  # shown by outcome(), in the test's own thread
            self.trouble = trouble

    def _read_grpc(self, operator: Operator, request: dict) -> None:
        with control.channel(operator.base_url) as channel:
            start = channel.unary_stream(
                control.path(operator.base_url, DISCOVER),
                request_serializer=DISCOVER.request.SerializeToString,
                response_deserializer=DISCOVER.response.FromString,
            )
            call = start(json_format.ParseDict(request, DISCOVER.request()), metadata=control.bearer_metadata(operator.key))
            self.scan_id = dict(call.initial_metadata()).get("fleet-scan-id")
            for answer in call:
                self._take(answer)

    def _read_connect(self, operator: Operator, request: dict) -> None:
        stream = operator.client.server_stream_json(DISCOVER, request)
        self.scan_id = stream.headers.get("fleet-scan-id")
        for answer in stream:
            self._take(answer)

    def _take(self, answer) -> None:
        with self._changed:
            self.devices.extend(answer.response.devices)
            if answer.response.error:
                self.errors.append(answer.response.error)
            self._changed.notify_all()
