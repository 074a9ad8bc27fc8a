"""A real OpenID provider (oidc-provider for Node.js), a server that uses it, and a browser without a screen.

Read `SignInWorld` first. Without Node.js or npm, the tests are skipped by name.
"""

import http.cookiejar
import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import peers
from world import World, eventually, free_port

ACCOUNTS = {
    "ann": {"email": "ann@example.org", "email_verified": True, "groups": ["ops"]},
    "una": {"email": "ann@example.org", "email_verified": False},
    "eve": {"email": "eve@example.org", "email_verified": True},
    "second": {"email": "ann@example.org", "email_verified": True},
}
"""The accounts at the provider. Their names are their subjects."""
CLIENT, SECRET = "fleet", "a secret: with +signs & more%"


class SignInWorld(World):
    """A server with a provider, which does not run yet."""

    def __init__(self, folder: Path, *flags: str, database: str | None = None):
        super().__init__(folder, database=database)
        self.provider_port = free_port()
        self.issuer = f"http://127.0.0.1:{self.provider_port}"
        self.provider = None
        secret = folder / "client-secret"
        secret.write_text(SECRET + "\n")
        self.server.terminate()
        # One address signs in more often than the limit allows.
        self.config.write_text(self.config.read_text() + "sign-ins = 0\n")
        self.server.command += [
            "--public-url", self.url, "--oidc-issuer", self.issuer, "--oidc-client-id", CLIENT,
            "--oidc-client-secret-file", str(secret), "--oidc-name", "Example ID", *flags,
        ]
        self.server.start()
        self.until_ready()

    def start_provider(self, key: str = "k1") -> None:
        """Starts the provider with a new signing key of this name."""
        runtime, program = peers.oidc_provider()
        if self.provider is not None:
            self.provider.kill()
        client = {"client_id": CLIENT, "client_secret": SECRET, "redirect_uris": [f"{self.url}/api/sign-in/callback"]}
        settings = json.dumps({"client": client, "accounts": ACCOUNTS})
        self.provider = self.process(f"provider-{key}", [runtime, program, self.provider_port, key, settings])

        def is_ready() -> bool:
            assert self.provider.running(), self.provider.tail()
            return self.provider.logged("ready") > 0

        eventually("the provider", is_ready)
        # The server remembers for some seconds that the provider did not answer.
        eventually("the server's view of the provider", lambda: Browser(self).begin().startswith(self.issuer))

    def create(self, email: str, role: str = "viewer") -> None:
        self.admin("create-operator", "--org", "lab", "--email", email, "--role", role)

    def audited(self) -> list[dict]:
        """The records of sign-ins, newest first."""
        return self.call("fleet.v1.AuditService/ListAudit", action="operator.sign_in").get("records", [])


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Browser:
    """Cookies, and redirects that it follows one by one."""

    def __init__(self, world: SignInWorld):
        self.world = world
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies), _Stay())
        self.visited: list[str] = []

    def open(self, url: str, form: dict | None = None):
        """One request without its redirect."""
        self.visited.append(url)
        data = urllib.parse.urlencode(form).encode() if form else None
        try:
            return self.opener.open(urllib.request.Request(url, data), timeout=30)
        except urllib.error.HTTPError as answer:
            return answer

    def follow(self, url: str, form: dict | None = None, until: str = "\0"):
        """Follows redirects to a page, or to a URL that begins with `until`, which is returned and not opened."""
        for _ in range(20):
            answer = self.open(url, form)
            location = answer.headers.get("location")
            if location is None:
                return answer
            url, form = urllib.parse.urljoin(url, location), None
            if url.startswith(until):
                return url
        raise AssertionError(f"redirects without end: {self.visited}")

    def begin(self) -> str:
        """Where the server sends a browser."""
        url = f"{self.world.url}/api/sign-in/provider"
        return urllib.parse.urljoin(url, self.open(url).headers["location"])

    def callback(self, account: str) -> str:
        """Signs in at the provider and returns the address to which it sends the browser, which is not opened yet."""
        back = f"{self.world.url}/api/sign-in/callback"
        page = self.follow(f"{self.world.url}/api/sign-in/provider", until=back)
        if isinstance(page, str):
            return page
        assert b'name="login"' in page.read(), page.geturl()
        address = self.follow(page.geturl(), {"login": account}, until=back)
        assert isinstance(address, str), (address.status, address.read().decode()[:2_000])
        return address

    def sign_in(self, account: str) -> str:
        """Signs in and returns where the browser ends, without the host."""
        return self.finish(self.callback(account))

    def finish(self, callback: str) -> str:
        answer = self.open(callback)
        assert answer.status == 303, answer.read()
        return answer.headers["location"]

    def session(self) -> dict | None:
        """The operator of this browser, if it is signed in."""
        answer = self.open(f"{self.world.url}/api/session")
        return json.load(answer) if answer.status == 200 else None
