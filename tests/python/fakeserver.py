"""A server for tests of the web page: the files of the page, and an API whose responses a test sets.

The responses are in the JSON of the API. A real server cannot be brought into every state that the page must show, such
as a node that disconnects at a given moment.
"""

import json
import mimetypes
import re
import socketserver
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "fleet-server/web"
POLICY = re.search(r'const POLICY: &str =\s*"([^"]+)"', (ROOT / "fleet-server/src/http/assets.rs").read_text()).group(1)
"""The content security policy of the real server."""

PERMISSIONS = ["fleetnode:read", "fleetnode:manage", "miner:pair", "org:admin"]


def ago(seconds: float) -> str:
    """Returns a timestamp in the past, in the JSON of the API."""
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Refused(Exception):
    """An error response of the API."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message}


class FakeServer:
    """The server. `replies` maps a procedure to its response, or to a function of the request."""

    def __init__(self):
        self.replies: dict = {}
        self.requests: list[tuple[str, dict]] = []
        self.offline = False
        self.session = {"email": "ops@example.org", "organization": "lab", "role": "admin", "permissions": PERMISSIONS, "serverVersion": "0.1.0"}
        self.methods = {"passwords": True, "provider": None}
        self.events: dict[str, list[dict]] = {}
        self.changed = threading.Condition()
        self.http = _Threads(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        with self.changed:
            self.offline = True
            self.changed.notify_all()
        self.http.shutdown()
        self.http.server_close()

    def go_offline(self) -> None:
        """Closes every connection from now on without a response."""
        with self.changed:
            self.offline = True
            self.changed.notify_all()

    def go_online(self) -> None:
        self.offline = False

    def send(self, scan: str, *events: dict) -> None:
        """Appends events to the stream of a scan. An event with `seq` is part of the log."""
        with self.changed:
            self.events.setdefault(scan, []).extend(events)
            self.changed.notify_all()


class _Threads(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


def _handler(server: FakeServer):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments):
            pass

        def respond(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("content-security-policy", POLICY)
            self.end_headers()
            self.wfile.write(body)

        def json(self, status: int, body) -> None:
            self.respond(status, "application/json", json.dumps(body).encode())

        def do_GET(self):
            path, _, query = self.path.partition("?")
            if path == "/api/session":
                if server.offline:
                    self.close_connection = True
                elif server.session is None:
                    self.json(401, {"code": "unauthenticated", "message": "no session"})
                else:
                    self.json(200, server.session)
            elif path == "/api/sign-in":
                self.json(200, server.methods)
            elif path.startswith("/api/scans/"):
                self.stream(path.split("/")[3], int(query.partition("=")[2] or 0))
            else:
                file = WEB / ("index.html" if path == "/" else path.lstrip("/"))
                if not file.is_file():
                    self.json(404, {"code": "not_found", "message": path})
                    return
                kind = "text/javascript" if file.suffix == ".js" else mimetypes.guess_type(file.name)[0]
                self.respond(200, kind, file.read_bytes())

        def stream(self, scan: str, after: int) -> None:
            self.close_connection = True
            if server.offline:
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b": scan events\nretry: 1000\n\n")
            at = 0
            while True:
                with server.changed:
                    server.changed.wait_for(lambda: server.offline or len(server.events.get(scan, [])) > at)
                    if server.offline:
                        return
                    fresh = server.events[scan][at:]
                at += len(fresh)
                for event in fresh:
                    seq = event.get("seq", 0)
                    if seq and seq <= after:
                        continue
                    self.wfile.write((f"id: {seq}\n" if seq else "").encode() + f"data: {json.dumps(event)}\n\n".encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
            if server.offline:
                self.close_connection = True
                return
            procedure = self.path.lstrip("/").rpartition(".")[2]
            server.requests.append((procedure, body))
            reply = server.replies.get(procedure, {})
            try:
                self.json(200, reply(body) if callable(reply) else reply)
            except Refused as refused:
                self.json(refused.status, refused.body)

    return Handler
