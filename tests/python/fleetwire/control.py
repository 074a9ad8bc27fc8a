"""Native gRPC over HTTP/2 without TLS: the node's control stream, and the generic stubs other callers need.

It moves messages and reports how a stream ended; what to answer is `node`'s affair. Read `ControlStream` first.
"""

import queue
import threading
from urllib.parse import urlsplit

import grpc

from . import descriptors
from .descriptors import Method

CONTROL_STREAM = descriptors.method("fleetnodegateway.v1.FleetNodeGatewayService", "ControlStream")
UPSTREAM_KINDS = {"accepted", "command"}
"""The arms of ControlStreamResponse that an upstream node can see; it refuses a message with any other."""

_END = object()


def channel(base_url: str) -> grpc.Channel:
    """Opens a new connection to the server, for messages up to 64 MiB and never through a proxy."""
    url = urlsplit(base_url)
    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", 64 << 20),
    ]
    return grpc.insecure_channel(f"{url.hostname}:{url.port or 80}", options=options)


def path(base_url: str, method: Method) -> str:
    """The method's path after the URL's own prefix."""
    return f"{urlsplit(base_url).path.rstrip('/')}/{method.path}"


def bearer_metadata(bearer: str | None) -> list[tuple[str, str]]:
    """The metadata that carries a bearer token."""
    return [("authorization", f"Bearer {bearer}")] if bearer is not None else []


class ControlStream:
    """One control stream of a node: send requests, receive responses, learn the end. One reader thread."""

    def __init__(self, base_url: str, bearer: str | None, extended: bool = False):
        """Opens the stream and sends nothing yet; `extended` allows the arms of our extensions to arrive."""
        self.allowed = UPSTREAM_KINDS | ({"cancel", "goodbye"} if extended else set())
        self.kinds: list[str | None] = []
        self.accepted: list = []
        self.unacked: list[str] = []
        self._outgoing: queue.SimpleQueue = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue = queue.SimpleQueue()
        self._ended = threading.Event()
        self._channel = channel(base_url)
        open_stream = self._channel.stream_stream(
            path(base_url, CONTROL_STREAM),
            request_serializer=CONTROL_STREAM.request.SerializeToString,
            response_deserializer=CONTROL_STREAM.response.FromString,
        )
        self._call = open_stream(iter(self._outgoing.get, _END), metadata=bearer_metadata(bearer))
        threading.Thread(target=self._read, name="control-stream", daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, **kind) -> None:
        """Queues one request, named by its arm: `send(hello=...)`."""
        self._outgoing.put(CONTROL_STREAM.request(**kind))

    def acknowledge(self, command_id: str, **fields) -> None:
        """Ends a command; `code` may be an AckCode's short label or a number."""
        code = fields.pop("code")
        if isinstance(code, str):
            code = descriptors.enum_value("fleetnodegateway.v1.AckCode", f"ACK_CODE_{code}")
        if command_id in self.unacked:
            self.unacked.remove(command_id)
        self.send(ack=descriptors.message("fleetnodegateway.v1.ControlAck")(command_id=command_id, code=code, **fields))

    def next(self, kind: str, timeout: float = 30.0):
        """Waits (seconds) for the next message of that arm and returns it; others are passed over, the end is an error."""
        while True:
            try:
                arrived = self._incoming.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError(f"no {kind} within {timeout} s; so far {self.kinds}") from None
            if arrived is _END:
                self._incoming.put(_END)
                raise EOFError(f"the stream ended with {self.status()} before any {kind}")
            if arrived.WhichOneof("kind") == kind:
                return getattr(arrived, kind)

    def ended(self, timeout: float = 30.0) -> tuple[grpc.StatusCode, str]:
        """Waits (seconds) for the server to end the stream and returns how."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"the stream has not ended within {timeout} s")
        return self.status()

    @property
    def alive(self) -> bool:
        """Whether neither side has ended the stream."""
        return not self._ended.is_set()

    def status(self) -> tuple[grpc.StatusCode, str]:
        """The gRPC status of an ended stream."""
        return self._call.code(), self._call.details()

    def close(self) -> None:
        """Ends open commands as failed, because the next test needs an idle node, and closes the stream."""
        for command_id in list(self.unacked):
            self.acknowledge(command_id, code="SCAN_FAILED", error_message="the client is leaving")
        self._outgoing.put(_END)
        if not self._ended.wait(5):
            self._call.cancel()
        self._ended.wait(5)
        self._channel.close()

    def drop(self) -> None:
        """Drops the connection as a crashed node does: commands stay unacknowledged."""
        self._call.cancel()
        self._ended.wait(5)
        self._channel.close()

    def _read(self) -> None:
        try:
            for response in self._call:
                kind = response.WhichOneof("kind")
                self.kinds.append(kind)
                if kind == "accepted":
                    self.accepted.append(response.accepted)
                if kind == "command":
                    self.unacked.append(response.command.command_id)
                if kind not in self.allowed:
                    self._call.cancel()  # what an upstream peer does with an arm it cannot see
                self._incoming.put(response)
        except grpc.RpcError:
            pass  # status() reports it
        finally:
            self._ended.set()
            self._outgoing.put(_END)
            self._incoming.put(_END)
