"""The product's own programs for tests with real peers: a server, nodes and simulated devices, each a process on loopback.

The programs are those of FLEET_BIN_DIR, which `cargo xtask test` sets, or of target/debug. Read `World` first.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(os.environ.get("FLEET_BIN_DIR", ROOT / "target/debug"))
PORTS = (24028, 24080)
"""The ports of simulated devices: the CGMiner API and the web page."""


def program(name: str) -> Path:
    """A built program of the product; the test is skipped where it was not built."""
    path = BINARIES / name
    return path if path.exists() else pytest.skip(f"{name} was not built: run `cargo build --bins`")


def free_port() -> int:
    """A port that nothing uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def postgres_database():
    """The URL of a new PostgreSQL database on the server of FLEET_TEST_POSTGRES; the test is skipped without one."""
    server = os.environ.get("FLEET_TEST_POSTGRES") or pytest.skip("FLEET_TEST_POSTGRES is not set: run `cargo xtask postgres`")
    shell = shutil.which("psql") or pytest.skip("psql is not installed")
    name = f"fleet_python_{os.getpid()}_{time.monotonic_ns()}"

    def run(sql: str) -> None:
        subprocess.run([shell, "--no-psqlrc", "--quiet", server, "--command", sql], check=True, capture_output=True)

    run(f"CREATE DATABASE {name}")
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        run(f"DROP DATABASE {name} WITH (FORCE)")


def eventually(what: str, condition, within: float = 120.0):
    """Waits (seconds) until a condition is true, and returns its value. The bound only turns a hang into a failure."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {within:.0f} s for {what}"
        time.sleep(0.05)
    return value


PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def end_with_the_tests() -> None:
    """Runs in a new process: it is killed when the test run is, even without a chance to clean up."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A process that logs to a file and does not outlive the test."""

    def __init__(self, name: str, folder: Path, command: list, environment: dict | None = None):
        self.name, self.log, self.command = name, folder / f"{name}.log", [str(word) for word in command]
        self.environment = os.environ | (environment or {})
        self.folder = folder
        self.start()

    def start(self) -> None:
        """Starts the process, again with the same command and log."""
        with self.log.open("a") as log:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=end_with_the_tests,
            )

    def running(self) -> bool:
        return self.child.poll() is None

    def signal(self, number: int) -> None:
        """Signals the process, but not its children."""
        self.child.send_signal(number)

    def terminate(self, within: float = 60.0) -> int:
        """Asks the process to end and returns its status."""
        self.child.terminate()
        return self.child.wait(within)

    def kill(self) -> None:
        """Kills the process with its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(30)

    def logged(self, text: str) -> int:
        """How many lines of the log contain the text."""
        return sum(text in line for line in self.log.read_text(errors="replace").splitlines())

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _is_ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/readyz", timeout=5).status == 200
    except OSError:
        return False


class World:
    """A server with its administrator, and the nodes and devices that a test adds."""

    def __init__(self, folder: Path, flags: list[str] = (), settings: str = "", nodes_url: str | None = None, database: str | None = None):
        """`flags` are those of `fleetd serve`; nodes enroll at `nodes_url`, by default at the server itself. `database` is a
        URL of PostgreSQL instead of a SQLite file."""
        folder.mkdir(exist_ok=True)
        self.folder, self.flags = folder, list(flags)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.nodes_url = nodes_url or self.url
        self.ca: Path | None = None
        self.processes: list[Process] = []
        self.nodes: list[Process] = []
        self.config = folder / "fleetd.toml"
        database = database or f"sqlite://{folder}/fleet.db?mode=rwc"
        # The rates would delay the enrollment of many nodes from one address.
        self.config.write_text(
            f'listen = "127.0.0.1:{self.port}"\ndatabase-url = "{database}"\n{settings}\n'
            "[rates]\nregister = 0\nhandshakes = 0\n"
        )
        subprocess.run([program("fleetd"), "migrate", "--config", self.config], check=True, capture_output=True)
        self.admin("create-operator", "--org", "lab", "--email", "lab@example.org", "--role", "admin")
        self.key = self.admin("create-key", "--email", "lab@example.org").strip()
        self.server = self.process("fleetd", [program("fleetd"), "serve", "--config", self.config, "--demo-allow-loopback", *self.flags])
        self.until_ready()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.kill()

    def process(self, name: str, command: list, environment: dict | None = None) -> Process:
        """Starts a process that ends with the world."""
        self.processes.append(Process(name, self.folder, command, environment))
        return self.processes[-1]

    def admin(self, *arguments: str) -> str:
        """Runs `fleetd admin` and returns its output."""
        command = [program("fleetd"), "admin", *arguments, "--config", self.config]
        return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout

    def replica(self) -> str:
        """Starts another server on the same database, with the flags of the first one, and returns its URL."""
        port = free_port()
        self.process(f"fleetd-{port}", [*self.server.command, "--listen", f"127.0.0.1:{port}"])
        url = f"http://127.0.0.1:{port}"
        eventually("another ready server", lambda: _is_ready(url))
        return url

    def until_ready(self) -> None:
        eventually("a ready server", self.is_ready)

    def is_ready(self) -> bool:
        assert self.server.running(), self.server.tail()
        return _is_ready(self.url)

    def call(self, procedure: str, **body) -> dict:
        """Calls a procedure as the administrator, at the server itself."""
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{procedure}", json.dumps(body).encode(), headers)
        try:
            return json.load(urllib.request.urlopen(request, timeout=60))
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{procedure}: {refused.code} {refused.read().decode()}") from None

    def enroll(self, name: str) -> int:
        """Enrolls a node by its own program and returns its id."""
        code = self.call("fleetnodeadmin.v1.FleetNodeAdminService/CreateEnrollmentCode")
        printed = self._enroll(name, code["code"])
        node_id = int(re.search(r"\(id (\d+)\)", printed)[1])
        pending = int(code["pendingEnrollmentId"])
        confirmed = self.call("fleetnodeadmin.v1.FleetNodeAdminService/ConfirmFleetNode", fleetNodeId=node_id, pendingEnrollmentId=pending)
        self._enroll(name, confirmed["apiKey"])
        return node_id

    def _enroll(self, name: str, secret: str) -> str:
        authority = ["--ca", self.ca] if self.ca else []
        command = [program("fleetnode"), "enroll", "--name", name, "--server-url", self.nodes_url, "--state-dir", self.folder / name, *authority]
        done = subprocess.run(command, input=f"{secret}\n", capture_output=True, text=True)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def run_node(self, name: str, *flags) -> Process:
        """Runs an enrolled node."""
        command = [program("fleetnode"), "run", "--demo-allow-loopback", "--state-dir", self.folder / name, "--log", "info", *flags]
        self.nodes.append(self.process(name, command))
        return self.nodes[-1]

    def connected(self) -> dict[int, dict]:
        """The nodes whose control stream is open, by id."""
        nodes = self.call("fleet.v1.NodeService/ListNodes").get("nodes", [])
        return {int(node["fleetNodeId"]): node for node in nodes if node.get("connected")}

    def until_connected(self, count: int, within: float = 120.0) -> None:
        eventually(f"{count} connected nodes", lambda: len(self.connected()) == count, within)

    def site(self, subnet: str, devices: int, delay_ms: int = 0, cgminer_port: int = PORTS[0]) -> list[str]:
        """Starts simulated devices and returns the addresses of those that a scan identifies."""
        command = [program("fleet-sim"), "--subnet", subnet, "--devices", str(devices), "--uniform"]
        command += ["--cgminer-port", str(cgminer_port), "--http-port", str(PORTS[1])]
        made = subprocess.run([*command, "--print-site"], check=True, capture_output=True, text=True).stdout
        site = json.loads(made)
        for device in site["devices"]:
            for service in device["services"]:
                service["delay_ms"] = delay_ms
        description = self.folder / "site.json"
        description.write_text(json.dumps(site))
        process = self.process("fleet-sim", [program("fleet-sim"), "--site", description])


        def is_ready() -> bool:
            assert process.running(), process.tail()
            return process.logged("ready: ") > 0

        eventually("the simulated devices", is_ready)
        return [device["address"] for device in site["devices"]]

    def start_scan(self, node: int, targets: str, **more) -> str:
        """Starts a scan on a node and returns its id."""
        body = {"requestId": os.urandom(8).hex(), "fleetNodeId": node, "request": {"nmap": {"target": targets, "ports": [str(PORTS[0])]}}}
        return self.call("fleet.v1.ScanService/StartScan", **(body | more))["scan"]["scanId"]

    def scan(self, scan_id: str) -> dict:
        return self.call("fleet.v1.ScanService/GetScan", scanId=scan_id)["scan"]

    def finished(self, scan_id: str, within: float = 180.0) -> dict:
        """Waits until a scan has ended and returns it."""
        ended = lambda: (scan := self.scan(scan_id))["state"] not in ("SCAN_STATE_QUEUED", "SCAN_STATE_RUNNING") and scan
        return eventually(f"the end of scan {scan_id}", ended, within)
