"""Journeys of an operator through the web page in Chromium, on a running server with a connected node, and the steps that
`test_main_journeys.py` shares.

Environment variables:
- FLEET_SERVER_URL, FLEET_OPERATOR_KEY: the server and the key of an administrator.
- FLEET_OPERATOR_EMAIL, FLEET_OPERATOR_PASSWORD: the same operator. The test changes the password and restores it.
- FLEET_JOURNEY_TARGETS: the targets as typed into the form. One entry is a target (`127.77.0.0/19`), several are a
  list. The scan must find at least one device and take some seconds, because the page is reloaded while it runs.
- FLEET_JOURNEY_PORTS: the ports, empty for the default ports.
- FLEET_CHROMIUM, FLEET_CHROMEDRIVER: the programs, if they are not those of Debian.

A test skips itself and names the missing variable or program.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from webpage import Page, chromium

NEVER_MADE = "fok_00000000000000000000000000000000000000000002sC6MA"
"""The key of 32 zero bytes: valid in form, but of no operator."""
SCAN_PATIENCE = 300
"""Time limit of the scan in seconds."""

SNAPSHOT = """
const text = (id) => document.getElementById(id)?.textContent ?? null;
return {
  over: document.getElementById('outcome') !== null,
  rows: [...document.querySelectorAll('[data-seq]')].map((row) => Number(row.dataset.seq)),
  done: text('done'), found: text('found'), elapsed: text('elapsed'), outcome: text('outcome'),
  progress: document.getElementById('progress')?.value ?? null,
};
"""


def required(name: str) -> str:
    """Returns an environment variable, or skips the test and names it."""
    return os.environ.get(name) or pytest.skip(f"{name} is not set: the web page is not tested")


@dataclass
class Settings:
    """The settings from the environment."""

    server: str
    key: str
    targets: str
    ports: str
    email: str
    password: str


@pytest.fixture
def settings() -> Settings:
    """Reads the settings before a browser is started."""
    return Settings(
        required("FLEET_SERVER_URL"), required("FLEET_OPERATOR_KEY"), required("FLEET_JOURNEY_TARGETS"), os.environ.get("FLEET_JOURNEY_PORTS", ""),
        required("FLEET_OPERATOR_EMAIL"), required("FLEET_OPERATOR_PASSWORD"),
    )


@pytest.fixture
def browser(settings, tmp_path):
    """Starts the browser after the settings are known."""
    with chromium(tmp_path / "profile") as browser:
        yield browser


class Journey(Page):
    """The page with the view of a running scan."""

    def snapshot(self) -> dict:
        """Returns the state of the scan view."""
        return self.browser.execute_script(SNAPSHOT)

    def shown(self, selector: str) -> str:
        """Returns the text of an element in one step, because lists are drawn again when they change. Without the element, it is empty."""
        return self.browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def script_click(self, selector: str) -> bool:
        """Clicks an element in one step, because lists are drawn again when they change. Returns whether it exists."""
        return self.browser.execute_script("const one = document.querySelector(arguments[0]); one?.click(); return Boolean(one)", selector)


LINKS = {
    ("http", "10.0.0.7", 80): "http://10.0.0.7/",
    ("https", "10.0.0.7", 8443): "https://10.0.0.7:8443/",
    ("http", "fd00::7", 8080): "http://[fd00::7]:8080/",
    ("http", "10.0.0.7", 4028): "http://10.0.0.7/",
    ("http", "fd00::7", 4433): "http://[fd00::7]/",
    ("javascript", "10.0.0.7", 80): None,
    ("JavaScript", "10.0.0.7", 80): None,
    ("data", "10.0.0.7", 80): None,
    ("file", "10.0.0.7", 80): None,
    ("stratum+tcp", "10.0.0.7", 3333): None,
    ("http", "10.0.0.7@evil.example", 80): None,
    ("http", "evil.example", 80): None,
    ("http", "10.0.0.7", 0): None,
    ("", "10.0.0.7", 80): None,
}
"""The scheme, address and port that a device reports, and the resulting link."""


def test_only_http_and_https_to_a_literal_address_become_links(settings, browser):
    """Nodes choose the scheme, so a script or another protocol must never become a link."""
    browser.get(settings.server)
    make = """
      const [devices, done] = arguments;
      import("/js/grid.js").then(({ deviceAddress }) => done(devices.map((device) => deviceAddress(device)[0].href ?? null)));
    """
    devices = [{"scheme": scheme, "ip": ip, "port": port} for scheme, ip, port in LINKS]
    assert browser.execute_async_script(make, devices) == list(LINKS.values())


def sign_in(page: Journey, key: str) -> None:
    page.browser.get(page.server + "/")
    page.click("#by-key")
    page.type("#key", "fok_this_key_was_never_made")
    page.click("button[type=submit]")
    assert "not a complete operator key" in page.find("[role=alert]").text
    mistyped = key[:-8] + ("A" if key[-8] != "A" else "B") + key[-7:]
    page.type("#key", mistyped)
    page.click("button[type=submit]")
    page.until("the checksum error", lambda: "checksum" in page.find("[role=alert]").text)
    page.type("#key", NEVER_MADE)
    page.click("button[type=submit]")
    page.until("the error for the unknown key", lambda: "not valid" in page.find("[role=alert]").text)
    page.type("#key", key)
    page.click("button[type=submit]")
    page.find("#sign-out")
    cookies = page.browser.get_cookies()
    assert cookies, "the sign-in set no cookie"
    for cookie in cookies:
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict", cookie["name"]
        assert key not in cookie["value"], "the cookie contains the key"


def assert_the_key_is_nowhere(page: Journey, key: str) -> None:
    places = page.browser.execute_script("""
        return {
          address: location.href, title: document.title, cookie: document.cookie,
          local: JSON.stringify({...localStorage}), session: JSON.stringify({...sessionStorage}),
          requests: performance.getEntries().map((entry) => entry.name).join(' '),
          fields: [...document.querySelectorAll('input, textarea')].map((field) => field.value).join(' '),
          document: document.documentElement.outerHTML,
        };""")
    leaks = [name for name, text in places.items() if key in text]
    assert not leaks, f"the key is in {leaks}"
    assert places["cookie"] == "", "a script can read a cookie"
    assert places["local"] == "{}" and places["session"] == "{}", "the page stores something"


def see_a_node_online(page: Journey) -> None:
    page.click("a[href='#/nodes']")
    node = page.find("#nodes .node[data-status=good]")
    assert "Online" in node.text
    assert node.find_element("css selector", "h2").text


def start_a_scan(page: Journey, targets: str, ports: str) -> None:
    page.click("a[href='#/scans']")
    page.click("#new-scan")
    check_refuses(page, "8.8.8.8")
    page.type("#target", targets)
    page.type("#ports", ports)
    # Slow, because the journey must see the scan run, also on a busy machine.
    page.click("label[for=pace-low]")
    page.find("#check.check-good:not(.check-stale)")
    planned = page.find("#check .figure strong").text
    assert int(planned.replace(",", "")) > 0, f"the check counts {planned} targets"
    page.until("an enabled start button", lambda: page.find("#start-scan").is_enabled())
    page.click("#start-scan")
    page.until("the scan's address", lambda: page.browser.current_url.rpartition("#/scans/")[2].count("-") == 4)


def check_refuses(page: Journey, target: str) -> None:
    """The live check names the invalid target, and the scan cannot be started."""
    page.type("#target", target)
    assert target in page.find("#check-error").text
    assert page.find("#target").get_attribute("aria-invalid") == "true"
    assert not page.find("#start-scan").is_enabled()


def watch_rows_arrive(page: Journey) -> dict:
    """Checks that rows, progress and time advance while the scan runs. Returns the last snapshot."""
    def rows_before_the_end():
        now = page.snapshot()
        assert not now["over"], "the scan ended before a row was seen: set FLEET_JOURNEY_TARGETS to targets that take some seconds"
        return now["rows"] and now
    first = page.until("a row before the scan's end", rows_before_the_end)

    def further():
        now = page.snapshot()
        assert not now["over"], "the scan ended before its progress was seen: set FLEET_JOURNEY_TARGETS to targets that take some seconds"
        return len(now["rows"]) > len(first["rows"]) and now["elapsed"] != first["elapsed"] and (now["progress"] or 0) > 0 and now
    now = page.until("more rows, progress and time", further)
    assert now["rows"][: len(first["rows"])] == first["rows"], "a row moved"
    assert now["rows"] == sorted(set(now["rows"])), "rows are in sequence order without duplicates"
    assert " of " in now["done"], now["done"]
    return now


def resume(page: Journey, before: dict) -> None:
    """After the reload, the page shows the same rows in the same order."""
    count = len(before["rows"])
    now = page.until("the rows from before the reload", lambda: len((now := page.snapshot())["rows"]) >= count and now)
    assert now["rows"][:count] == before["rows"]


def read_the_summary(page: Journey) -> None:
    parts = part_values(page, "#ledger-targets")
    assert parts["targets"] == sum(value for name, value in parts.items() if name != "targets"), parts
    assert parts["identified"] > 0, parts
    reports = part_values(page, "#ledger-reports")
    assert reports["reported"] == reports["accepted"] + reports["rejected"], reports
    # The page shows at most 1,000 rows without a click.
    expected = min(reports["accepted"], 1000)
    rows = page.until("a row for every accepted report", lambda: len(now := page.snapshot()["rows"]) >= expected and now)
    assert len(rows) == len(set(rows)) == expected, "each accepted report is one row"


def see_the_devices_on_the_map(page: Journey) -> None:
    """The overview counts the devices, its map shows their addresses, and a cell opens the page of its device."""
    page.click("a[href='#/']")
    page.until("a count of devices", lambda: int(page.find("[data-figure=devices] strong").text.replace(",", "").replace("…", "0")) > 0)
    cell = page.find(".map-cell.is-identified.opens")
    address = cell.get_attribute("aria-label").partition(":")[0]
    cell.click()
    page.until("the device at the address of the cell", lambda: "Timeline" in page.text() and address in page.text())
    assert "First seen" in page.find("#timeline").text


def read_the_audit_trail(page: Journey) -> None:
    """The audit trail contains the start of the scan, filters refusals, and shows the head of the chain."""
    page.click("a[href='#/audit']")
    page.find("#audit-kind").find_element("css selector", "option[value='scan.']").click()
    page.until("the scan's record", lambda: "scan.start" in page.text() and "code.create" not in page.text())
    page.until("the head of the chain", lambda: re.search(r"\b\d+:[0-9a-f]{64}\b", page.find("#audit-chain").text))
    page.find("#audit-refused").send_keys(" ")
    page.until("refused records only", lambda: "No records" in page.text() or "Refused:" in page.text())
    assert "Done" not in page.text(), "the filter shows a record that was not refused"


def part_values(page: Journey, table: str) -> dict[str, int]:
    rows = page.find(table).find_elements("css selector", "tr[data-part], tr[data-total]")
    return {
        row.get_attribute("data-part") or row.get_attribute("data-total"): int(row.find_element("css selector", "td").get_attribute("data-value"))
        for row in rows
    }


def assert_nothing_was_blocked_or_broken(page: Journey) -> None:
    assert_no_errors(page)
    page.browser.execute_script("""
        const inline = document.createElement('script');
        inline.textContent = 'window.inlineRan = true';
        document.body.append(inline);""")
    assert page.until("the policy violation of an inline script", page.violations)
    assert page.browser.execute_script("return window.inlineRan") is None, "an inline script ran"


def assert_no_errors(page: Journey) -> None:
    assert page.violations() == []
    # The browser logs error responses that this test provokes: no session yet, a wrong key, an invalid target.
    expected = ("/api/session - Failed to load resource: the server responded with a status of 401", "/fleet.v1.ScanService/PlanScan - Failed to load resource: the server responded with a status of 400")
    unexpected = [message for message in page.read_console() if not any(text in message for text in expected)]
    assert unexpected == [], json.dumps(unexpected, indent=1)


def test_an_operator_signs_in_by_password_and_manages_the_account(settings, browser):
    page, key = Journey(browser, settings.server), settings.key
    chosen = "the password of a journey"

    page.browser.get(page.server + "/")
    enter(page, settings.email, "not the password")
    page.until("the error for the wrong password", lambda: "is wrong" in page.find("[role=alert]").text)
    enter(page, settings.email, settings.password)
    page.find("#sign-out")
    assert_the_key_is_nowhere(page, settings.password)

    page.click("a[href='#/account']")
    page.find("#keys .entry")
    created = create_and_revoke_a_key(page)
    assert_the_key_is_nowhere(page, created)
    change_the_password(page, settings.password, chosen)
    try:
        assert_the_key_is_nowhere(page, chosen)
        assert page.violations() == []
        sign_out(page)
        enter(page, settings.email, settings.password)
        page.until("the error for the old password", lambda: "is wrong" in page.find("[role=alert]").text)
        enter(page, settings.email, chosen)
        page.find("#sign-out")
    finally:
        page.browser.get(page.server + "/#/account")
        change_the_password(page, chosen, settings.password)
    sign_out(page)


@contextmanager
def webhook_receiver():
    """Receives webhooks on a port of its own. Yields its URL and the list of requests: headers and body."""
    received = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"])).decode()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook?token=hidden", received
        server.shutdown()


def test_a_test_message_reaches_a_webhook_and_is_signed(settings, browser):
    page = Journey(browser, settings.server)
    page.browser.get(page.server + "/")
    enter(page, settings.email, settings.password)
    page.find("#sign-out")
    page.click("a[href='#/alerts']")
    page.find("#create-channel")
    with webhook_receiver() as (url, received):
        page.type("#channel-name", "journey")
        page.type("#channel-target", url)
        page.click("#create-channel")
        secret = page.find("#signing-secret").text
        assert "hidden" not in page.text(), "the page shows no secret of a URL"
        page.until("a test", lambda: page.script_click("#alert-channels button[aria-label^='Send test message'][aria-label*='journey']"))
        page.until("the result", lambda: received and "Delivered" in page.shown("#alert-deliveries li"))
        [(headers, body)] = received
    assert json.loads(body)["type"] == "test"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    page.until("a deletion", lambda: page.script_click("#alert-channels button[aria-label^='Delete the channel'][aria-label*='journey']"))
    page.click("#dialog-action")
    page.until("the end of the channel", lambda: "journey" not in page.shown("#alert-channels"))
    assert page.violations() == []
    sign_out(page)


def enter(page: Journey, email: str, password: str) -> None:
    page.type("#email", email)
    page.type("#password", password)
    page.click("button[type=submit]")


def create_and_revoke_a_key(page: Journey) -> str:
    page.type("#key-name", "of the journey")
    page.click("#create-key")
    created = page.find("#new-key").text
    assert created.startswith("fok_") and len(created) == 53
    entry = page.until("the new key in the list", lambda: next((one for one in page.browser.find_elements("css selector", "#keys .entry") if "of the journey" in one.text), None))
    entry.find_element("css selector", "button").click()
    page.click("#dialog-action")
    page.until("the key to be gone", lambda: "of the journey" not in page.find("#keys").text)
    return created


def change_the_password(page: Journey, current: str, new: str) -> None:
    page.type("#current-password", current)
    page.type("#new-password", "short")
    page.type("#new-password-again", "short")
    page.click("#change-password")
    page.until("the error about its length", lambda: "at least 12" in page.find("form [role=alert]").text)
    page.type("#new-password", new)
    page.type("#new-password-again", new)
    page.click("#change-password")
    page.until("the change", lambda: "Password changed" in page.find(".notice-good").text)


def sign_out(page: Journey) -> None:
    page.click("#sign-out")
    page.find("#email")
    assert page.status("/api/session") == 401
    page.browser.get(page.server + "/#/scans")
    page.browser.refresh()
    page.find("#email")
    assert not page.find("main").find_elements("css selector", ".grid")
