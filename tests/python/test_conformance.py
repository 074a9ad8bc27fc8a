"""Connect's conformance suite against this project's listener and dispatch, and against its client, in every protocol,
codec and HTTP version that each of them speaks.

The service and the client of the suite are in `tests/conformance`; the runner is built from its Go module.
"""

import re
import subprocess

import peers
from world import BINARIES, program

FOLDER = peers.ROOT / "tests/conformance"


def passed(tmp_path, mode: str, suite: str, known: str, *program_and_arguments) -> int:
    """Runs the suite in a mode of the runner, and returns how many cases have passed."""
    runner = peers.conformance_runner()
    command = [runner, "--conf", FOLDER / suite, "--mode", mode, "--known-failing", f"@{FOLDER / known}", "--", *program_and_arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    summary = re.findall(r"^(?:Total cases: \d+|\d+ passed, .*|\(Another .*)$", done.stdout + done.stderr, re.MULTILINE)
    print("\n".join(summary))
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return int(re.search(r"(\d+) passed", " ".join(summary))[1])


def test_the_server_passes_the_conformance_suite_except_for_the_listed_cases(tmp_path):
    assert passed(tmp_path, "server", "suite.yaml", "known-failing.txt", program("fleet-conformance")) > 1500


def test_the_client_passes_the_conformance_suite_except_for_the_listed_cases(tmp_path):
    assert passed(tmp_path, "client", "client-suite.yaml", "client-known-failing.txt", program("fleet-conformance"), "client") > 700
