"""The scan form, the live scan, the list of scans and the selection of devices, against the API of `fakeserver`."""

import json
import os
import re
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from fakeserver import Refused, ago
from test_page import HOSTILE, OTHER, SCAN, WIDTHS, browser, device, ended, found, node, page, pairing_replies, queued, scan, schedule, sent, server  # noqa: F401

PLAN = {"targets": "1022", "commands": 1, "packets": "3066", "rate": 2500, "estimate": "2.100s"}


def open_form(page) -> None:
    page.open("#/scans/new")
    page.until("the nodes", lambda: "barn-2" in page.text())


def plan_that_names_invalid(*invalid: str):
    """Returns a reply that names the first invalid entry of a request, as the server does."""
    def reply(request):
        wanted = request["request"]
        entries = wanted.get("ipList", {}).get("ipAddresses") or wanted["nmap"]["target"].split()
        for entry in entries:
            if entry in invalid:
                raise Refused(400, "invalid_argument", f"`{entry}` is not a target: it is a public address")
        return {**PLAN, "targets": str(len(entries))}
    return reply


def pills(page) -> list[str]:
    return page.script("return [...document.querySelectorAll('.pill')].map((one) => one.dataset.entry + (one.classList.contains('pill-bad') ? ' bad' : ''))")


def test_targets_become_pills_and_invalid_ones_are_red_and_counted(server, page):
    server.replies["ScanService/PlanScan"] = plan_that_names_invalid("8.8.8.8", "9.9.9.0/24")
    open_form(page)
    page.find("#target").send_keys("10.2.0.0/24, 8.8.8.8 10.2.1.7 9.9.9.0/24" + Keys.ENTER)
    page.until("red pills", lambda: pills(page) == ["10.2.0.0/24", "8.8.8.8 bad", "10.2.1.7", "9.9.9.0/24 bad"])
    page.shows("4 targets, 2 invalid", "Invalid entries: 2 of 4.", "8.8.8.8 is not a target", "The others:")
    assert page.find("#target").get_attribute("aria-invalid") == "true"
    assert not page.find("#start-scan").is_enabled()
    page.click("#check button")
    page.until("a plan of the rest", lambda: pills(page) == ["10.2.0.0/24", "10.2.1.7"] and page.find("#start-scan").is_enabled())
    assert "invalid" not in page.text()
    last = sent(server, "ScanService/PlanScan")[-1]["request"]
    assert last["ipList"]["ipAddresses"] == ["10.2.0.0/24", "10.2.1.7"]


def test_pills_are_edited_by_keyboard_alone_and_pasted_lists_are_divided(server, page):
    server.replies["ScanService/PlanScan"] = PLAN
    server.replies["ScanService/StartScan"] = {"scan": scan()}
    open_form(page)
    target = page.find("#target")
    target.send_keys("10.2.0.5" + Keys.ENTER + "10.2.0.6" + Keys.ENTER)
    assert pills(page) == ["10.2.0.5", "10.2.0.6"]
    target.send_keys(Keys.BACKSPACE)
    page.until("the last entry in the field", lambda: pills(page) == ["10.2.0.5"] and target.get_attribute("value") == "10.2.0.6")
    page.script("""
        const data = new DataTransfer();
        data.setData('text', '10.2.0.7 # rack 1\\n10.2.0.8;10.2.0.7');
        arguments[0].dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
    """, target)
    assert pills(page) == ["10.2.0.5", "10.2.0.6", "10.2.0.7", "10.2.0.8"]
    target.send_keys(Keys.SHIFT + Keys.TAB)
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.until("a pill less", lambda: len(pills(page)) == 3)
    assert page.focused().startswith("Remove ")
    page.until("a form that can be sent", lambda: page.find("#start-scan").is_enabled())
    page.find("#ports").send_keys(Keys.ENTER)
    page.until("a start", lambda: sent(server, "ScanService/StartScan"))
    assert sent(server, "ScanService/StartScan")[0]["request"]["ipList"]["ipAddresses"] == ["10.2.0.5", "10.2.0.6", "10.2.0.7"]


def test_the_plan_shows_addresses_packets_time_and_warnings(server, page):
    warnings = ["254 addresses are in 172.17.0.0/16, the network of containers", "port 9100 is a port of printers", "node barn-3 of the same site is in 10.2.0.0/22 too"]
    server.replies["ScanService/PlanScan"] = {**PLAN, "skipped": "2", "skippedReasons": [{"reason": "printer", "count": "2"}], "warnings": warnings}
    open_form(page)
    page.find("#target").send_keys("10.2.0.0/22")
    page.find("#exclude").send_keys("10.2.0.9")
    page.find("#ports").send_keys("80 9100")
    page.shows("1,022", "addresses", "≈ 3,066", "packets", "≈ 2.1 s", "at 2,500 probes/s", "2 addresses will be skipped: 2 printer.", *[warning[1:] for warning in warnings])
    planned = {"target": "10.2.0.0/22 !10.2.0.9", "ports": ["80", "9100"]}
    page.until("a plan with the ports", lambda: sent(server, "ScanService/PlanScan")[-1]["request"]["nmap"] == planned)


def test_a_scan_of_a_site_or_of_all_nodes_shows_its_coverage(server, page):
    server.replies["NodeService/ListNodes"] = {"nodes": [node(siteId="3", siteName="barn"), node(8, name="barn-3", siteId="3", siteName="barn", connected=False, localSubnets=["10.3.0.0/24"])]}

    def plan(request):
        shares = [{"fleetNodeId": "7", "nodeName": "barn-2", "targets": "254", "connected": True}]
        if "fleetNodeId" in request:
            return {**PLAN, "shares": shares}
        shares.append({"fleetNodeId": "8", "nodeName": "barn-3", "targets": "250"})
        return {**PLAN, "shares": shares, "uncovered": "4", "uncoveredTargets": ["10.9.0.4-10.9.0.7"]}
    server.replies["ScanService/PlanScan"] = plan
    server.replies["ScanService/StartScan"] = {"scan": scan()}
    open_form(page)
    page.find("#target").send_keys("10.2.0.0/24 10.3.0.0/24 10.9.0.4-7 ")
    page.until("the choice of a site", lambda: page.browser.find_elements("css selector", "#node option[value='site:3']"))
    page.find("#node").find_element("css selector", "option[value='site:3']").click()
    page.shows("2 nodes.", "Offline: barn-3.", "barn-2 254 addresses", "barn-3 250 addresses (offline: its share waits)", "4 addresses are in the subnets of no node: 10.9.0.4-10.9.0.7.")
    page.find("#node").find_element("css selector", "option[value='auto']").click()
    page.until("a form that can be sent", lambda: page.find("#start-scan").is_enabled())
    page.click("#start-scan")
    page.until("a start", lambda: sent(server, "ScanService/StartScan"))
    started = sent(server, "ScanService/StartScan")[0]
    assert started["auto"] and "fleetNodeId" not in started


def test_the_paces_show_their_numbers_and_limit_the_scan(server, page):
    server.replies["NodeService/ListNodes"] = {"nodes": [node(rate=5000), node(8, name="upstream-1")]}
    server.replies["ScanService/PlanScan"] = PLAN
    open_form(page)
    page.shows("500/s", "2,500/s", "5,000/s")
    page.find("#target").send_keys("10.2.0.0/22")
    asked = lambda: [request["request"].get("maxRate") for request in sent(server, "ScanService/PlanScan")]
    page.until("the normal pace", lambda: asked()[-1:] == [2500])
    page.click("label[for=pace-low]")
    page.until("the low pace", lambda: asked()[-1:] == [500])
    page.click("label[for=pace-high]")
    page.until("the rate of the node", lambda: asked()[-1:] == [None])
    page.find("#node").find_element("css selector", "option[value='8']").click()
    assert page.script("return document.querySelector('#node').value") == "8"
    page.shows("does not announce a rate")
    assert page.script("return [...document.querySelectorAll('[name=pace]')].every((one) => one.disabled)")


def test_a_scan_is_started_with_its_name(server, page):
    server.replies["ScanService/PlanScan"] = PLAN
    server.replies["ScanService/StartScan"] = {"scan": scan()}
    open_form(page)
    page.find("#target").send_keys("10.2.0.0/22")
    page.find("#scan-name").send_keys("north rack")
    page.until("a form that can be sent", lambda: page.find("#start-scan").is_enabled())
    page.click("#start-scan")
    page.until("a start", lambda: sent(server, "ScanService/StartScan"))
    assert sent(server, "ScanService/StartScan")[0]["name"] == "north rack"


def test_the_live_scan_has_two_bars_a_summary_a_strip_and_a_filter(server, page):
    page.open(f"#/scans/{SCAN}")
    page.shows("barn-2 is connected")
    host = {"type": "host", "open_ports": [80], "reply": "", "requests": [], "record_command": "fleetnode identify 10.2.0.9", "elapsed_ms": 5}
    server.send(SCAN, found(1), found(2, model="Antminer S21"), found(300), {**host, "seq": 301, "ip": "10.2.0.200"}, {"type": "progress", "done": 4096, "total": 8192, "phase": "sweep", "elapsed_ms": 900})
    page.shows("3 devices", "3 of 4", "4,096 of 8,192", "50 %")
    bars = page.script("return ['progress', 'identified-progress'].map((id) => document.getElementById(id).value)")
    assert bars == [0.5, 0.75]
    assert page.script("return ['unidentified', 'rest'].map((id) => document.getElementById(id).textContent)") == ["1", "4,096"]
    blocks = page.script("return [...document.querySelectorAll('.strip-block')].map((one) => [one.dataset.block, one.querySelectorAll('.strip-identified').length, one.querySelectorAll('.strip-unidentified').length])")
    assert blocks == [["10.2.0", 2, 1], ["10.2.1", 1, 0], ["10.2.2", 0, 0], ["10.2.3", 0, 0]]
    page.click("[data-block='10.2.1']")
    page.shows("1 of 3 devices")
    shown = lambda: page.script("return [...document.querySelectorAll('[data-seq]')].map((row) => Number(row.dataset.seq))")
    page.until("the rows of the block", lambda: shown() == [300])
    page.click("[data-block='10.2.1']")
    page.until("all rows", lambda: shown() == [1, 2, 300])
    page.find("#scan-filter").send_keys("s21")
    page.until("one row", lambda: shown() == [2])
    server.send(SCAN, found(302, model="Antminer S21"), found(303))
    page.until("the filter on new rows", lambda: shown() == [2, 302])


def test_rows_of_the_live_scan_are_paired_together(server, page):
    server.replies["DevicePairingService/StartPairing"] = {"pairingId": "p1"}
    server.replies["DevicePairingService/GetPairing"] = {"pairing": {"pairingId": "p1", "targets": "2", "done": "2", "ended": True, "code": "ok"}, "nextCursor": "2"}
    page.open(f"#/scans/{SCAN}")
    server.send(SCAN, found(1), found(2), found(3))
    page.shows("3 devices")
    for number in (1, 3):
        page.click(f"[data-seq='{number}'] .row-box")
    page.shows("2 devices selected")
    page.click("#pair-selected")
    page.shows("Pair 2 devices", "barn-2 tries this password once")
    page.type("dialog input[type=password]", "secret")
    page.click("dialog button[type=submit]")
    page.shows("Done: 2 of 2 devices tried.")
    asked = sent(server, "DevicePairingService/StartPairing")[0]
    assert asked["fleetNodeId"] == "7" and asked["deviceIdentifiers"] == [found(1)["identifier"], found(3)["identifier"]]
    assert asked["credentials"] == {"username": "root", "password": "secret"}


def labels_of(page, row: str) -> list[str]:
    return page.script("return [...document.querySelectorAll(`${arguments[0]} .label-link`)].map((one) => one.textContent)", row)


def test_rows_of_the_live_scan_are_labeled_together_by_keyboard_alone(server, page):
    server.replies["DeviceDetailService/LabelDevices"] = {}
    page.open(f"#/scans/{SCAN}")
    server.send(SCAN, found(1), found(2), found(3))
    page.shows("3 devices")
    for number in (1, 3):
        page.script("document.querySelector(`[data-seq='${arguments[0]}'] .row-box`).focus()", number)
        page.browser.switch_to.active_element.send_keys(Keys.SPACE)
    page.shows("2 devices selected")
    page.script("document.querySelector('#label-selected').focus()")
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.find("dialog input")
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.shows("Label 2 devices", "Enter a label to add or to remove.")
    page.browser.switch_to.active_element.send_keys("Rack-7, spare" + Keys.ENTER)
    page.until("the labels", lambda: sent(server, "DeviceDetailService/LabelDevices") == [{"deviceIds": ["1", "3"], "add": ["rack-7", "spare"], "remove": []}])
    page.until("the labels in the rows", lambda: labels_of(page, "[data-seq='1']") == labels_of(page, "[data-seq='3']") == ["rack-7", "spare"])
    assert labels_of(page, "[data-seq='2']") == []
    page.until("the end of the selection", lambda: not page.browser.find_element("css selector", ".selection-bar").is_displayed())
    page.find("#scan-filter").send_keys("rack-7")
    page.shows("2 of 3 devices")
    # A report of a labeled device keeps its labels.
    server.send(SCAN, {**found(3), "seq": 4, "model": "Antminer S21"})
    page.until("the newer report", lambda: "S21" in page.script("return document.querySelector(`[data-seq='3']`).textContent"))
    assert labels_of(page, "[data-seq='3']") == ["rack-7", "spare"]
    # A row that the filter does not show any more leaves the table.
    page.click("[data-seq='1'] .row-box")
    page.click("#label-selected")
    page.find("dialog .field:nth-of-type(2) input").send_keys("rack-7" + Keys.ENTER)
    page.shows("1 of 3 devices")
    page.until("the row that matches", lambda: page.script("return [...document.querySelectorAll('[data-seq]')].map((row) => row.dataset.seq)") == ["3"])


def test_selected_devices_are_labeled_and_a_refusal_stays_in_the_dialog(server, page):
    two_pages(server, 300)

    def refuse(_request):
        raise Refused(400, "invalid_argument", "label `a*b`: use letters, digits and the characters - _ . /")
    server.replies["DeviceDetailService/LabelDevices"] = refuse
    page.open("#/devices")
    page.shows("1 to 100")
    page.click(".grid-head .row-box")
    page.click("#select-all")
    page.shows("300 devices selected")
    page.click("#label-selected")
    fields = page.until("the fields", lambda: page.browser.find_elements("css selector", "dialog input"))
    fields[0].send_keys("a*b")
    fields[1].send_keys("old")
    page.click("#dialog-action")
    page.shows("use letters, digits")
    server.replies["DeviceDetailService/LabelDevices"] = {}
    before = len(sent(server, "DeviceDetailService/LabelDevices"))
    page.type("dialog input", "new")
    page.click("#dialog-action")
    page.until("the end of the dialog", lambda: not page.browser.find_elements("css selector", "dialog"))
    calls = sent(server, "DeviceDetailService/LabelDevices")[before:]
    assert [len(call["deviceIds"]) for call in calls] == [256, 44], "a call labels at most 256 devices"
    assert all((call["add"], call["remove"]) == (["new"], ["old"]) for call in calls)
    page.until("no selection", lambda: not page.browser.find_element("css selector", ".selection-bar").is_displayed())


def test_rows_of_devices_have_one_line_and_long_texts_a_title(server, page):
    long = {"model": "Antminer S21+ Hyd. " * 3, "firmware": "LuxOS-2026.3.30.174759-b99dff377-" * 2, "identifier": "auto:" + "f" * 90, "labels": ["x" * 32] * 16, "missingSince": ago(60)}
    server.replies["DeviceSearchService/SearchDevices"] = {"devices": [device(1), device(2, **long)]}
    server.replies["NodeService/ListNodes"] = {"nodes": [node(name="a-node-with-a-name-of-sixty-three-characters-" + "x" * 17)]}
    for width in WIDTHS:
        page.size(width)
        page.open("#/devices")
        page.find("[data-key='2']")
        heights = page.script("return [...document.querySelectorAll('.grid-devices [data-key]')].map((one) => one.offsetHeight)")
        # On a narrow window, a row has a line for each group of cells.
        # A second line of a cell adds 18 pixels, a badge beside a name 2.
        assert abs(heights[0] - heights[1]) < 10, f"{heights} at {width}"
        assert width < 900 or heights[1] < 55, heights
        titles = page.script("return [...document.querySelectorAll(`[data-key='2'] .one-line`)].map((one) => one.title)")
        assert any(long["model"].strip() in title for title in titles) and any(long["firmware"] in title for title in titles)


def test_a_queued_scan_names_its_place_and_the_scan_before_it(server, page):
    first = scan(OTHER, name="nightly", progress={"done": "45", "total": "100"}, createdAt=ago(60))
    server.replies["ScanService/GetScan"] = {"scan": queued()}
    server.replies["ScanService/ListScans"] = {"scans": [queued(), first]}
    for view in (f"#/scans/{SCAN}", "#/scans"):
        page.open(view)
        page.shows("second in line, behind nightly (running, 45 %)")


def test_the_list_has_active_scheduled_and_ended_scans_with_their_changes(server, page):
    changes = {"againstScanId": SCAN, "new": "3", "moved": "2", "missing": "1"}
    first = ended(SCAN[:-1] + "0", ledger={"identified": "11", "targets": "254", "elapsedMs": "900"}, changes={"new": "11"}, name="north rack")
    server.replies["ScanService/ListScans"] = {"scans": [scan(), ended(OTHER, ledger={"identified": "11", "targets": "254", "elapsedMs": "900"}, changes=changes), first]}
    server.replies["ScheduleService/ListSchedules"] = {"schedules": [schedule()]}
    page.open("#/scans")
    page.shows("Active", "Scheduled", "History", "2 of 8,192", "ops@example.org", "11 of 254", "new 3, moved 2, missing 1", "first scan of these targets", "north rack", "in 2 h")
    headings = page.script("return [...document.querySelectorAll('main h2')].filter((one) => one.offsetParent).map((one) => one.textContent)")
    assert headings == ["Active", "Scheduled", "History"]


def test_a_scan_is_canceled_cloned_and_run_again_in_its_row(server, page):
    old = ended(OTHER, request={"nmap": {"target": "10.9.0.0/24 !10.9.0.4", "ports": ["80"]}, "maxRate": 500}, name="north rack")
    server.replies["ScanService/ListScans"] = {"scans": [scan(), old]}
    server.replies["ScanService/PlanScan"] = PLAN
    server.replies["NodeService/ListNodes"] = {"nodes": [node(rate=5000)]}
    page.open("#/scans")
    page.click("[aria-label*='Cancel: ']")
    page.click("#dialog-action")
    page.until("a cancel", lambda: sent(server, "ScanService/CancelScan") == [{"scanId": SCAN}])
    page.click("[aria-label*='Run again: ']")
    page.until("a start", lambda: sent(server, "ScanService/StartScan"))
    started = sent(server, "ScanService/StartScan")[0]
    assert (started["fleetNodeId"], started["request"], started["name"]) == ("7", old["request"], "north rack")
    page.click(f"[data-scan='{OTHER}'] [aria-label*='Clone: ']")
    page.until("the form", lambda: pills(page) == ["10.9.0.0/24", "10.9.0.4"])
    assert page.find("#ports").get_attribute("value") == "80" and page.find("#scan-name").get_attribute("value") == "north rack"
    page.until("the pace", lambda: page.script("return document.querySelector('#pace-low').checked"))


def test_a_schedule_is_cloned_with_its_times(server, page):
    server.replies["ScheduleService/ListSchedules"] = {"schedules": [schedule()]}
    server.replies["ScanService/PlanScan"] = PLAN
    server.replies["ScheduleService/PreviewSchedule"] = {"runs": [{"dueAt": ago(-60), "local": "2026-03-29T03:00:00+02:00"}]}
    page.open("#/scans")
    page.click("[aria-label='Clone: nightly']")
    page.shows("2026-03-29 03:00 (+02:00)", "Create schedule")
    assert not page.find("#start-scan").is_enabled(), "a schedule needs a name of its own"
    page.find("#scan-name").send_keys("weekly")
    page.until("a form that can be sent", lambda: page.find("#start-scan").is_enabled())
    page.click("#start-scan")
    page.until("a schedule", lambda: sent(server, "ScheduleService/CreateSchedule"))
    created = sent(server, "ScheduleService/CreateSchedule")[0]
    assert created["timing"] == {"when": "30 2 * * *", "timeZone": "Europe/Berlin", "jitter": "600s", "blackouts": "mon 08:00-09:00"}


def test_a_scan_that_ends_moves_to_the_history(server, page):
    server.replies["ScanService/ListScans"] = {"scans": [scan()]}
    page.open("#/scans")
    page.shows("Active")
    server.replies["ScanService/ListScans"] = {"scans": [ended()]}
    page.until("the history", lambda: "History" in page.text() and "Active" not in page.text())


def two_pages(server, total: int = 250) -> None:
    """Sets an inventory of several pages, whose devices are of two nodes."""
    devices = [device(number, fleetNodeId="7" if number % 2 else "8") for number in range(1, total + 1)]

    def reply(request):
        at = int(request.get("cursor") or 0)
        until = at + request["limit"]
        return {"devices": devices[at:until], **({"nextCursor": str(until)} if until < total else {})}
    server.replies["DeviceSearchService/SearchDevices"] = reply
    server.replies["DeviceSearchService/GetDeviceFacets"] = {"total": str(total)}
    server.replies["NodeService/ListNodes"] = {"nodes": [node(), node(8, name="barn-3")]}


def test_the_selection_of_devices_spans_pages(server, page):
    two_pages(server)
    server.replies["ScanService/StartScan"] = lambda request: {"scan": scan()}
    page.open("#/devices")
    page.shows("250 devices", "1 to 100")
    page.click("[data-key='1'] .row-box")
    page.find(".pager button:last-child").click()
    page.shows("101 to 200")
    page.click("[data-key='102'] .row-box")
    page.shows("2 devices selected")
    page.find(".pager button").click()
    page.shows("1 to 100")
    assert page.find("[data-key='1'] .row-box").is_selected()
    page.click("#rescan-selected")
    page.until("two scans", lambda: len(sent(server, "ScanService/StartScan")) == 2)
    starts = {start["fleetNodeId"]: start["request"]["ipList"]["ipAddresses"] for start in sent(server, "ScanService/StartScan")}
    assert starts == {"7": [device(1)["ip"]], "8": [device(102)["ip"]]}


def test_all_devices_that_match_are_selected_and_exported(server, page):
    two_pages(server)
    page.open("#/devices?search=model%3AS19")
    page.shows("1 to 100")
    page.click(".grid-head .row-box")
    page.shows("100 devices selected", "Select all 250 devices that match")
    page.click("#select-all")
    page.shows("250 devices selected")
    assert "Select all 250" not in page.text()
    links = page.script("return [...document.querySelectorAll('.files a')].map((one) => one.getAttribute('href'))")
    assert links == [f"/api/export/devices.{format}?search=model%3AS19" for format in ("csv", "json", "ndjson")]
    page.script("document.querySelector('.selection-bar .button-quiet:last-child').click()")
    page.until("no selection", lambda: not page.browser.find_element("css selector", ".selection-bar").is_displayed())


def test_selected_devices_are_unpaired_and_retried_with_credentials(server, page):
    pairing_replies(server)
    server.replies["DevicePairingService/StartPairing"] = {"pairingId": "p1"}
    server.replies["DevicePairingService/GetPairing"] = {"pairing": {"pairingId": "p1", "targets": "3", "done": "3", "ended": True, "code": "ok"}, "nextCursor": "3"}
    page.open("#/devices")
    page.shows("Antminer S19")
    page.click(".grid-head .row-box")
    # Of twelve devices, three failed or need a password, and three are paired.
    page.shows("12 devices selected", "Retry with credentials (3)", "Unpair (3)")
    page.click("#retry-selected")
    page.type("dialog input[type=password]", "secret")
    page.click("dialog button[type=submit]")
    page.shows("Done: 3 of 3 devices tried.")
    asked = sent(server, "DevicePairingService/StartPairing")[0]
    assert len(asked["deviceIdentifiers"]) == 3 and asked["credentials"]["password"] == "secret"
    page.click("dialog .actions button")
    page.until("no selection", lambda: not page.browser.find_element("css selector", ".selection-bar").is_displayed())
    page.click("[data-key='10'] .row-box")
    page.click("#unpair-selected")
    page.click("#dialog-action")
    page.until("an unpairing", lambda: sent(server, "FleetNodeAdminService/UnpairDevice") == [{"deviceId": "10"}])


def test_devices_are_sorted_by_address(server, page):
    two_pages(server, 3)
    page.open("#/devices?order=address")
    page.until("the order", lambda: [request["order"] for request in sent(server, "DeviceSearchService/SearchDevices")][-1:] == ["DEVICE_ORDER_ADDRESS"])


def test_hostile_names_and_targets_stay_text(server, page):
    entry = re.sub(r"\s", "", HOSTILE)
    old = ended(OTHER, name=HOSTILE, startedBy=HOSTILE, request={"ipList": {"ipAddresses": [entry, "10.9.0.1"]}})
    server.replies["ScanService/ListScans"] = {"scans": [scan(name=HOSTILE), old]}
    server.replies["ScanService/GetScan"] = {"scan": scan(name=HOSTILE)}
    server.replies["ScanService/PlanScan"] = plan_that_names_invalid(entry)
    server.replies["NodeService/ListNodes"] = {"nodes": [node(name=HOSTILE)]}
    page.open("#/scans")
    page.until("the text", lambda: "evil" in page.text())
    page.script("document.querySelector(`[data-scan='${arguments[0]}'] [aria-label*='Clone']`).click()", OTHER)
    page.until("a red pill", lambda: page.script("return document.querySelectorAll('.pill-bad').length"))
    page.go(f"#/scans/{SCAN}")
    server.send(SCAN, found(1, identifier=HOSTILE, model=HOSTILE))
    page.until("the row", lambda: page.script("return document.querySelectorAll('[data-seq]').length"))
    assert page.script("return [window.hacked ?? null, document.querySelectorAll('main img').length, window.violations.length]") == [None, 0, 0]
    loose = page.script("return [...document.querySelectorAll('[aria-label], [title]')].flatMap((one) => [one.title, one.getAttribute('aria-label') ?? '']).filter((text) => text.includes('\\u202e') && !text.includes('\\u2068'))")
    assert loose == []


def states(server, page):
    """Opens each view in a state with everything on it. Yields the name of the state."""
    entries = "10.2.0.0/22 8.8.8.8 a-host-with-a-long-name-in-a-long-domain.example.internal 10.2.9.5-40 "
    server.replies["ScanService/PlanScan"] = lambda request: {**plan_that_names_invalid("8.8.8.8")(request), "warnings": ["port 9100 is a port of printers"], "skipped": "2"}
    server.replies["ScheduleService/PreviewSchedule"] = {"runs": [{"dueAt": ago(-60), "local": "2026-03-29T03:00:00+02:00"}]}
    open_form(page)
    page.find("#target").send_keys(entries)
    page.until("a red pill", lambda: page.script("return document.querySelectorAll('.pill-bad').length"))
    yield "invalid targets"
    page.click("#check button")
    page.find("#exclude").send_keys("10.2.0.9 ")
    page.click("label[for=repeat]")
    page.find("#schedule-when").send_keys("30 2 * * *")
    page.shows("2026-03-29 03:00", "printers")
    yield "a repeated scan"
    server.replies["ScanService/ListScans"] = {"scans": [
        scan(name="n" * 64), queued(SCAN[:-1] + "1"),
        ended(OTHER, name="nightly", startedBy="a.long.address@mail.example.org", changes={"againstScanId": SCAN, "new": "3000", "moved": "2000", "changed": "5", "missing": "1"})]}
    server.replies["ScheduleService/ListSchedules"] = {"schedules": [schedule(missed="2", lastScanId=SCAN)]}
    page.open("#/scans")
    page.shows("Active", "Scheduled", "History")
    yield "the list of scans"
    server.events = {}
    server.send(SCAN, *[found(number) for number in range(1, 60)])
    page.open(f"#/scans/{SCAN}")
    page.shows("59 devices")
    page.script("document.querySelector('[data-seq] .row-box').click()")
    page.find("#scan-filter").send_keys("s19")
    page.shows("59 of 59 devices", "1 device selected")
    yield "a live scan"
    two_pages(server)
    page.open("#/devices")
    page.shows("1 to 100")
    page.script("document.querySelector('.grid-head .row-box').click()")
    page.shows("100 devices selected")
    yield "selected devices"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_is_accessible_and_fits_the_window(server, page, scheme):
    axe = os.environ.get("FLEET_AXE") or pytest.skip("FLEET_AXE is not set: accessibility is not tested")
    source = Path(axe).read_text()
    server.replies["NodeService/ListNodes"] = {"nodes": [node(rate=5000)]}
    findings = {}
    for width in WIDTHS:
        page.size(width, scheme)
        for state in states(server, page):
            page.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": source})
            result = page.browser.execute_async_script("const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then((found) => done(found.violations), (error) => done([{ id: String(error), nodes: [] }]))")
            for finding in result:
                findings[f"{finding['id']} in {state} at {width}"] = [one["html"][:200] for one in finding["nodes"]][:3]
            wide = page.script("""
                const limit = document.documentElement.clientWidth;
                return [...document.querySelectorAll('body *')].filter((one) => !one.closest('.visually-hidden, .skip-link, .grid-head, .strip, .one-line > *, .row-labels *') && one.getBoundingClientRect().right > limit + 0.5).map((one) => `${one.tagName}.${one.className}`);
            """)
            if wide:
                findings[f"too wide: {state} at {width}"] = wide[:5]
    assert findings == {}, json.dumps(findings, indent=1)
