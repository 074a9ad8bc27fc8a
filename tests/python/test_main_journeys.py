"""The main journeys in every browser: Chromium, Firefox and WebKit, on a running server with a connected node.

Each journey is one text for all browsers. A browser that is missing skips its tests by name. Environment variables: those
of `test_journey.py`. FLEET_FIREFOX and FLEET_WEBKIT name the programs, if they are not those of Debian.
"""

import itertools
import json
import socket
import threading
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from selenium.webdriver.common.keys import Keys

from browsers import BROWSERS
from fleetwire.node import Node, fingerprint
from test_journey import (
    SCAN_PATIENCE, Journey, assert_no_errors, assert_nothing_was_blocked_or_broken, assert_the_key_is_nowhere, read_the_audit_trail, read_the_summary, resume,
    see_a_node_online, see_the_devices_on_the_map, settings, sign_in, sign_out, start_a_scan, watch_rows_arrive)  # noqa: F401

MOST_TABS = 80
"""Presses of the Tab key after which an element counts as unreachable."""
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module", params=list(BROWSERS))
def started(request, tmp_path_factory):
    """Starts each browser once."""
    with BROWSERS[request.param](tmp_path_factory.mktemp(request.param) / "profile") as browser:
        yield browser


@pytest.fixture
def browser(started, settings):  # noqa: F811
    """The browser without a session and a node without scans, whatever the test before left."""
    for scan in call(settings, "ScanService/ListScans", {}).get("scans", []):
        if scan["state"] in ("SCAN_STATE_RUNNING", "SCAN_STATE_QUEUED"):
            call(settings, "ScanService/CancelScan", {"scanId": scan["scanId"]})
    started.get(settings.server)
    started.delete_all_cookies()
    # The errors of the test before are not those of this one.
    started.get_log("browser")
    return started


def call(settings, procedure: str, body: dict) -> dict:  # noqa: F811
    headers = {"content-type": "application/json", "authorization": f"Bearer {settings.key}"}
    with urlopen(Request(f"{settings.server}/fleet.v1.{procedure}", json.dumps(body).encode(), headers)) as answer:
        return json.load(answer)


@pytest.fixture
def line(settings):  # noqa: F811
    with Line(settings.server) as line:
        yield line


class Line:
    """A connection to the server that can be cut: it forwards the TCP connections of a port of its own."""

    def __init__(self, server: str):
        self.far = urlsplit(server).hostname, urlsplit(server).port
        self.open: list[socket.socket] = []
        self.whole = True
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self) -> "Line":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error) -> None:
        self.cut()
        # Wakes the thread that accepts.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def cut(self) -> None:
        """Ends every connection, and from now on each new one at once."""
        with self.lock:
            self.whole = False
            ended, self.open = self.open, []
        for one in ended:
            _end(one)

    def mend(self) -> None:
        with self.lock:
            self.whole = True

    def _accept(self) -> None:
        while True:
            try:
                near, _address = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if not self.whole:
                    near.close()
                    continue
                far = socket.create_connection(self.far)
                self.open += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65_536):
            target.sendall(piece)
    except OSError:
        pass
    _end(source)
    _end(target)


def _end(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    one.close()


class Everywhere(Journey):
    """The page in a browser of which no more is known than what all have in common."""

    def press(self, *keys: str) -> None:
        """Presses keys at the element that has the focus."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def tab_to(self, selector: str) -> None:
        """Presses Tab until an element has the focus."""
        focused = "const one = document.activeElement; return [one.matches(arguments[0]), `${one.localName}#${one.id} ${one.textContent.slice(0, 20)}`]"
        passed = []
        for _ in range(MOST_TABS):
            found, name = self.browser.execute_script(focused, selector)
            if found:
                return
            passed.append(name)
            self.press(Keys.TAB)
        pytest.fail(f"the Tab key does not reach {selector}; it passed {passed}")

    def banner(self) -> str:
        return self.shown("#banner")


def enter_by_key(page: Everywhere, key: str) -> None:
    page.browser.get(page.server + "/")
    page.click("#by-key")
    page.type("#key", key)
    page.click("button[type=submit]")
    page.find("#sign-out")


def test_an_operator_scans_and_reads_the_result_the_changes_and_the_device(settings, browser):  # noqa: F811
    page = Everywhere(browser, settings.server)
    sign_in(page, settings.key)
    assert_the_key_is_nowhere(page, settings.key)
    see_a_node_online(page)
    start_a_scan(page, settings.targets, settings.ports)
    address = browser.current_url
    before = watch_rows_arrive(page)
    browser.refresh()
    assert browser.current_url == address, "the URL alone must restore the scan"
    resume(page, before)
    ended = page.until("the outcome", lambda: (now := page.snapshot())["over"] and now, SCAN_PATIENCE)
    assert ended["outcome"].startswith("Completed"), ended["outcome"]
    read_the_summary(page)
    read_the_changes(page)
    see_the_devices_on_the_map(page)
    read_the_audit_trail(page)
    assert_the_key_is_nowhere(page, settings.key)
    assert_nothing_was_blocked_or_broken(page)
    sign_out(page)


def read_the_changes(page: Everywhere) -> None:
    """Every tab of the differences opens by its link, and the rows are those that the tab counts."""
    groups = page.until("the tabs", lambda: page.browser.execute_script("return [...document.querySelectorAll('#changes a[data-group]')].map((one) => one.dataset.group)"))
    page.click(f"#changes a[data-group={groups[0]}]")
    page.until("the first tab", lambda: page.shown(".tab[aria-current]"))
    for group in groups:
        page.click(f".tab[data-group={group}]")
        count = page.until(f"the tab {group}", lambda: "".join(filter(str.isdigit, page.shown(f".tab[data-group={group}][aria-current=page] .tab-count"))))
        rows = "return document.querySelectorAll('.grid-changes .grid-body .row').length"
        page.until("its rows", lambda: 0 < page.browser.execute_script(rows) <= int(count) if int(count) else page.shown(".empty:not([hidden])"))


def test_an_operator_finds_and_pairs_a_device(settings, browser):  # noqa: F811
    page = Everywhere(browser, settings.server)
    enter_by_key(page, settings.key)
    page.click("a[data-section=devices]")
    page.until("rows", lambda: page.browser.find_elements("css selector", ".grid-devices [data-key]"))
    page.type("#device-search", "model:S19")
    models = "return [...document.querySelectorAll('.grid-devices [data-key] a.primary')].map((one) => one.textContent)"
    page.until("only the model", lambda: (found := page.browser.execute_script(models)) and all("S19" in model for model in found))
    page.until("the search in the address", lambda: "model%3AS19" in browser.current_url)
    searched = browser.current_url
    page.click(".grid-devices [data-key] .row-box")
    page.until("a selected device", lambda: "1 device selected" in page.text())
    page.click("#pair-selected")
    page.find("dialog input[type=password]").send_keys("fleetsim" + Keys.ENTER)
    page.until("the result", lambda: "Done: 1 of 1 device tried." in page.text())
    page.click("dialog .actions button")
    page.until("the end of the dialog", lambda: not page.browser.find_elements("css selector", "dialog"))
    browser.refresh()
    assert browser.current_url == searched, "the URL alone must restore the search"
    page.until("only the model", lambda: (found := page.browser.execute_script(models)) and all("S19" in model for model in found))
    assert page.find("#device-search").get_attribute("value") == "model:S19"
    page.click(".grid-devices a.primary")
    page.until("the device", lambda: "Timeline" in page.text() and "Pairing" in page.text())
    assert_no_errors(page)
    sign_out(page)


def test_an_operator_enrolls_and_confirms_a_node(settings, browser):  # noqa: F811
    page = Everywhere(browser, settings.server)
    name = f"journey-{next(NUMBERS)}"
    enter_by_key(page, settings.key)
    page.browser.get(page.server + "/#/nodes/enroll")
    page.click("#create-code")
    code = page.find("#enrollment-code").text
    node = Node(settings.server, name)
    node.register(code)
    expected = fingerprint(node.keys.identity_pubkey)
    page.until("the fingerprint of the node", lambda: page.shown("#fingerprint").replace(" ", "") == expected)
    assert code not in page.text(), "the code is shown only until it was used"
    assert not page.find("#confirm-node").is_enabled(), "the fingerprint must be compared first"
    page.click("label[for=same]")
    page.click("#confirm-node")
    node.api_key = page.find("#api-key").text
    node.authenticate()
    node.heartbeat()
    with node.open_stream():
        page.until("the node is connected", lambda: f"{name} is connected" in page.text().replace("\u2068", "").replace("\u2069", ""))
    assert_the_key_is_nowhere(page, settings.key)
    page.click("a[data-section=nodes]")
    revoke = f"#nodes button[aria-label^=Revoke][aria-label*='{name}']"
    page.until("the node", lambda: page.script_click(revoke))
    page.click("#dialog-action")
    page.until("no node", lambda: not page.browser.find_elements("css selector", revoke))
    assert_no_errors(page)
    sign_out(page)


def test_the_page_continues_after_a_lost_connection(settings, browser, line):  # noqa: F811
    page = Everywhere(browser, line.url)
    enter_by_key(page, settings.key)
    start_a_scan(page, settings.targets, settings.ports)
    before = page.until("rows", lambda: page.snapshot()["rows"])
    line.cut()
    page.until("the loss is shown", page.banner)
    lost = page.snapshot()
    assert lost["rows"][: len(before)] == before, "the rows stay"
    line.mend()
    page.until("the end of the banner", lambda: not page.banner())
    page.until("further rows", lambda: (now := page.snapshot())["over"] or len(now["rows"]) > len(lost["rows"]))
    page.until("a request to cancel", lambda: page.snapshot()["over"] or page.script_click("#dialog-action") or page.script_click("#cancel-scan") and None)
    ended = page.until("the outcome", lambda: (now := page.snapshot())["over"] and now, SCAN_PATIENCE)
    assert ended["rows"] == sorted(set(ended["rows"])) and set(lost["rows"]) <= set(ended["rows"]), "rows are complete and not repeated"
    line.cut()
    page.click("a[data-section=devices]")
    page.until("the loss is shown", page.banner)
    line.mend()
    page.until("the devices", lambda: page.browser.find_elements("css selector", ".grid-devices [data-key]") and not page.banner())
    sign_out(page)


def test_a_scan_is_started_and_canceled_by_keyboard_alone(settings, browser):  # noqa: F811
    page = Everywhere(browser, settings.server)
    browser.get(page.server + "/")
    page.find("#email")
    page.tab_to("#by-key")
    page.press(Keys.ENTER)
    page.until("the field of the key", lambda: browser.execute_script("return document.activeElement.id") == "key")
    page.press(settings.key + Keys.ENTER)
    page.find("#sign-out")
    page.until("the focus on the heading", lambda: browser.execute_script("return document.activeElement.localName") == "h1")
    # The skip link is the first element, and leads past the navigation.
    browser.execute_script("document.activeElement.blur(); document.querySelector('.skip-link').focus()")
    page.press(Keys.ENTER)
    assert browser.execute_script("return document.activeElement.id") == "main"
    browser.execute_script("document.querySelector('.brand').focus()")
    page.tab_to("a[data-section=scans]")
    page.press(Keys.ENTER)
    page.find("#new-scan")
    page.tab_to("#new-scan")
    page.press(Keys.ENTER)
    page.until("the form", lambda: page.shown("#node option"))
    page.tab_to("#target")
    page.press(settings.targets)
    page.tab_to("[name=pace]")
    page.press(Keys.ARROW_LEFT)
    assert browser.execute_script("return document.activeElement.id") == "pace-low"
    page.until("an enabled start button", lambda: page.find("#start-scan").is_enabled())
    page.tab_to("#start-scan")
    page.press(Keys.ENTER)
    page.until("the scan's address", lambda: browser.current_url.rpartition("#/scans/")[2].count("-") == 4)
    page.until("rows", lambda: page.snapshot()["rows"])
    page.tab_to("#cancel-scan")
    page.press(Keys.ENTER)
    page.until("the dialog", lambda: page.shown("dialog h2"))
    page.press(Keys.ESCAPE)
    page.until("the focus back on the button", lambda: browser.execute_script("return document.activeElement.id") == "cancel-scan")
    page.press(Keys.ENTER)
    page.tab_to("#dialog-action")
    page.press(Keys.ENTER)
    page.until("the outcome", lambda: page.snapshot()["over"])
    assert page.snapshot()["outcome"].startswith("Canceled")
    browser.execute_script("document.querySelector('.brand').focus()")
    page.tab_to("#sign-out")
    page.press(Keys.ENTER)
    page.find("#email")
