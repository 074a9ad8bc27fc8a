"""Connect over HTTP/1.1 by the standard library: unary calls in protobuf and JSON, server streams in JSON, plain GET.

Transport only: it knows no method by name. Read `ConnectClient.unary` first; every refusal becomes a `ConnectError`.
"""

import base64
import http.client
import json
import struct
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from google.protobuf import json_format

from .descriptors import Method

STATUS_OF_CODE = {
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}
"""The HTTP status of each Connect code."""

END_OF_STREAM = 0x02


@dataclass
class ConnectError(Exception):
    """A refused call: the code in snake case, the server's sentence, the HTTP status, and details as (type, bytes)."""

    code: str
    message: str
    http_status: int
    details: list[tuple[str, bytes]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.code} ({self.http_status}): {self.message}"


class ConnectClient:
    """Calls one server; each call has a connection of its own, so nothing is shared between threads."""

    def __init__(self, base_url: str, bearer: str | None = None, timeout: float = 30.0):
        """`timeout` is in seconds and bounds each read; `bearer` is sent as it is."""
        url = urlsplit(base_url)
        self.host, self.port, self.prefix = url.hostname, url.port or 80, url.path.rstrip("/")
        self.bearer, self.timeout = bearer, timeout

    def unary(self, method: Method, request=None, **fields):
        """Calls by protobuf; the request is given whole or by its fields. Raises ConnectError."""
        request = method.request(**fields) if request is None else request
        body = self._post(method.path, "application/proto", request.SerializeToString())
        return method.response.FromString(body)

    def unary_json(self, method: Method, request: dict | None = None) -> dict:
        """Calls by JSON and returns the answer's JSON as it came. Raises ConnectError."""
        return json.loads(self._post(method.path, "application/json", json.dumps(request or {}).encode()))

    def raw_unary(self, path: str, content_type: str, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Posts a body as it is and returns status, headers and body as they came."""
        connection, response = self._send("POST", f"/{path}", body, {"content-type": content_type, "connect-protocol-version": "1"})
        with connection:
            return response.status, response.headers, response.read()

    def server_stream_json(self, method: Method, request: dict) -> "JsonStream":
        """Opens a server stream by JSON; the call is refused either here or by the stream's last frame."""
        message = json.dumps(request).encode()
        headers = {"content-type": "application/connect+json", "connect-protocol-version": "1"}
        connection, response = self._send("POST", f"/{method.path}", struct.pack(">BI", 0, len(message)) + message, headers)
        if response.status != 200:
            with connection:
                raise error_of(response.status, response.read())
        return JsonStream(connection, response, method)

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple["Connection", http.client.HTTPResponse]:
        """Sends a plain GET; the caller reads the response and closes the connection."""
        return self._send("GET", path, None, headers or {})

    def _post(self, path: str, content_type: str, body: bytes) -> bytes:
        status, headers, answer = self.raw_unary(path, content_type, body)
        if status != 200:
            raise error_of(status, answer)
        if headers.get_content_type() != content_type:
            raise ConnectError("internal", f"asked in {content_type}, answered in {headers.get_content_type()}", status)
        return answer

    def _send(self, verb: str, path: str, body: bytes | None, headers: dict[str, str]):
        if self.bearer is not None:
            headers = headers | {"authorization": f"Bearer {self.bearer}"}
        connection = Connection(self.host, self.port, timeout=self.timeout)
        try:
            connection.request(verb, self.prefix + path, body, headers)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise


class Connection(http.client.HTTPConnection):
    """An HTTP/1.1 connection that a `with` block closes."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class JsonStream:
    """A Connect server stream in JSON: iterate over its messages; the end raises ConnectError if it was a refusal."""

    def __init__(self, connection: Connection, response: http.client.HTTPResponse, method: Method):
        self.connection, self.response, self.method = connection, response, method
        self.headers = response.headers

    def __iter__(self):
        with self.connection:
            while True:
                flags, length = struct.unpack(">BI", self._exactly(5))
                payload = json.loads(self._exactly(length))
                if flags & END_OF_STREAM:
                    if refusal := payload.get("error"):
                        raise error_from_json(self.response.status, refusal)
                    return
                yield json_format.ParseDict(payload, self.method.response(), ignore_unknown_fields=True)

    def _exactly(self, count: int) -> bytes:
        data = self.response.read(count)
        if len(data) != count:
            raise ConnectError("unavailable", f"the stream ended without its last frame ({len(data)} of {count} bytes)", self.response.status)
        return data


def error_of(status: int, body: bytes) -> ConnectError:
    """Reads the JSON body of a refused call. Any other body is reported unchanged, because our server must not send one."""
    try:
        return error_from_json(status, json.loads(body))
    except (ValueError, KeyError, AttributeError):
        return ConnectError("unknown", f"not a Connect error: {body[:200]!r}", status)


def error_from_json(status: int, refusal: dict) -> ConnectError:
    """Reads `{"code", "message", "details": [{"type", "value"}]}`; values are base64 without padding."""
    details = [(d["type"], base64.b64decode(d["value"] + "=" * (-len(d["value"]) % 4))) for d in refusal.get("details", [])]
    return ConnectError(refusal["code"], refusal.get("message", ""), status, details)
