"""The web page in states that a running server cannot be brought into on demand, against the API of `fakeserver`.

FLEET_AXE is the path of axe-core (`axe.min.js`). Without it, the accessibility test skips itself.
"""

import json
import os
import re
from pathlib import Path

import pytest

from fakeserver import WEB, FakeServer, Refused, ago
from webpage import PATIENCE, Page, chromium

SCAN = "01a22a65-8f36-7b3a-83fc-a9ff3cbaad4f"
OTHER = "01a22a65-8f36-7b3a-83fc-a9ff3cbaad50"
WIDTHS = [1440, 390, 320]
CHANGES = f"#/scans/{SCAN}/changes/moved"
VIEWS = ["#/", "#/scans", "#/scans/new", f"#/scans/{SCAN}", CHANGES, "#/devices", "#/devices/1", "#/nodes", "#/nodes/enroll", "#/nodes/8/confirm", "#/sites", "#/alerts", "#/audit", "#/people", "#/account"]
HOSTILE = "\u202eevil <img src=x onerror='window.hacked=1'> `code` ‮‭"
"""Right-to-left overrides, markup and backticks."""
LONG_ADDRESS = "fd12:3456:789a:bcde:1234:5678:9abc:def0"


def node(number: int = 7, **fields) -> dict:
    return {
        "fleetNodeId": str(number), "name": "barn-2", "enrollment": "confirmed", "identityFingerprint": "aab90b67d9cd45d4",
        "createdAt": ago(9_000), "lastSeenAt": ago(1), "online": True, "connected": True, "version": "0.1.0",
        "localSubnets": ["10.2.0.0/22"], "defaultPorts": ["80", "4028"], **fields,
    }


def scan(scan_id: str = SCAN, state: str = "RUNNING", **fields) -> dict:
    return {
        "scanId": scan_id, "fleetNodeId": "7", "nodeName": "barn-2", "state": f"SCAN_STATE_{state}", "priority": "SCAN_PRIORITY_INTERACTIVE",
        "request": {"nmap": {"target": "10.2.0.0/22"}}, "createdAt": ago(12), "startedAt": ago(10), "startedBy": "ops@example.org",
        "progress": {"done": "2", "total": "8192", "phase": "sweep", "elapsedMs": "10000"}, **fields,
    }


def queued(scan_id: str = SCAN, **fields) -> dict:
    made = scan(scan_id, "QUEUED", queuedUntil=ago(-86_000), progress={"total": "1022"}, **fields)
    del made["startedAt"]
    return made


def ended(scan_id: str = SCAN, **fields) -> dict:
    ledger = {"identified": "3", "silent": "251", "targets": "254", "elapsedMs": "900"}
    return scan(scan_id, "COMPLETED", endedAt=ago(5), **{"ledger": ledger, **fields})


def device(number: int, **fields) -> dict:
    return {
        "deviceId": str(number), "identifier": f"mac:02:00:5E:10:00:{number % 256:02X}", "fleetNodeId": "7", "ip": f"10.2.{number // 250}.{number % 250 + 2}",
        "port": 80, "scheme": "http", "driver": "antminer", "manufacturer": "Bitmain", "model": "Antminer S19", "firmware": "1.0.0",
        "firstSeen": ago(86_400), "lastSeen": ago(20), "pairingStatus": "UNPAIRED", **fields,
    }


def found(number: int, **fields) -> dict:
    return {
        "type": "device", "seq": number, "device_id": str(number), "identifier": f"mac:02:00:5E:10:{number // 256:02X}:{number % 256:02X}",
        "ip": f"10.2.{number // 250}.{number % 250 + 2}", "port": 80, "scheme": "http", "driver": "antminer", "manufacturer": "Bitmain",
        "model": "Antminer S19", "firmware": "1.0.0", "elapsed_ms": 40 + number, **fields,
    }


def warning(seq: int, text: str) -> dict:
    return {"type": "warning", "seq": seq, "text": text}


def difference(*rows: dict, explanation: str = "", against: str = OTHER, **counts: int) -> dict:
    """Returns a difference with these rows. The counts are those of the rows, unless they are given."""
    groups = ["new", "missing", "moved", "changed", "unchanged", "unidentified", "rejected", "undecided"]
    name = lambda group: f"DIFFERENCE_GROUP_{group.upper()}"
    of_rows = lambda group: sum(row["group"] == name(group) for row in rows)
    counted = [{"group": name(group), "count": str(counts.get(group, of_rows(group)))} for group in groups]
    return {"scanId": SCAN, "againstScanId": against, "counts": counted, "rows": list(rows), "explanation": explanation}


def changed(group: str, number: int = 1, **fields) -> dict:
    seen = {"ip": f"10.2.0.{number + 1}", "port": 80, "scheme": "http", "manufacturer": "Bitmain", "model": "Antminer S19", "firmware": "1.0.0"}
    return {
        "group": f"DIFFERENCE_GROUP_{group.upper()}", "deviceId": str(number), "identifier": f"mac:02:00:5E:10:00:{number:02X}", "ip": seen["ip"], "port": 80,
        "before": seen, "after": seen, "count": "1", **fields,
    }


@pytest.fixture
def server():
    fake = FakeServer()
    fake.replies = {
        "NodeService/ListNodes": {"nodes": [node()]},
        "ScanService/ListScans": {"scans": [scan()]},
        "ScanService/GetScan": {"scan": scan()},
        "AuditService/GetAuditHead": {"seq": "0"},
        "ResultService/GetScanDifference": difference(),
    }
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    page = View(browser, server.url)
    page.size(1440)
    yield page
    # The next test has a server on another port.
    browser.get("about:blank")


class View(Page):
    """The page at one of its views."""

    def open(self, view: str) -> None:
        self.browser.get("about:blank")
        self.browser.get(f"{self.server}/{view}")
        self.find("main h1")

    def go(self, view: str) -> None:
        """Changes the view without loading the page again."""
        self.browser.execute_script("location.hash = arguments[0]", view)

    def size(self, width: int, scheme: str = "light") -> None:
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def script(self, text: str, *arguments):
        return self.browser.execute_script(text, *arguments)

    def shows(self, *texts: str, patience: float = PATIENCE) -> None:
        """Waits until the page shows all texts."""
        self.until(f"the texts {texts}", lambda: all(text in self.plain() for text in texts), patience)

    def plain(self) -> str:
        """Returns the text of the page without isolating characters."""
        return self.text().replace("\u2068", "").replace("\u2069", "")

    def focused(self) -> str:
        return self.script("const one = document.activeElement; return one.getAttribute('aria-label') ?? one.textContent")


def test_a_queued_scan_shows_the_reason_and_the_time_of_its_wait(server, page):
    ahead = scan(OTHER, request={"nmap": {"target": "10.9.0.0/24"}}, progress={"done": "45", "total": "100"}, createdAt=ago(60))
    server.replies["ScanService/GetScan"] = {"scan": queued()}
    server.replies["ScanService/ListScans"] = {"scans": [queued(), ahead]}
    for view in (f"#/scans/{SCAN}", "#/scans"):
        page.open(view)
        page.shows("Queued for", "behind 10.9.0.0/24 (running, 45 %)", "It starts by itself", "It expires")
        before = page.plain()
        page.until("a longer time", lambda: page.plain() != before)
    assert "Running" in page.text(), "the list shows the scan that runs"

    server.replies["NodeService/ListNodes"] = {"nodes": [node(connected=False, lastSeenAt=ago(65))]}
    server.replies["ScanService/ListScans"] = {"scans": [queued()]}
    for view in (f"#/scans/{SCAN}", "#/scans"):
        page.open(view)
        page.shows("barn-2 is offline, last seen 1 min", "The scan starts when the node reconnects")


def test_a_scheduled_scan_is_behind_interactive_scans(server, page):
    scheduled = queued(priority="SCAN_PRIORITY_SCHEDULED", createdAt=ago(500))
    newer = queued(OTHER, request={"nmap": {"target": "10.9.0.0/24"}}, createdAt=ago(5))
    server.replies["ScanService/GetScan"] = {"scan": scheduled}
    server.replies["ScanService/ListScans"] = {"scans": [newer, scheduled]}
    page.open(f"#/scans/{SCAN}")
    page.shows("behind 10.9.0.0/24 (queued)")


def schedule(**fields) -> dict:
    return {
        "scheduleId": OTHER, "name": "nightly", "fleetNodeId": "7", "nodeName": "barn-2", "request": {"nmap": {"target": "10.2.0.0/22"}},
        "timing": {"when": "30 2 * * *", "timeZone": "Europe/Berlin", "jitter": "600s", "blackouts": "mon 08:00-09:00"},
        "operator": "ops@example.org", "createdAt": ago(9_000), "nextRunAt": ago(-9_000), "runs": "3", **fields,
    }


def test_schedules_are_listed_with_their_next_run_and_are_run_and_paused(server, page):
    server.replies["ScheduleService/ListSchedules"] = {"schedules": [schedule(missed="2", lastScanId=SCAN)]}
    page.open("#/scans")
    page.shows("nightly", "30 2 * * *, Europe/Berlin, up to 10 min later, not mon 08:00-09:00", "in 2 h", "2 runs were missed")
    page.find('[aria-label="Run now: nightly"]').click()
    page.until("a run", lambda: ("ScheduleService/RunSchedule", {"scheduleId": OTHER}) in server.requests)
    page.find('[aria-label="Pause or resume: nightly"]').click()
    page.until("a pause", lambda: ("ScheduleService/PauseSchedule", {"scheduleId": OTHER}) in server.requests)
    paused = schedule(pausedAt=ago(1), pausedReason="paused by ops@example.org")
    del paused["nextRunAt"]
    server.replies["ScheduleService/ListSchedules"] = {"schedules": [paused]}
    page.shows("Paused by ops@example.org.", "Resume")


def test_a_scan_is_repeated_after_a_preview_of_its_runs(server, page):
    server.replies["ScanService/PlanScan"] = {"targets": "1022", "commands": 1}
    server.replies["ScheduleService/PreviewSchedule"] = {"runs": [{"dueAt": ago(-60), "local": "2026-03-29T03:00:00+02:00"}]}
    page.open("#/scans/new")
    page.until("the nodes", lambda: "barn-2" in page.text())
    page.find("#target").send_keys("10.2.0.0/22")
    page.click("label[for=repeat]")
    page.find("#scan-name").send_keys("nightly")
    page.find("#schedule-when").send_keys("30 2 * * *")
    page.shows("2026-03-29 03:00 (+02:00)", "Create schedule")
    page.until("the form", lambda: page.find("#start-scan").is_enabled())
    page.find("#start-scan").click()
    page.until("a schedule", lambda: any(name == "ScheduleService/CreateSchedule" for name, _ in server.requests))
    created = next(body for name, body in server.requests if name == "ScheduleService/CreateSchedule")
    assert (created["name"], created["timing"]["when"], created["request"]["nmap"]["target"]) == ("nightly", "30 2 * * *", "10.2.0.0/22")


def test_a_halted_node_is_shown_with_its_reason(server, page):
    server.replies["NodeService/ListNodes"] = {"nodes": [node(halted=True, haltReason="new switch")]}
    page.open("#/nodes")
    page.shows("Halted", "new switch", "fleetnode resume")
    server.replies["NodeService/ListNodes"] = {"nodes": [node(halted=True, haltReason="new switch", online=False, connected=False)]}
    page.shows("Offline")


def test_a_node_that_is_not_connected_is_shown_with_the_reason(server, page):
    reason = "the route to the server does not carry HTTP/2"
    server.replies["NodeService/ListNodes"] = {"nodes": [node(connected=False, disconnectedReason=reason)]}
    page.open("#/nodes")
    page.shows("Reconnecting", f"Last reason: {reason}.")
    server.replies["NodeService/ListNodes"] = {"nodes": [node(online=False, connected=False, disconnectedReason="node revoked")]}
    page.shows("Offline", "Last reason: node revoked.")


def test_a_node_that_needs_an_upgrade_is_shown_with_the_capabilities_it_lacks(server, page):
    server.replies["NodeService/ListNodes"] = {"nodes": [node(missingCapabilities=["pins", "mdns"])]}
    page.open("#/nodes")
    page.shows("Needs an upgrade for", "pins, mdns")
    server.replies["NodeService/ListNodes"] = {"nodes": [node()]}
    page.until("no upgrade", lambda: "needs an upgrade" not in page.text().lower())


def test_older_scans_on_the_list_are_updated_live(server, page):
    def listed(request: dict) -> dict:
        if request.get("before"):
            return {"scans": [queued(OTHER, request={"nmap": {"target": "10.9.0.0/24"}})]}
        return {"scans": [ended()], "nextBefore": OTHER}

    server.replies["ScanService/ListScans"] = listed
    server.replies["ScanService/GetScan"] = {"scan": queued(OTHER)}
    page.open("#/scans")
    page.shows("Completed", "Show older scans")
    page.click(".more button")
    page.shows("Queued")
    server.replies["ScanService/GetScan"] = {"scan": scan(OTHER, progress={"done": "45", "total": "100"})}
    page.shows("Running 45 %")
    before = len(server.requests)
    server.replies["ScanService/GetScan"] = {"scan": ended(OTHER)}
    page.until("both are completed", lambda: page.text().count("Completed") == 2)
    page.until("another poll", lambda: sum(name.endswith("ListScans") for name, _ in server.requests[before:]) > 2)
    read = [name for name, _ in server.requests[before:] if name.endswith("GetScan")]
    assert len(read) <= 2, "ended scans are not read again"


def test_a_scan_of_a_subnet_that_the_node_chose_shows_unknown_targets(server, page):
    unknown = ended(ledger={"identified": "3", "targets": "3", "targetsUnknown": True, "elapsedMs": "900"})
    server.replies["ScanService/ListScans"] = {"scans": [unknown]}
    server.replies["ScanService/GetScan"] = {"scan": unknown}
    page.open("#/scans")
    page.shows("3 of an unknown number")
    page.open(f"#/scans/{SCAN}")
    page.shows("in an unknown number of targets", "The node chose the addresses")


@pytest.mark.parametrize("view", [f"#/scans/{SCAN}", "#/scans"])
def test_a_lost_node_is_shown_with_the_next_look(server, page, view):
    page.open(view)
    page.shows("Running")
    server.replies["NodeService/ListNodes"] = {"nodes": [node(connected=False, lastSeenAt=ago(14))]}
    page.shows("barn-2 disconnected", "continues by itself", "Waiting for node")
    # The text follows the next look at the node. Its interval is checked instead of the time, which a slow machine extends.
    script = "scans.js" if view == "#/scans" else "scan.js"
    assert int(re.search(r"const POLL_MS = (\d+);", (WEB / "js" / script).read_text())[1]) < 2000
    server.replies["NodeService/ListNodes"] = {"nodes": [node()]}
    page.until("the node is back", lambda: "Waiting for node" not in page.text() and "disconnected" not in page.text())
    assert "Running" in page.text()


def test_figures_beside_each_other_agree(server, page):
    page.open(f"#/scans/{SCAN}")
    server.send(SCAN, *[found(number) for number in range(1, 578)])
    page.shows("577 devices", "577 of 8,192", "7 %")
    # A chunk that runs again reports the same devices.
    server.send(SCAN, {**found(1), "seq": 578, "model": "Antminer S21"}, found(579))
    page.shows("578 devices", "Antminer S21")
    assert page.script("return document.querySelectorAll('[data-seq]').length") == 578


def test_relative_times_update_live(server, page):
    server.replies["DeviceSearchService/SearchDevices"] = lambda _request: {"devices": [device(1, lastSeen=ago(20))]}
    page.open("#/devices")
    shown = lambda: page.script("return document.querySelector('.grid-body time')?.textContent")
    first = page.until("a time", shown)
    assert first.endswith(" s ago")
    page.until("a later time", lambda: shown() != first)
    assert [name for name, _ in server.requests].count("DeviceSearchService/SearchDevices") == 1


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_recovers_after_an_outage(server, page, view):
    server.replies["DeviceSearchService/SearchDevices"] = {"devices": [device(1)]}
    server.replies["DeviceDetailService/GetDeviceDetail"] = {"device": device(1)}
    server.replies["NodeService/ListNodes"] = {"nodes": [node(), node(8, enrollment="awaiting_confirmation", pendingEnrollmentId="3", name="barn-3")]}
    server.replies["AuditService/ListAudit"] = {"records": [{"seq": "1", "at": ago(5), "actor": "operator", "actorName": "ops@example.org", "action": "scan.start", "subject": "node 7"}]}
    server.replies["KeyService/ListKeys"] = {"keys": [{"keyId": "1", "name": "nightly"}]}
    server.replies["SiteService/ListSites"] = {"sites": [site()]}
    server.replies |= alert_replies()
    content = {
        "#/": "barn", "#/scans": "10.2.0.0/22", "#/scans/new": "barn-2", f"#/scans/{SCAN}": "10.2.0.0/22", CHANGES: "10.2.0.0/22", "#/devices": "Antminer S19", "#/devices/1": "Antminer S19", "#/nodes": "barn-2",
        "#/nodes/enroll": "Create code", "#/nodes/8/confirm": "requests enrollment", "#/sites": "barn", "#/alerts": "2 new devices", "#/audit": "scan.start", "#/people": "nightly", "#/account": "nightly",
    }[view]
    page.open("#/account" if view != "#/account" else "#/scans")
    page.find("#sign-out")
    server.go_offline()
    page.go(view)
    if view != "#/nodes/enroll":
        page.until("the banner", lambda: page.script("return document.getElementById('banner').textContent"))
    server.go_online()
    page.until(content, lambda: content in page.plain() and not page.script("return document.getElementById('banner').textContent"))
    assert "cannot be" not in page.text()


def test_the_page_recovers_when_it_was_opened_during_an_outage(server, page):
    server.go_offline()
    page.browser.get(f"{page.server}/#/scans")
    page.shows("Server not reachable")
    server.go_online()
    page.shows("10.2.0.0/22")


def exclude(**fields) -> dict:
    return {"siteExcludeId": "4", "target": "10.2.0.9", "reason": "Printer", "createdBy": "ops@example.org", "createdAt": ago(90), **fields}


def site(**fields) -> dict:
    return {"siteId": "3", "name": "barn", "fleetNodeIds": ["7"], "excludes": [exclude()], "timeZone": "Europe/Berlin", "blackouts": "mon-fri 08:00-18:00", **fields}


def test_an_administrator_manages_the_rules_of_a_site(server, page):
    server.replies["NodeService/ListNodes"] = {"nodes": [node(siteId="3"), node(8, name="barn-3", siteId="5")]}
    server.replies["SiteService/ListSites"] = {"sites": [site(blackoutUntil=ago(-600)), site(siteId="6", name="hall", excludes=[], fleetNodeIds=[], blackouts="")]}
    page.open("#/sites")
    page.shows("barn", "barn-2", "10.2.0.9", "Printer", "mon-fri 08:00-18:00 (Europe/Berlin)", "Blackout until")

    def press(selector: str) -> None:
        # In one step, because each action draws the sites again.
        page.until(selector, lambda: page.script("const one = document.querySelector(arguments[0]); one?.click(); return Boolean(one)", selector))

    def within(label: str) -> str:
        return page.script("return [...document.querySelectorAll('li.site form')].find((form) => form.textContent.includes(arguments[0])).querySelector('input').id", label)

    page.type(f"#{within('Reason')}", "10.2.1.0/28")
    press('button[aria-label*="Exclude: "]')
    page.shows("Enter the targets and the reason")
    reason = page.script("return [...document.querySelectorAll('li.site input')].find((input) => input.placeholder === 'Printers').id")
    page.type(f"#{reason}", "Cameras")
    press('button[aria-label*="Exclude: "]')
    expected = {"siteId": "3", "targets": "10.2.1.0/28", "reason": "Cameras"}
    page.until("an exclude", lambda: sent(server, "SiteService/ExcludeTargets") == [expected])
    press('button[aria-label*="Save blackouts: "]')
    expected = {"siteId": "3", "blackouts": "mon-fri 08:00-18:00", "timeZone": "Europe/Berlin"}
    page.until("blackouts", lambda: sent(server, "SiteService/SetBlackouts") == [expected])
    press('button[aria-label*="Move node here: "]')
    page.until("a move", lambda: sent(server, "NodeService/MoveNode") == [{"fleetNodeId": "8", "siteId": "3"}])
    press('button[aria-label="Remove exclude of 10.2.0.9"]')
    page.click("#dialog-action")
    page.until("a removal", lambda: sent(server, "SiteService/RemoveExclude") == [{"siteExcludeId": "4"}])
    # Only a site without nodes can be deleted.
    deletable = page.script("return [...document.querySelectorAll('button[aria-label*=\"Delete: \"]')].filter((one) => !one.hidden).length")
    assert deletable == 1


def test_a_scan_in_a_blackout_needs_an_administrator_who_overrides_it(server, page):
    server.replies["ScanService/PlanScan"] = {"targets": "1022", "commands": 1, "blackoutUntil": ago(-600), "notes": ["site barn has a blackout"]}
    server.replies["ScanService/StartScan"] = {"scan": scan()}
    page.open("#/scans/new")
    page.until("the nodes", lambda: "barn-2" in page.text())
    page.find("#target").send_keys("10.2.0.0/22")
    page.shows("Site barn has a blackout", "Start in spite of the blackout")
    assert page.find("#start-scan").get_attribute("disabled")
    page.find("#override").click()
    page.until("a form that can be sent", lambda: not page.find("#start-scan").get_attribute("disabled"))
    page.find("#start-scan").click()
    page.until("a start", lambda: any(request["overrideBlackout"] for request in sent(server, "ScanService/StartScan")))


def test_foreign_texts_are_isolated_and_never_markup(server, page):
    alias = {"identityChangeId": "1", "identifier": HOSTILE, "reason": HOSTILE, "since": ago(5), "evidence": HOSTILE}
    server.replies |= {
        "NodeService/ListNodes": {"nodes": [node(name=HOSTILE, version="1"), node(8, name=HOSTILE, enrollment="awaiting_confirmation", pendingEnrollmentId="3")]},
        "NodeService/ListEnrollmentCodes": {"codes": [{"pendingEnrollmentId": "3", "state": "pending", "createdBy": HOSTILE, "createdAt": ago(5), "expiresAt": ago(-50)}]},
        "NodeService/ListRevokedNodes": {"nodes": [node(9, name=HOSTILE)]},
        "ScanService/ListScans": {"scans": [scan(nodeName=HOSTILE, request={"nmap": {"target": HOSTILE}})]},
        "ScanService/GetScan": {"scan": scan(nodeName=HOSTILE, startedBy=HOSTILE, request={"nmap": {"target": HOSTILE}})},
        "DeviceSearchService/SearchDevices": {"devices": [device(1, identifier=HOSTILE, manufacturer=HOSTILE, model=HOSTILE, firmware=HOSTILE, scheme="javascript", evidence=HOSTILE, hostName=HOSTILE, hostNameSource=HOSTILE, pairingError=HOSTILE, boundToFleetNodeId="7", aliases=[alias])]},
        "DeviceDetailService/GetDeviceDetail": {"device": device(1, identifier=HOSTILE, manufacturer=HOSTILE, model=HOSTILE, firmware=HOSTILE, evidence=HOSTILE, hostName=HOSTILE, hostNameSource=HOSTILE, labels=[HOSTILE]), "events": [{"kind": "firmware", "former": HOSTILE, "became": HOSTILE, "at": ago(5)}], "note": {"text": HOSTILE, "author": HOSTILE}},
        "DeviceService/ListRefusedDevices": {"devices": [{**device(2), "identifier": HOSTILE, "reason": HOSTILE, "remedy": "Unpair it first", "count": 3}]},
        "ScheduleService/ListSchedules": {"schedules": [schedule(name="x" * 64, missed="2", lastScanId=SCAN)]},
        "SiteService/ListSites": {"sites": [site(name=HOSTILE, excludes=[exclude(reason=HOSTILE, createdBy=HOSTILE)])]},
        "AlertService/ListAlertDeliveries": {"deliveries": [delivery(title=HOSTILE, items=[HOSTILE], channelName=HOSTILE, rule=HOSTILE, answer=HOSTILE, state="failed")]},
        "AlertService/ListAlertRules": {"rules": [alert_rule(name=HOSTILE)]},
        "AlertService/ListAlertChannels": {"channels": [alert_channel(name=HOSTILE, target=HOSTILE)]},
        "AuditService/ListAudit": {"records": [{"seq": "1", "at": ago(5), "actorName": HOSTILE, "action": "scan.start", "subject": HOSTILE, "refusal": HOSTILE}]},
        "KeyService/ListKeys": {"keys": [{"keyId": "1", "name": HOSTILE}]},
        "AccountService/ListSessions": {"sessions": [{"sessionId": "1", "createdAt": ago(5), "userAgent": HOSTILE}]},
        "ResultService/GetScanDifference": difference(changed("moved", changed=["firmware"], identifier=HOSTILE, before={"firmware": HOSTILE}, after={"model": HOSTILE, "firmware": HOSTILE, "scheme": "javascript"}), changed("moved", 2, reason=HOSTILE)),
    }
    server.replies["DeviceSearchService/GetDeviceFacets"] = {"total": "1", "models": [{"value": HOSTILE, "count": "1"}, {"value": "S19", "count": "1"}]}
    server.send(SCAN, found(1, identifier=HOSTILE, manufacturer=HOSTILE, model=HOSTILE, firmware=HOSTILE, host_name=HOSTILE, host_name_source=HOSTILE), warning(2, f"said `{HOSTILE.replace('`', '')}`"), {"type": "host", "seq": 3, "ip": "10.2.0.9", "host_name": HOSTILE, "host_name_source": HOSTILE, "reply": HOSTILE, "vendor": HOSTILE, "requests": [HOSTILE], "open_ports": [80]})
    for view in VIEWS:
        page.open(view)
        if view != "#/nodes/enroll":
            page.until(f"the text in {view}", lambda: "evil" in page.text())
        loose = page.script("""
            const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const loose = [];
            while (walker.nextNode()) {
              const text = walker.currentNode.data;
              const parent = walker.currentNode.parentElement;
              const isolated = /\\u2068[^\\u2069]*\\u202e[^\\u2069]*\\u2069/.test(text);
              if (text.includes('\\u202e') && !parent.closest('bdi') && !isolated && parent.tagName !== 'TITLE') loose.push(parent.outerHTML.slice(0, 300));
            }
            for (const element of document.querySelectorAll('[title], [aria-label]')) {
              for (const text of [element.title ?? '', element.getAttribute('aria-label') ?? '']) {
                if (text.includes('\\u202e') && !text.includes('\\u2068')) loose.push(text);
              }
            }
            return loose;
        """)
        assert loose == [], view
        assert page.script("return [window.hacked ?? null, document.querySelectorAll('main img').length, window.violations.length]") == [None, 0, 0], view


def delivery(**fields) -> dict:
    return {
        "deliveryId": OTHER, "channelName": "operations", "rule": "new devices", "event": "device.new", "title": "2 new devices at barn",
        "items": ["Bitmain S19 at 10.2.0.5:80", "Bitmain S19 at 10.2.0.6:80"], "count": "2", "state": "delivered", "attempts": 1,
        "answer": "HTTP 204", "createdAt": ago(60), "endedAt": ago(59), "scanId": SCAN, "fleetNodeId": "7", **fields,
    }


def alert_rule(**fields) -> dict:
    spec = {"name": "new devices", "event": "device.new", "channelIds": ["1"], "timeZone": "UTC", **fields}
    return {"ruleId": "4", "spec": spec, "createdAt": ago(9_000)}


def alert_channel(**fields) -> dict:
    return {"channelId": "1", "name": "operations", "kind": "webhook", "target": "https://hooks.example.org", "createdAt": ago(9_000), **fields}


def alert_replies() -> dict:
    failed = delivery(deliveryId=SCAN, title="Node barn-2 is silent", items=[], event="node.silent", rule="silent", state="failed", attempts=21, answer="HTTP 500")
    waiting = delivery(deliveryId="0199d2c0-5b1e-7c3a-9f00-1234567890ab", title="1 missing device at barn", state="waiting", attempts=2, answer="no answer within 10 s", dueAt=ago(-300))
    silent = {**alert_rule(name="silent", event="node.silent", threshold=10, quietHours="22:00-06:00", disabled=True), "ruleId": "5"}
    return {
        "AlertService/ListAlertDeliveries": {"deliveries": [failed, waiting, delivery()]},
        "AlertService/ListAlertRules": {"rules": [alert_rule(), silent]},
        "AlertService/ListAlertChannels": {"channels": [alert_channel()], "emailAvailable": True},
    }


def test_an_administrator_manages_alerts(server, page):
    server.replies |= alert_replies()
    page.open("#/alerts")
    page.shows("2 new devices at barn", "Delivered", "Failed", "HTTP 500", "Retrying", "2 attempts", "No answer within 10 s")
    page.shows("Node silent for 10 minutes, not 22:00-06:00 (UTC)", "Off", "https://hooks.example.org")
    assert len(page.browser.find_elements("css selector", "#alert-deliveries .entry > button:not([hidden])")) == 1, "only the failed one is retried"
    page.click(f"[data-delivery='{SCAN}'] > button")
    page.until("a retry", lambda: sent(server, "AlertService/RetryAlertDelivery") == [{"deliveryId": SCAN}])
    page.click("[data-channel='1'] button")
    page.until("a test", lambda: sent(server, "AlertService/TestAlertChannel") == [{"channelId": "1"}])

    server.replies["AlertService/CreateAlertChannel"] = {"channel": alert_channel(name="new"), "signingSecret": "whsec_abc"}
    page.click("#create-channel")
    page.shows("Enter the name and the receiver")
    page.type("#channel-name", "new")
    page.type("#channel-target", "https://hooks.example.org/secret")
    page.click("#create-channel")
    page.shows("whsec_abc", "shown only once")
    assert sent(server, "AlertService/CreateAlertChannel") == [{"name": "new", "webhookUrl": "https://hooks.example.org/secret"}]

    page.type("#rule-name", "lost")
    page.find("#rule-event option[value='device.missing']").click()
    page.type("#rule-quiet", "22:00-06:00")
    page.click("fieldset label")
    page.click("#create-rule")
    page.until("a rule", lambda: sent(server, "AlertService/CreateAlertRule"))
    spec = sent(server, "AlertService/CreateAlertRule")[0]["spec"]
    assert spec.pop("timeZone")
    assert spec == {"name": "lost", "event": "device.missing", "threshold": 2, "channelIds": ["1"], "quietHours": "22:00-06:00"}

    page.click("[data-rule='5'] button")
    page.until("a change", lambda: sent(server, "AlertService/UpdateAlertRule"))
    changed = sent(server, "AlertService/UpdateAlertRule")[0]
    assert (changed["ruleId"], changed["spec"]["name"], changed["spec"]["disabled"]) == ("5", "silent", False)
    page.click("[data-rule='4'] .button-quiet-danger")
    page.click("#dialog-action")
    page.until("a deletion", lambda: sent(server, "AlertService/DeleteAlertRule") == [{"ruleId": "4"}])
    page.click("[data-channel='1'] .button-quiet-danger")
    page.click("#dialog-action")
    page.until("a deletion", lambda: sent(server, "AlertService/DeleteAlertChannel") == [{"channelId": "1"}])


def test_an_operator_reads_alerts_without_the_actions(server, page):
    server.session = {**server.session, "role": "operator", "permissions": ["fleetnode:read", "fleetnode:manage", "miner:pair"]}
    server.replies |= alert_replies()
    page.open("#/alerts")
    page.shows("2 new devices at barn", "operations")
    assert page.script("return [...document.querySelectorAll('main button, main form')].filter((one) => one.checkVisibility()).length") == 0


def pairing_replies(server) -> None:
    devices = [device(number) for number in range(1, 6)]
    devices += [device(10, pairingStatus="PAIRED", boundToFleetNodeId="7"), device(11, pairingStatus="AUTHENTICATION_NEEDED"), device(12, pairingStatus="AUTHENTICATION_NEEDED")]
    devices += [device(13, boundToServer=True, pairingStatus="PAIRED"), device(14, boundToFleetNodeId="8"), device(15, ip="", port=0), device(16, pairingStatus="FAILED", pairingError="no route")]
    server.replies["DeviceSearchService/SearchDevices"] = {"devices": devices}
    server.replies["DeviceService/ListDevices"] = {"devices": devices}
    server.replies["NodeService/ListNodes"] = {"nodes": [node(), node(8, name="barn-3")]}


def operator(number: int, email: str, role: str, **fields) -> dict:
    return {"operatorId": str(number), "email": email, "role": role, "createdAt": ago(9_000), "hasPassword": True, "keys": 1, **fields}


def sent(server, procedure: str) -> list[dict]:
    return [request for name, request in server.requests if name == procedure]


def test_an_administrator_manages_operators_keys_and_sessions(server, page):
    people = [operator(1, "ops@example.org", "admin"), operator(2, "carl@example.org", "viewer")]
    # Two pages.
    server.replies["OperatorService/ListOperators"] = lambda request: {"operators": people[:1], "nextCursor": "1"} if request["cursor"] == "0" else {"operators": people[1:]}
    server.replies["KeyService/ListKeys"] = {"keys": [{"keyId": "4", "name": "nightly", "email": "carl@example.org", "operatorId": "2", "madeByKeyId": "3"}]}
    sessions = [{"sessionId": "1", "email": "ops@example.org", "createdAt": ago(5), "current": True}, {"sessionId": "2", "email": "carl@example.org", "createdAt": ago(50), "fromAddress": "10.9.0.4"}]
    server.replies["AccountService/ListSessions"] = {"sessions": sessions}
    page.open("#/people")
    page.shows("ops@example.org", "carl@example.org", "nightly", "created by key 3", "10.9.0.4")
    assert sent(server, "KeyService/ListKeys")[-1] == {"allOperators": True}
    assert sent(server, "AccountService/ListSessions")[-1] == {"allOperators": True}
    assert len(page.browser.find_elements("css selector", "[data-session] button")) == 1, "this browser signs out at the top"
    assert not page.browser.find_elements("css selector", "[data-email='ops@example.org'] .button-quiet-danger"), "nobody removes themselves"

    def agree() -> None:
        """Confirms a dialog and waits until the lists were loaded again."""
        page.script("document.querySelector('#people-operators').firstElementChild.dataset.old = 'yes'")
        page.click("#dialog-action")
        page.until("the lists", lambda: not page.browser.find_elements("css selector", "[data-old]"))

    def create(request):
        people.append(operator(3, request["email"], request["role"]))
        return {"operatorId": "3", "oneTimePassword": "otp-abc-123", "expiresAt": ago(-86_400)}
    server.replies["OperatorService/CreateOperator"] = create
    page.type("#operator-email", "dora@example.org")
    page.find("#operator-role option[value=operator]").click()
    page.click("#create-operator")
    page.shows("otp-abc-123", "shown only once")
    page.find("[data-email='dora@example.org']")
    assert sent(server, "OperatorService/CreateOperator") == [{"email": "dora@example.org", "role": "operator"}]

    role = "[data-email='carl@example.org'] select"
    page.find(f"{role} option[value=admin]").click()
    page.find("dialog")
    page.script("document.querySelector('dialog button[value=no]').click()")
    page.until("the old role", lambda: page.script(f"return document.querySelector(\"{role}\").value") == "viewer")
    assert sent(server, "OperatorService/SetOperatorRole") == []
    server.replies["OperatorService/SetOperatorRole"] = {}
    page.find(f"{role} option[value=admin]").click()
    agree()
    assert sent(server, "OperatorService/SetOperatorRole") == [{"operatorId": "2", "role": "admin"}]

    for button, procedure, request in [
        ("[data-email='carl@example.org'] .button-quiet-danger", "OperatorService/RemoveOperator", {"operatorId": "2"}),
        ("#people-keys .button-quiet-danger", "KeyService/RevokeKey", {"keyId": "4"}),
    ]:
        server.replies[procedure] = {}
        page.click(button)
        agree()
        assert sent(server, procedure) == [request]
    server.replies["AccountService/EndSession"] = {}
    page.click("[data-session='2'] button")
    page.until("the call", lambda: sent(server, "AccountService/EndSession") == [{"sessionId": "2"}])


def test_the_sign_in_page_leads_to_the_provider_and_explains_its_refusals(server, page):
    server.session = None
    server.methods = {"passwords": False, "provider": {"name": HOSTILE}}
    page.open("#/sign-in/unknown")
    page.shows("No operator here has your e-mail address", "Passwords are not accepted here", "Sign in with")
    link = page.find("#by-provider")
    assert link.get_attribute("href") == f"{server.url}/api/sign-in/provider"
    assert "<img src=x" in link.text, "the name is text"
    assert not page.script("return window.hacked")
    for hash in ["#/sign-in/constructor", "#/sign-in/<b>", "#/sign-in/"]:
        page.open(hash)
        page.find("#by-provider")
        assert not page.browser.find_elements("css selector", ".signin-message"), hash
    server.methods = {"passwords": True, "provider": None}
    page.open("#/sign-in/domain")
    page.shows("The domain of your e-mail address is not allowed here.")
    page.find("#email")
    assert page.script("return document.querySelector('.signin-provider').hidden")


def test_a_linked_operator_is_shown_and_unlinked(server, page):
    people = [operator(1, "ops@example.org", "admin"), operator(2, "carl@example.org", "viewer", signInIssuer="https://id.example.org")]
    server.replies["OperatorService/ListOperators"] = lambda _request: {"operators": people}
    server.replies["AccountService/ListSessions"] = {"sessions": [{"sessionId": "2", "email": "carl@example.org", "createdAt": ago(50), "signInIssuer": "https://id.example.org"}]}

    def unlink(_request):
        del people[1]["signInIssuer"]
        return {}
    server.replies["OperatorService/UnlinkOperator"] = unlink
    page.open("#/people")
    page.shows("signs in through https://id.example.org", "through https://id.example.org")
    page.click("[aria-label^='Unlink']")
    page.click("#dialog-action")
    page.until("no link", lambda: "signs in through" not in page.find("#people-operators").text)
    assert sent(server, "OperatorService/UnlinkOperator") == [{"operatorId": "2"}]


AGENTS = {
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36": "Chrome on Linux",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36 Edg/156.0.0.0": "Edge on Windows",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/604.1": "Safari on iOS",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:153.0) Gecko/20100101 Firefox/153.0": "Firefox on macOS",
    HOSTILE: HOSTILE,
}
"""User agents of browsers, and their descriptions."""


def test_sessions_name_their_browsers(server, page):
    server.replies["AccountService/ListSessions"] = {"sessions": [{"sessionId": str(at), "email": "ops@example.org", "createdAt": ago(5), "userAgent": agent} for at, agent in enumerate(AGENTS)]}
    page.open("#/people")
    page.shows("Chrome on Linux")
    shown = page.script("return [...document.querySelectorAll('#people-sessions bdi[title]')].map((one) => [one.title, one.textContent])")
    assert shown == [[f"\u2068{agent}\u2069", name] for agent, name in AGENTS.items()]


def test_a_refused_role_is_shown_and_taken_back(server, page):
    server.replies["OperatorService/ListOperators"] = {"operators": [operator(1, "ops@example.org", "admin")]}

    def refuse(_request):
        raise Refused(400, "failed_precondition", "operator 1 is the last administrator of this organization")
    server.replies["OperatorService/SetOperatorRole"] = refuse
    page.open("#/people")
    page.find("[data-email='ops@example.org'] select option[value=viewer]").click()
    page.click("#dialog-action")
    page.shows("Operator 1 is the last administrator of this organization.")
    page.until("the old role", lambda: page.script("return document.querySelector('.person select').value") == "admin")


def test_a_device_is_deleted_with_a_reason(server, page):
    devices = [device(1), device(2)]
    server.replies["DeviceSearchService/SearchDevices"] = lambda _request: {"devices": devices}

    def delete(_request):
        devices.pop(0)
        return {}
    server.replies["DeviceService/DeleteDevices"] = delete
    page.open("#/devices")
    page.shows("Antminer S19")
    page.click("[data-key='1'] .row-box")
    page.click("#delete-selected")
    page.click("#dialog-action")
    assert page.browser.find_elements("css selector", "dialog"), "a reason is required"
    page.type("dialog input", "sold")
    page.click("#dialog-action")
    page.until("one row", lambda: len(page.browser.find_elements("css selector", ".grid-devices [data-key]")) == 1)
    assert sent(server, "DeviceService/DeleteDevices") == [{"deviceIds": ["1"], "reason": "sold"}]
    server.session["permissions"] = ["fleetnode:read"]
    page.open("#/devices")
    page.shows("Antminer S19")
    assert not page.browser.find_elements("css selector", "#delete-selected, .row-box"), "a viewer selects nothing"


def test_a_node_is_renamed_in_a_dialog(server, page):
    page.open("#/nodes")
    page.shows("barn-2")
    server.replies["NodeService/RenameNode"] = {}
    rename = "button[aria-label^='Rename']"
    page.click(rename)
    field = page.find("dialog input")
    assert field.get_attribute("value") == "barn-2"
    field.clear()
    page.click("#dialog-action")
    assert page.browser.find_elements("css selector", "dialog"), "an empty name is not sent"
    field.send_keys("north barn\n")
    page.until("the call", lambda: sent(server, "NodeService/RenameNode") == [{"fleetNodeId": "7", "name": "north barn"}])
    page.until("the focus", lambda: page.focused().startswith("Rename"))


def test_unpair_is_offered_only_for_bound_devices(server, page):
    pairing_replies(server)
    page.open("#/devices")
    page.shows("Antminer S19")
    labels = lambda word: page.script("return [...document.querySelectorAll('button[aria-label]')].map((one) => one.getAttribute('aria-label')).filter((text) => text.startsWith(arguments[0] + ' '))", word)
    assert len(labels("Unpair")) == 3, "a failed pairing leaves nothing to unpair"
    assert len(labels("Pair")) == 9, "devices that are bound elsewhere or have no address cannot be paired"


def test_pairing_shows_first_the_pairable_devices_and_then_results_by_reason(server, page):
    pairing_replies(server)
    results = [{"deviceIdentifier": f"mac:02:00:5E:10:00:{number:02X}", "pairingStatus": "PAIRING_STATUS_FAILED", "error": "no way to log in"} for number in range(1, 5)]
    results += [{"deviceIdentifier": "mac:02:00:5E:10:00:05", "pairingStatus": "PAIRING_STATUS_PAIRED"}]
    server.replies["DevicePairingService/StartPairing"] = {"pairingId": "p1"}
    ended = {"pairingId": "p1", "targets": "6", "done": "5", "ended": True, "code": "ok"}
    server.replies["DevicePairingService/GetPairing"] = lambda request: {"pairing": ended, "results": results if request["after"] == "0" else [], "nextCursor": "5"}
    page.open("#/devices")
    page.find("#device-node").find_element("css selector", "option[value='7']").click()
    page.click("#pair-all")
    page.shows("6 of 12 devices can be paired", "Needs a password: 2", "Already paired: 1", "Paired by the server: 1", "Bound to barn-3: 1", "Address unknown, scan for it first: 1")
    page.type("dialog input[type=password]", "secret")
    page.shows("8 of 12 devices can be paired")
    assert "Needs a password" not in page.find("dialog").text
    page.click("dialog button[type=submit]")
    page.shows("Done: 5 of 6 devices tried", "4 Failed No way to log in.", "1 Paired")
    groups = page.script("return [...document.querySelectorAll('.pair-group summary strong')].map((one) => one.textContent)")
    assert groups == ["4", "1"], "the largest group is first"
    page.until("the focus on Close", lambda: page.focused() == "Close")
    page.click("dialog .actions button")
    page.until("the focus back on the page", lambda: page.focused() == "Pair all unpaired")


def test_default_passwords_are_tried_only_on_request_and_open_devices_are_shown_so(server, page):
    pairing_replies(server)
    server.replies["DeviceSearchService/SearchDevices"] = {"devices": [device(1, pairingStatus="OPEN", boundToFleetNodeId="7"), device(2)]}
    results = [{"deviceIdentifier": "mac:02:00:5E:10:00:01", "pairingStatus": "PAIRING_STATUS_PAIRED", "open": True}]
    results += [{"deviceIdentifier": "mac:02:00:5E:10:00:02", "pairingStatus": "PAIRING_STATUS_DEFAULT_PASSWORD"}]
    server.replies["DevicePairingService/StartPairing"] = {"pairingId": "p1"}
    ended = {"pairingId": "p1", "targets": "2", "done": "2", "ended": True, "code": "ok"}
    server.replies["DevicePairingService/GetPairing"] = lambda request: {"pairing": ended, "results": results if request["after"] == "0" else [], "nextCursor": "2"}
    page.open("#/devices")
    page.shows("Open")
    page.find("#device-node").find_element("css selector", "option[value='7']").click()
    page.click("#pair-all")
    page.shows("6 of 12 devices can be paired", "Some devices lock their login after several refused passwords.")
    page.click("dialog input[type=checkbox]")
    page.shows("8 of 12 devices can be paired")
    page.click("dialog button[type=submit]")
    page.shows("Done: 2 of 2 devices tried", "1 Open", "1 Default password")
    assert sent(server, "DevicePairingService/StartPairing")[-1]["credentials"] == {"username": "root", "tryDefaults": True}


def test_focus_continues_at_the_row_after_a_dialog(server, page):
    pairing_replies(server)
    page.open("#/devices")
    page.shows("Antminer S19")
    bound = device(10, pairingStatus="PAIRED", boundToFleetNodeId="7")
    page.browser.find_element("css selector", f"button[aria-label*='Unpair'][aria-label*='{bound['identifier']}']").click()
    server.replies["DeviceSearchService/SearchDevices"] = {"devices": [device(number) for number in range(1, 11)]}
    page.click("#dialog-action")
    page.until("the focus on the row", lambda: page.focused().startswith("Pair ") and bound["identifier"] in page.focused())


def test_focus_moves_to_scan_again_when_a_canceled_scan_ends(server, page):
    page.open(f"#/scans/{SCAN}")
    page.click("#cancel-scan")
    page.click("#dialog-action")
    page.until("the focus back on the button", lambda: page.focused() == "Cancel scan")
    server.send(SCAN, {"type": "ledger", "seq": 1, "state": "canceled", "targets": 8192, "not_reached": 8192, "elapsed_ms": 4000, "reason": "canceled by ops@example.org"})
    page.shows("Canceled after 4.0 s")
    assert page.focused() == "Scan again"


def test_the_warnings_scroll_by_keyboard(server, page):
    page.open(f"#/scans/{SCAN}")
    server.send(SCAN, *[warning(number, f"Answered and is no known device: 10.2.0.{number}:80") for number in range(1, 60)])
    page.shows("59 warnings")
    page.script("document.querySelector('.warning-list').focus()")
    from selenium.webdriver.common.keys import Keys
    page.browser.switch_to.active_element.send_keys(Keys.PAGE_DOWN)
    page.until("a scrolled list", lambda: page.script("return document.querySelector('.warning-list').scrollTop") > 0)


def test_unidentified_hosts_are_listed_with_the_command_that_records_them(server, page):
    page.open(f"#/scans/{SCAN}")
    host = {"type": "host", "ip": "10.2.0.9", "mac": "", "vendor": "", "host_name": "", "open_ports": [80], "reply_port": 80, "reply": HOSTILE, "requests": ["GET /"], "record_command": "fleetnode identify 10.2.0.9 --port 80 --record 10-2-0-9.txt", "elapsed_ms": 5}
    server.send(SCAN, {**host, "seq": 1}, {**host, "seq": 2, "ip": "10.2.0.10", "reply": ""})
    page.shows("2 unidentified hosts")
    page.script("document.querySelectorAll('.hosts details').forEach((one) => { one.open = true; })")
    page.shows("fleetnode identify 10.2.0.9 --port 80 --record 10-2-0-9.txt")
    assert page.script("return document.querySelectorAll('.hosts script, .hosts img').length") == 0


def test_host_names_are_shown_with_their_source(server, page):
    server.replies["DeviceSearchService/SearchDevices"] = {"devices": [device(1, hostName="miner-7.lan", hostNameSource="dns"), device(2)]}
    page.open("#/devices")
    page.shows("miner-7.lan")
    names = page.script("return [...document.querySelectorAll('.host-name')].map((one) => [one.textContent, one.title, one.firstChild.tagName])")
    assert names == [["miner-7.lan", "Host name by reverse DNS", "BDI"]]
    page.open(f"#/scans/{SCAN}")
    host = {"type": "host", "ip": "10.2.0.9", "open_ports": [80], "reply": "HTTP 404", "requests": ["GET /"], "record_command": "fleetnode identify 10.2.0.9"}
    server.send(SCAN, found(1, host_name="bitaxe.local", host_name_source="mdns"), {**host, "seq": 2, "host_name": "printer.lan", "host_name_source": "dns"})
    page.shows("bitaxe.local", "printer.lan")
    titles = page.script("return [...document.querySelectorAll('.host-name')].map((one) => one.title)")
    assert titles == ["Host name by mDNS", "Host name by reverse DNS"]
    page.click(".hosts summary")
    page.shows("Host name by reverse DNS: printer.lan")


def share(number: int, state: str, done: int, **fields) -> dict:
    return {"fleetNodeId": str(number), "nodeName": f"barn-{number}", "state": f"SCAN_STATE_{state}", "targets": "254", "done": str(done), "commands": 1, **fields}


def test_a_scan_over_several_nodes_has_a_line_for_each(server, page):
    shares = [share(7, "RUNNING", 120), share(8, "RUNNING", 50), share(9, "QUEUED", 0)]
    server.replies["NodeService/ListNodes"] = {"nodes": [node(), node(8, connected=False, lastSeenAt=ago(14)), node(9)]}
    server.replies["ScanService/GetScan"] = {"scan": scan(shares=shares, siteId="2")}
    page.open(f"#/scans/{SCAN}")
    page.shows("120 of 254 targets probed")
    page.until("the node that is away", lambda: "disconnected" in page.script("return document.querySelector('#shares').innerText"))
    lines = page.script("return [...document.querySelectorAll('#shares li')].map((line) => line.innerText)")
    assert len(lines) == 3, lines
    assert "barn-8" in lines[1] and "continues by itself" in lines[1], lines
    assert "waiting, 254 targets" in lines[2], lines
    # One node fails, which does not end the scan.
    failed = share(8, "FAILED", 50, reason=f"node 8 was revoked {HOSTILE}", code="failed_precondition")
    server.replies["ScanService/GetScan"] = {"scan": scan(shares=[shares[0], failed, shares[2]])}
    page.shows("was revoked")
    assert page.script("return document.querySelectorAll('#shares script, #shares img').length") == 0
    done = [share(7, "COMPLETED", 254), failed, share(9, "COMPLETED", 254)]
    server.replies["ScanService/GetScan"] = {"scan": scan(state="PARTIAL", shares=done, endedAt=ago(1), ledger={"identified": "3", "targets": "762"})}
    server.send(SCAN, {"type": "ledger", "seq": 1, "outcome": "partial", "targets": 762, "identified": 3, "elapsed_ms": 900, "reason": "node 8 (barn-8): node 8 was revoked"})
    page.shows("Partially completed")
    page.shows("254 of 254 targets probed")


def test_a_scan_of_one_node_has_no_lines_of_nodes(server, page):
    server.replies["ScanService/GetScan"] = {"scan": scan(shares=[share(7, "RUNNING", 120)])}
    page.open(f"#/scans/{SCAN}")
    page.shows("Node ")
    assert not page.script("return document.querySelector('#shares').checkVisibility()")


def full(server) -> None:
    """Sets replies that fill every view with long texts."""
    name = ".".join(["x" * 60] * 4)
    long = {"ip": LONG_ADDRESS, "hostName": name, "host_name": name, "port": 65535, "model": "Antminer S21+ Hyd. " * 3, "firmware": "LuxOS-2026.3.30.174759-b99dff377-" * 2}
    server.replies |= {
        "NodeService/ListNodes": {"nodes": [node(name="a-node-with-a-name-of-sixty-three-characters-" + "x" * 17, localSubnets=["10.2.0.0/22", f"{LONG_ADDRESS}/64"]), node(8, enrollment="awaiting_confirmation", pendingEnrollmentId="3")]},
        "NodeService/ListEnrollmentCodes": {"codes": [{"pendingEnrollmentId": "3", "state": "pending", "createdBy": "a.long.address@mail.example.org", "createdAt": ago(5), "expiresAt": ago(-50)}]},
        "ScanService/ListScans": {"scans": [scan(request={"ipRange": {"startIp": LONG_ADDRESS, "endIp": LONG_ADDRESS}}), queued(OTHER)]},
        "ScanService/GetScan": {"scan": scan(request={"ipRange": {"startIp": LONG_ADDRESS, "endIp": LONG_ADDRESS}})},
        "DeviceSearchService/SearchDevices": {"devices": [device(1, **long), device(2, boundToFleetNodeId="7", pairingStatus="PAIRED")], "nextCursor": "2:"},
        "DeviceSearchService/GetDeviceFacets": {"total": "2", "models": [{"value": long["model"], "count": "1"}, {"value": "Antminer S19", "count": "1"}], "pairing": [{"value": "PAIRED", "count": "1"}, {"value": "UNPAIRED", "count": "1"}]},
        "DeviceDetailService/GetDeviceDetail": {"device": device(1, **long, labels=["x" * 32] * 16, missingSince=ago(60)), "ports": list(range(4000, 4040)), "events": [{"kind": "address", "former": f"[{LONG_ADDRESS}]:65535", "became": f"[{LONG_ADDRESS}]:65534", "at": ago(5)}]},
        "DeviceService/ListRefusedDevices": {"devices": [{**device(2, **long), "reason": "it belongs to node 8", "remedy": "Revoke node 8", "count": 3}]},
        "OverviewService/GetOverview": {"devices": "1234567", "newToday": "99999", "missing": "65536", "needPassword": "1234567", "nodesOffline": "64", "scansRunning": "1", "days": [{"date": "2026-03-29", "seen": "1234567"}, {"date": "2026-03-30", "added": "7"}]},
        "OverviewService/GetSiteMap": {"blocks": [{"network": "10.255.255.0/24", "outcomes": "BAQDAgEABQY="}], "total": "1", "nextCursor": "10.255.255.0/24"},
        "AuditService/ListAudit": {"records": [{"seq": str(number), "at": ago(5), "actorName": "a.long.address@mail.example.org", "fromAddress": LONG_ADDRESS, "action": "operator.call", "subject": "fleet.v1.OperatorService/ListOperators", "refusal": "this needs the permission org:admin"} for number in range(1, 4)], "nextBefore": "1"},
        "AuditService/GetAuditHead": {"seq": "3", "hash": "qrvM3aq7zN2qu8zdqrvM3aq7zN2qu8zdqrvM3aq7zN0="},
        "KeyService/ListKeys": {"keys": [{"keyId": "1", "name": "x" * 64, "lastUsedAt": ago(50)}]},
        "AccountService/ListSessions": {"sessions": [{"sessionId": "1", "createdAt": ago(5), "userAgent": "Mozilla/5.0 " * 5, "email": "o" * 60 + "@example.org"}]},
        "OperatorService/ListOperators": {"operators": [operator(1, "o" * 60 + "@example.org", "admin"), operator(2, "carl@example.org", "viewer")]},
        "ResultService/GetScanDifference": difference(changed("moved", ip=LONG_ADDRESS, changed=["address", "firmware"], before=long, after=long), new=1_234, missing=99, unchanged=65_536, undecided=3),
    }
    server.events = {}
    server.send(SCAN, found(1, **long), *[warning(number, f"Answered and said nothing (2 hosts): [{LONG_ADDRESS}]:65535, 10.2.0.{number}:80") for number in range(2, 9)])


def test_no_view_is_wider_than_the_window_and_no_number_breaks(server, page):
    full(server)
    server.replies["SiteService/ListSites"] = {"sites": [site(name="x" * 255), site(siteId="4", blackoutUntil=ago(-600))]}
    for width in WIDTHS:
        page.size(width)
        for view in VIEWS:
            page.open(view)
            page.until("content", lambda: "Loading" not in page.text())
            if view == f"#/scans/{SCAN}":
                page.shows("1 device", "7 warnings")
            wide = page.script("""
                const limit = document.documentElement.clientWidth;
                return [...document.querySelectorAll('body *')].filter((one) => !one.closest('.visually-hidden, .skip-link, .grid-head, .one-line > *, .row-labels *') && one.getBoundingClientRect().right > limit + 0.5)
                  .map((one) => `${one.tagName}.${one.className} ${one.getBoundingClientRect().right}`);
            """)
            assert wide == [], f"{view} at {width}"
            broken = page.script("""
                const broken = [];
                const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
                while (walker.nextNode()) {
                  const text = walker.currentNode;
                  if (!text.parentElement.closest('.cell-endpoint, .warning-list') || text.parentElement.closest('.host-name')) continue;
                  for (const match of text.data.matchAll(/[0-9a-f]+/gi)) {
                    const range = document.createRange();
                    range.setStart(text, match.index);
                    range.setEnd(text, match.index + match[0].length);
                    const lines = new Set([...range.getClientRects()].map(({ top }) => Math.round(top)));
                    if (lines.size > 1) broken.push(match[0]);
                  }
                }
                return broken;
            """)
            assert broken == [], f"{view} at {width}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_accessibility_defect(server, page, scheme):
    server.replies |= alert_replies()
    server.replies["SiteService/ListSites"] = {"sites": [site(blackoutUntil=ago(-600))]}
    axe = os.environ.get("FLEET_AXE") or pytest.skip("FLEET_AXE is not set: accessibility is not tested")
    source = Path(axe).read_text()
    full(server)
    findings = {}
    for width in WIDTHS:
        page.size(width, scheme)
        for view in VIEWS:
            page.open(view)
            page.until("content", lambda: "Loading" not in page.text())
            page.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": source})
            result = page.browser.execute_async_script("const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then((found) => done(found.violations), (error) => done([{ id: String(error), nodes: [] }]))")
            for finding in result:
                findings[f"{finding['id']} in {view} at {width}"] = [one["html"][:200] for one in finding["nodes"]][:3]
    assert findings == {}, json.dumps(findings, indent=1)


def test_a_scan_that_does_not_exist_says_so(server, page):
    def missing(_request):
        raise Refused(404, "not_found", f"no scan {SCAN} in this organization")
    server.replies["ScanService/GetScan"] = missing
    page.open(f"#/scans/{SCAN}")
    page.shows("Scan not found", f"No scan {SCAN} in this organization.")


def test_the_changes_of_a_scan_have_tabs_with_counts_and_links(server, page):
    ended = scan(state="COMPLETED", ledger={"targets": "254", "identified": "5", "silent": "249", "elapsedMs": "4000"}, endedAt=ago(2))
    server.replies["ScanService/GetScan"] = {"scan": ended}
    server.replies["ScanService/ListScans"] = {"scans": [ended, scan(OTHER, "COMPLETED", request={"nmap": {"target": "10.9.0.0/24"}})]}
    moved = changed("moved", changed=["address", "firmware"], before={"ip": "10.2.0.9", "firmware": "0.9"}, after={"ip": "10.2.0.2", "firmware": "1.0", "model": "S19"})
    missing = changed("missing", 2, after=None, reason="its address did not answer")
    server.replies["ResultService/GetScanDifference"] = lambda request: difference(
        *[row for row in (moved, missing) if request.get("group", row["group"]) == row["group"]], new=3, missing=1, moved=1, unchanged=1_200,
        against=request.get("againstScanId") or OTHER)
    page.open(f"#/scans/{SCAN}")
    page.shows("Since the previous scan", "New 3", "Missing 1", "Moved 1", "Unchanged 1,200")
    assert "Undecided" not in page.text()
    page.click("#changes a[data-group=moved]")
    page.shows("Address: 10.2.0.9 → 10.2.0.2", "Firmware: 0.9 → 1.0", "Compared with the previous scan")
    assert page.script("return document.querySelector('.tab[aria-current]').dataset.group") == "moved"
    page.click("a[data-group=missing]")
    page.shows("Its address did not answer.")
    assert page.script("return location.hash") == f"#/scans/{SCAN}/changes/missing"
    links = page.script("return [...document.querySelectorAll('.files a')].map((one) => one.getAttribute('href'))")
    assert links == [f"/api/scans/{SCAN}/difference.csv?group=missing", f"/api/scans/{SCAN}/difference.json?group=missing"]
    page.until("the other scan", lambda: page.script("return document.querySelector('#changes-against').options.length") == 2)
    page.find("#changes-against").find_element("css selector", f"option[value='{OTHER}']").click()
    page.shows("Compared with the chosen scan")
    assert page.script("return location.hash") == f"#/scans/{SCAN}/changes/missing/{OTHER}"
    assert server.requests[-1][1].get("againstScanId", OTHER) == OTHER
    # The URL alone opens the same tab.
    page.open(f"#/scans/{SCAN}/changes/missing/{OTHER}")
    page.shows("Its address did not answer.")


def test_the_changes_name_the_node_and_the_site_of_each_row(server, page):
    rows = [
        changed("moved", changed=["site"], nodeName="barn-2", siteName="barn", before={"siteName": "hall"}, after={"siteName": "barn", "ip": "10.2.0.2", "port": 80, "scheme": "http"}),
        changed("moved", 2, nodeName="hall-1", siteName="hall-1"), changed("moved", 3), changed("moved", 4, nodeName=HOSTILE, siteName=HOSTILE),
    ]
    server.replies["ResultService/GetScanDifference"] = difference(*rows)
    page.open(CHANGES)
    page.shows("Site: hall → barn")
    cells = "return [...document.querySelectorAll('.grid-changes .grid-body .cell-endpoint')]"
    assert page.script(f"{cells}.map((one) => one.querySelector('bdi')?.textContent ?? '')") == ["barn-2, barn", "hall-1", "", HOSTILE], "a site with the name of its node is not repeated"
    below = page.script(f"{cells}.filter((one) => one.children[1]).map((one) => one.children[1].getBoundingClientRect().top >= one.children[0].getBoundingClientRect().bottom - 1)")
    assert below == [True] * 3, "the node is below the address, and not joined to it"
    assert page.script("return [window.hacked ?? null, document.querySelectorAll('main img').length]") == [None, 0]


def test_a_blackout_leaves_the_name_of_its_site_on_one_line(server, page):
    server.replies["SiteService/ListSites"] = {"sites": [site(blackoutUntil=ago(-600))]}
    for width in WIDTHS:
        page.size(width)
        page.open("#/sites")
        page.shows("Blackout until")
        assert page.script("const name = document.createRange(); name.selectNodeContents(document.querySelector('.site h2')); return new Set([...name.getClientRects()].map(({ bottom }) => Math.round(bottom))).size") == 1, width


def test_an_organization_without_sites_is_told_how_they_begin(server, page):
    page.open("#/sites")
    page.shows("No sites yet", "Enroll a node, or create a site.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_defect_before_the_sign_in(server, page, scheme):
    axe = os.environ.get("FLEET_AXE") or pytest.skip("FLEET_AXE is not set: accessibility is not tested")
    server.session = None
    server.methods = {"passwords": True, "provider": {"name": "x" * 64}}
    findings = {}

    def check(state: str) -> None:
        wide = page.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{state} is {wide} too wide at {width}"
        page.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": Path(axe).read_text()})
        result = page.browser.execute_async_script("const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then((found) => done(found.violations), (error) => done([{ id: String(error), nodes: [] }]))")
        findings.update({f"{one['id']} in {state} at {width}": [node["html"][:200] for node in one["nodes"]][:3] for one in result})

    for width in WIDTHS:
        page.size(width, scheme)
        page.open("#/sign-in/unknown")
        page.find("#by-provider")
        check("the sign-in by password")
        page.click("#by-key")
        page.type("#key", "fok_short")
        page.click("button[type=submit]")
        page.find("[role=alert]")
        check("the sign-in by key")
        server.go_offline()
        page.browser.get("about:blank")
        page.browser.get(f"{page.server}/")
        page.shows("Server not reachable")
        check("the outage")
        server.go_online()
    assert findings == {}, json.dumps(findings, indent=1)


def test_a_scan_without_devices_says_why(server, page):
    server.replies["ScanService/GetScan"] = {"scan": scan(state="COMPLETED", ledger={"targets": "254", "silent": "254", "elapsedMs": "4000"}, endedAt=ago(2))}
    why = "No device was found: 254 of 254 targets did not answer. Check that the node is on this network and that the devices are on."
    server.replies["ResultService/GetScanDifference"] = difference(explanation=why, against="")
    page.open(f"#/scans/{SCAN}")
    page.shows(why)
    page.open(f"#/scans/{SCAN}/changes/new")
    page.shows(why, "There is no earlier scan of the same targets", "No new devices.")


def test_the_search_of_devices_is_in_the_url_and_pages_by_cursor(server, page):
    pages = {"": {"devices": [device(1), device(2)], "nextCursor": "2:S19"}, "2:S19": {"devices": [device(3, model="Antminer S21")]}}
    server.replies["DeviceSearchService/SearchDevices"] = lambda request: pages[request.get("cursor", "")]
    server.replies["DeviceSearchService/GetDeviceFacets"] = {"total": "1234", "models": [{"value": "Antminer S19", "count": "1000"}, {"value": "", "count": "234"}], "pairing": [{"value": "AUTHENTICATION_NEEDED", "count": "7"}, {"value": "UNPAIRED", "count": "3"}]}
    asked = lambda: [request for name, request in server.requests if name == "DeviceSearchService/SearchDevices"][-1]
    page.open("#/devices?search=seen%3A%3C1d&order=model")
    page.shows("1,234 devices", "Antminer S19 1,000", "password 7")
    assert (asked()["search"], asked()["order"]) == ("seen:<1d", "DEVICE_ORDER_MODEL")
    page.find(".pager button:last-child").click()
    page.shows("Antminer S21")
    assert asked()["cursor"] == "2:S19"
    page.click("button[data-term*='Antminer S19']")
    page.until("the first page of the new search", lambda: asked()["search"] == 'seen:<1d model:"Antminer S19"' and asked()["cursor"] == "")
    assert page.script("return new URLSearchParams(location.hash.split('?')[1]).get('search')") == 'seen:<1d model:"Antminer S19"'
    page.type("#device-search", "pairing:failed")
    page.until("the typed search", lambda: asked()["search"] == "pairing:failed")
    assert "antminer" not in page.text(), "names of drivers are internal"


def test_an_invalid_search_names_the_term(server, page):
    def invalid(_request):
        raise Refused(400, "invalid_argument", "search: `colour:red`: there is no field `colour`; use model, make")
    server.replies["DeviceSearchService/SearchDevices"] = invalid
    server.replies["DeviceSearchService/GetDeviceFacets"] = invalid
    page.open("#/devices?search=colour:red")
    page.shows("there is no field", "colour")
