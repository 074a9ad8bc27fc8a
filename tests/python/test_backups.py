"""The commands of docs/operating.md for a backup of PostgreSQL, as they are written there: no other user can read the file,
and a server serves from it again.
"""

import os
import shutil
import stat
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from world import ROOT, Process, eventually, free_port, program

OPERATING = ROOT / "docs/operating.md"
DATABASE = "/var/backups/fleet.dump"
"""The file in the document, in place of which the test has one of its own."""


def documented(section: str) -> str:
    """The commands for PostgreSQL in a section of the document, as a script."""
    _, _, rest = OPERATING.read_text().partition(f"\n## {section}\n")
    _, _, rest = rest.partition("**PostgreSQL.**")
    block = rest.partition("```console\n")[2].partition("```")[0]
    lines = [line.removeprefix("# ") for line in block.splitlines()]
    assert any(DATABASE in line for line in lines), block
    return "\n".join(lines)


@pytest.fixture
def server():
    """The variables of libpq for the server of FLEET_TEST_POSTGRES."""
    url = os.environ.get("FLEET_TEST_POSTGRES")
    if not url:
        pytest.skip("FLEET_TEST_POSTGRES is not set")
    if missing := [name for name in ("pg_dump", "pg_restore", "psql") if not shutil.which(name)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    parts = urllib.parse.urlsplit(url)
    variables = {"PGHOST": parts.hostname, "PGPORT": str(parts.port or 5432), "PGUSER": parts.username or ""}
    if parts.password:
        variables["PGPASSWORD"] = parts.password
    return url, os.environ | variables


def psql(environment: dict, database: str, statement: str) -> None:
    words = ["psql", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={database}", f"--command={statement}"]
    subprocess.run(words, check=True, env=environment, capture_output=True)


def run(script: str, environment: dict, database: str, dump: Path) -> None:
    """Runs documented commands on a database and a file of the test, with the umask that most users have."""
    script = script.replace("PGDATABASE=fleet", f"PGDATABASE={database}").replace(DATABASE, str(dump))
    subprocess.run(["sh", "-ec", f"umask 022\n{script}"], check=True, env=environment)


class Fleet:
    """A server on a database."""

    def __init__(self, folder: Path, url: str):
        folder.mkdir()
        self.port, self.folder = free_port(), folder
        self.config = folder / "fleetd.toml"
        self.config.write_text(f'listen = "127.0.0.1:{self.port}"\ndatabase-url = "{url}"\n')

    def fleetd(self, *words: str) -> str:
        command = [program("fleetd"), *words, "--config", str(self.config)]
        ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def serve(self) -> Process:
        process = Process("fleetd", self.folder, [program("fleetd"), "serve", "--config", self.config])
        eventually("the server", lambda: self.answers("/readyz", None) or not process.running())
        assert process.running(), process.tail()
        return process

    def answers(self, path: str, key: str | None) -> bool:
        """Whether a request is answered with 200."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status == 200
        except OSError:
            return False


def test_a_backup_of_postgresql_is_readable_by_its_owner_only_and_serves_again(server, tmp_path):
    url, environment = server
    names = [f"fleet_backup_{os.getpid()}_{end}" for end in ("old", "new")]
    dump = tmp_path / "fleet.dump"
    admin = urllib.parse.urlsplit(url).path.lstrip("/")
    for name in names:
        psql(environment, admin, f"CREATE DATABASE {name}")
    old, new = (Fleet(tmp_path / name, url.rsplit("/", 1)[0] + f"/{name}") for name in names)
    processes = []
    try:
        old.fleetd("migrate")
        old.fleetd("admin", "create-operator", "--org", "lab", "--email", "lab@example.org", "--role", "admin")
        key = old.fleetd("admin", "create-key", "--email", "lab@example.org").strip()
        # The server runs during the backup.
        processes.append(old.serve())
        run(documented("Backup"), environment, names[0], dump)
        assert stat.S_IMODE(dump.stat().st_mode) == 0o600
        run(documented("Restore"), environment, names[1], dump)
        processes.append(new.serve())
        assert new.answers("/api/session", key), "the operator's key is valid in the restored database"
        assert not new.answers("/api/session", key[:-1])
    finally:
        for process in processes:
            process.kill()
        for name in names:
            psql(environment, admin, f"DROP DATABASE {name} WITH (FORCE)")
