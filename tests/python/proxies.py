"""nginx, HAProxy, Caddy, Envoy and Apache with the configurations of docs/operating.md: only ports, addresses and files are replaced.

Read `Proxy` first. A proxy that is not installed skips its tests by name.
"""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import peers

from world import ROOT, Process, World, eventually, free_port

OPERATING = (ROOT / "docs/operating.md").read_text()


def configuration(title: str) -> str:
    """The first code block of a section of docs/operating.md."""
    section = re.search(rf"^#+ {title}$\n(.*?)(?=^#+ |\Z)", OPERATING, re.MULTILINE | re.DOTALL)
    assert section, f"docs/operating.md has no section `{title}`"
    block = re.search(r"^```\w+\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert block, f"the section `{title}` has no configuration"
    return block[1]


def replaced(text: str, **words: str) -> str:
    """The text with each placeholder replaced; one that does not occur means that the document has changed."""
    for word, by in words.items():
        assert word in text, f"`{word}` is not in the configuration:\n{text}"
        text = text.replace(word, by)
    return text


class Proxy:
    """A proxy in front of a server: nodes and operators use its `url`, which has TLS."""

    title: str
    executables: list[str]
    suffix = "conf"

    def __init__(self, world: World, port: int, certificate: Path, key: Path):
        self.world, self.port, self.certificate, self.key = world, port, certificate, key
        self.url = f"https://127.0.0.1:{port}"
        self.folder = world.folder / self.title.lower()
        self.folder.mkdir(exist_ok=True)
        self.file = self.folder / f"proxy.{self.suffix}"
        self.file.write_text(self.adapted(configuration(self.title)))
        self.process = Process("proxy", self.folder, self.command())
        self.until_listening()

    @classmethod
    def executable(cls) -> str:
        """The installed program."""
        found = next(filter(None, map(shutil.which, cls.executables)), None)
        return found or pytest.skip(f"{cls.title} is not installed")

    @classmethod
    def version(cls) -> str:
        done = subprocess.run([cls.executable(), *cls.version_flags], capture_output=True, text=True)
        return re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)[0]

    def until_listening(self) -> None:
        def listening() -> bool:
            assert self.process.running(), self.process.tail()
            done = subprocess.run(["curl", "-sk", "-o", self.folder / "null", f"{self.url}/healthz"])
            return done.returncode == 0

        eventually(f"{self.title} to listen", listening)

    def kill(self) -> None:
        self.process.kill()

    def start(self) -> None:
        self.process.start()
        self.until_listening()

    def adapted(self, text: str) -> str:
        raise NotImplementedError

    def command(self) -> list:
        raise NotImplementedError

    def reload(self) -> None:
        raise NotImplementedError


class Nginx(Proxy):
    title, executables, version_flags = "nginx", ["nginx", "/usr/sbin/nginx"], ["-v"]

    def adapted(self, text: str) -> str:
        server = replaced(
            text,
            **{
                "listen 443": f"listen 127.0.0.1:{self.port}",
                "/etc/ssl/fleet.crt": str(self.certificate),
                "/etc/ssl/fleet.key": str(self.key),
                "127.0.0.1:8420": f"127.0.0.1:{self.world.port}",
            },
        )
        temporary = "".join(f"{kind}_temp_path {self.folder};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return f"user root;\ndaemon off;\npid {self.folder}/pid;\nworker_processes 1;\nevents {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\n{temporary}{server}\n}}\n"

    def command(self) -> list:
        return [self.executable(), "-c", self.file, "-e", self.folder / "error.log"]

    def reload(self) -> None:
        self.process.signal(signal.SIGHUP)


class HAProxy(Proxy):
    title, executables, version_flags = "HAProxy", ["haproxy", "/usr/sbin/haproxy"], ["-v"]

    def adapted(self, text: str) -> str:
        both = self.folder / "fleet.pem"
        both.write_text(self.certificate.read_text() + self.key.read_text())
        return replaced(
            text,
            **{"bind :443": f"bind 127.0.0.1:{self.port}", "/etc/haproxy/fleet.pem": str(both), "127.0.0.1:8420": f"127.0.0.1:{self.world.port}"},
        )

    def command(self) -> list:
        # -W: a master that starts new workers on SIGUSR2, as Debian's unit does.
        return [self.executable(), "-W", "-f", self.file]

    def reload(self) -> None:
        self.process.signal(signal.SIGUSR2)


class Caddy(Proxy):
    title, executables, version_flags = "Caddy", ["caddy"], ["version"]

    def adapted(self, text: str) -> str:
        self.admin = f"127.0.0.1:{free_port()}"
        site = replaced(
            text,
            **{
                "fleet.example.org": self.url,
                "/etc/ssl/fleet.crt": str(self.certificate),
                "/etc/ssl/fleet.key": str(self.key),
                "127.0.0.1:8420": f"127.0.0.1:{self.world.port}",
            },
        )
        return f"{{\nadmin {self.admin}\nauto_https disable_redirects\n}}\n{site}"

    def command(self) -> list:
        home = ["env", f"HOME={self.folder}", f"XDG_DATA_HOME={self.folder}", f"XDG_CONFIG_HOME={self.folder}"]
        return [*home, self.executable(), "run", "--adapter", "caddyfile", "--config", self.file]

    def reload(self) -> None:
        # The same configuration is not loaded again without --force.
        command = [self.executable(), "reload", "--force", "--adapter", "caddyfile", "--config", self.file, "--address", self.admin]
        subprocess.run(command, check=True, capture_output=True)


class Apache(Proxy):
    title, executables, version_flags = "Apache", ["apache2", "/usr/sbin/apache2"], ["-v"]
    modules = "mpm_event authz_core http2 proxy proxy_http2 reqtimeout ssl socache_shmcb"

    def adapted(self, text: str) -> str:
        site = replaced(
            text,
            **{
                "*:443": f"127.0.0.1:{self.port}",
                "/etc/ssl/fleet.crt": str(self.certificate),
                "/etc/ssl/fleet.key": str(self.key),
                "127.0.0.1:8420": f"127.0.0.1:{self.world.port}",
            },
        )
        found = next(Path("/usr/lib").glob("**/mod_proxy_http2.so"), None) or pytest.skip("Apache has no mod_proxy_http2")
        # Debian builds some modules into the program.
        loaded = [name for name in self.modules.split() if (found.parent / f"mod_{name}.so").exists()]
        modules = "".join(f"LoadModule {name}_module {found.parent}/mod_{name}.so\n" for name in loaded)
        limits = "ServerLimit 4\nThreadsPerChild 64\nMaxRequestWorkers 256\nH2MinWorkers 64\nH2MaxWorkers 256\n"
        files = f"PidFile {self.folder}/pid\nDefaultRuntimeDir {self.folder}\nErrorLog {self.folder}/error.log\nMutex file:{self.folder} default\n"
        return f"{modules}ServerRoot {self.folder}\nServerName 127.0.0.1\nListen 127.0.0.1:{self.port}\n{files}{limits}{site}"

    def command(self) -> list:
        return [self.executable(), "-D", "FOREGROUND", "-f", self.file]

    def reload(self) -> None:
        self.process.signal(signal.SIGUSR1)


class Envoy(Proxy):
    title, executables, version_flags = "Envoy", ["envoy"], ["--version"]
    suffix = "yaml"
    epoch = 0
    """How many processes have taken over the port since the last start."""

    @classmethod
    def executable(cls) -> str:
        return shutil.which("envoy") or str(peers.envoy())

    def adapted(self, text: str) -> str:
        return replaced(
            text,
            **{
                "address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {self.port}",
                "/etc/ssl/fleet.crt": str(self.certificate),
                "/etc/ssl/fleet.key": str(self.key),
                "port_value: 8420": f"port_value: {self.world.port}",
            },
        )

    def command(self) -> list:
        restarts = ["--base-id", str(self.port), "--restart-epoch", str(self.epoch), "--drain-time-s", "2", "--parent-shutdown-time-s", "3"]
        return [self.executable(), "-c", self.file, "--log-level", "warning", "--concurrency", "2", *restarts]

    def reload(self) -> None:
        """Starts a process that takes over the port; the old one ends by itself."""
        self.replaced, self.epoch = self.process, self.epoch + 1
        self.process = Process("proxy", self.folder, self.command())
        self.until_listening()

    def kill(self) -> None:
        super().kill()
        if self.epoch:
            self.replaced.kill()

    def start(self) -> None:
        self.epoch = 0
        self.process = Process("proxy", self.folder, self.command())
        self.until_listening()


ALL = [Nginx, HAProxy, Caddy, Envoy, Apache]
