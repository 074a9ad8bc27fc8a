"""Connect's conformance suite against this project's listener and dispatch, in every protocol, codec and HTTP version.

The service of the suite is in `tests/conformance`; the runner is built from its Go module.
"""

import re
import subprocess

import peers
from world import BINARIES, program

FOLDER = peers.ROOT / "tests/conformance"


def test_the_conformance_suite_passes_except_for_the_listed_cases(tmp_path):
    runner = peers.conformance_runner()
    command = [runner, "--conf", FOLDER / "suite.yaml", "--mode", "server", "--known-failing", f"@{FOLDER / 'known-failing.txt'}", "--", program("fleet-conformance")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    summary = re.findall(r"^(?:Total cases: \d+|\d+ passed, .*)$", done.stdout + done.stderr, re.MULTILINE)
    print("\n".join(summary))
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert int(re.search(r"(\d+) passed", " ".join(summary))[1]) > 1500, summary
