"""An anonymous client that does what a shared connection must survive: headers that are too long, and resets.

HTTP/2 is written by hand, because no client library sends such requests.
"""

import http.client
import socket
import ssl
import struct
from urllib.parse import urlsplit

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = 8
FRAME = 16_384
PATH = "/fleetnodegateway.v1.FleetNodeGatewayService/ControlStream"


def context(protocol: str) -> ssl.SSLContext:
    """TLS without a check of the certificate: the client is hostile, not careful."""
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.set_alpn_protocols([protocol])
    return made


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value: bytes) -> bytes:
    """A string of HPACK without Huffman coding."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    length, rest = bytearray([127]), len(value) - 127
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([*length, rest]) + value


def fields(*pairs: tuple[str, str]) -> bytes:
    """Header fields of HPACK, literal and not indexed."""
    return b"".join(b"\0" + text(name.encode()) + text(value.encode()) for name, value in pairs)


class Http2:
    """An HTTP/2 connection of a hostile client."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self.authority = parts.netloc
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=10)
        if parts.scheme == "https":
            self.socket = context("h2").wrap_socket(self.socket, server_hostname=parts.hostname)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0))

    def request(self, stream: int, *more: tuple[str, str], path: str = PATH) -> bytes:
        """The frames of a request whose body does not end."""
        head = [(":method", "POST"), (":scheme", "https"), (":authority", self.authority), (":path", path)]
        block = fields(*head, ("content-type", "application/grpc"), ("te", "trailers"), *more)
        pieces = [block[at : at + FRAME] for at in range(0, len(block), FRAME)]
        last = len(pieces) - 1
        kinds = [(CONTINUATION if place else HEADERS, END_HEADERS if place == last else 0) for place in range(len(pieces))]
        return b"".join(frame(kind, flags, stream, piece) for (kind, flags), piece in zip(kinds, pieces))

    def send(self, sent: bytes) -> None:
        try:
            self.socket.sendall(sent)
        except OSError:
            pass  # The proxy has cut the client off.

    def finish(self) -> None:
        """Sends a PING and reads until its answer or the end: everything before it has been processed."""
        self.send(frame(PING, 0, 0, b"finished"))
        received = b""
        try:
            while b"finished" not in received and (piece := self.socket.recv(65_536)):
                received += piece
        except OSError:
            pass
        self.socket.close()


def header_of(url: str, length: int) -> None:
    """Sends a request with one header of this length over HTTP/1.1, and another one over HTTP/2."""
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=10, context=context("http/1.1"))
    try:
        connection.request("POST", PATH, b"", {"content-type": "application/grpc", "x-long": "x" * length})
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        pass  # A proxy may cut the client off.
    finally:
        connection.close()
    client = Http2(url)
    client.send(client.request(1, ("x-long", "x" * length)))
    client.finish()


def resets(url: str, count: int) -> None:
    """Opens streams and resets each at once."""
    client = Http2(url)
    streams = range(1, 2 * count, 2)
    client.send(b"".join(client.request(stream) + frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)) for stream in streams))
    client.finish()
