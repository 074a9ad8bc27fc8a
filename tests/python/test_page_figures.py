"""How the page behaves with 10,000 devices of a scan and 100,000 in the inventory, against the API of `fakeserver`.

The tests count what the page does, which does not depend on the machine. The times are printed (`pytest -s`) with the
load of the machine, for docs/performance.md.
"""

import os
import time

from fakeserver import ago
from test_page import SCAN, browser, device, found, page, server  # noqa: F401

DEVICES = 10_000
DRAWN = 1_000
"""Rows that the page draws before the operator asks for more."""
ROWS, EVENTS = 100, 300
"""Most rows that a frame draws, and most events that it handles."""
BURST = 50

WATCH = """
  window.tasks = [];
  new PerformanceObserver((list) => { for (const one of list.getEntries()) window.tasks.push(Math.round(one.duration)); }).observe({ entryTypes: ['longtask'] });
  window.frames = [];
  new MutationObserver((records) => {
    const rows = records.flatMap(({ addedNodes }) => [...addedNodes]).filter((one) => one.dataset?.seq).length;
    if (rows) window.frames.push(rows);
  }).observe(document.querySelector('main'), { childList: true, subtree: true });
  window.marks = [];
  let before = 0;
  const look = () => {
    const now = document.querySelectorAll('.strip rect').length;
    if (now > before) window.marks.push(now - before);
    before = now;
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
"""


def hosted(number: int) -> dict:
    """A device of a scan of 10.0.0.0/18."""
    return found(number, ip=f"10.0.{number // 250}.{number % 250 + 2}")


def metrics(page) -> dict:  # noqa: F811
    """Returns the nodes of the document and the bytes of its heap, after garbage was collected."""
    page.browser.execute_cdp_cmd("Performance.enable", {})
    page.browser.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    found = page.browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    values = {one["name"]: one["value"] for one in found}
    return {"nodes": values["Nodes"], "heap": values["JSHeapUsedSize"]}


def until_found(page, text: str) -> None:  # noqa: F811
    """Waits for the number of devices, without a look at the whole text, for which the browser would lay out every row."""
    page.until(text, lambda: page.script("return document.querySelector('#devices-title').textContent") == text)


def report(**figures) -> None:
    print(f"\n{figures} at a load of {os.getloadavg()[0]:.1f}")


def test_thousands_of_devices_that_arrive_live_are_drawn_in_parts_and_up_to_a_limit(server, page):  # noqa: F811
    page.open(f"#/scans/{SCAN}")
    page.shows("Devices appear here")
    page.script(WATCH)
    at = time.monotonic()
    server.send(SCAN, hosted(1))
    page.until("the first row", lambda: page.browser.find_elements("css selector", "[data-seq]"))
    first = time.monotonic() - at
    at = time.monotonic()
    for start in range(2, DEVICES // 2 + 1, BURST):
        server.send(SCAN, *[hosted(number) for number in range(start, min(start + BURST, DEVICES // 2 + 1))])
    until_found(page, "5,000 devices")
    page.until("the rows", lambda: page.script("return document.querySelectorAll('[data-seq]').length") == DRAWN)
    half = metrics(page)
    for start in range(DEVICES // 2 + 1, DEVICES + 1, BURST):
        server.send(SCAN, *[hosted(number) for number in range(start, start + BURST)])
    until_found(page, "10,000 devices")
    took = time.monotonic() - at
    frames, whole = page.script("return window.frames"), metrics(page)
    # A chunk that runs again reports devices that are listed.
    server.send(SCAN, *[{**hosted(number), "seq": DEVICES + number} for number in range(1, DEVICES + 1)], {**hosted(DEVICES + 1), "seq": 3 * DEVICES})
    until_found(page, "10,001 devices")
    again = metrics(page)
    tasks = page.script("return window.tasks")
    report(first_row_s=round(first, 3), all_s=round(took, 1), longest_tasks_ms=sorted(tasks)[-3:], heap_mb=[round(one["heap"] / 1e6, 1) for one in (half, whole, again)], nodes=[one["nodes"] for one in (half, whole, again)])
    assert page.find(".more button").text == "Show 1,000 more of 9,001 devices"
    assert max(frames) <= ROWS and sum(frames) >= DRAWN
    # A block of the strip and a square of it are drawn for each further host, but no row.
    assert whole["nodes"] - half["nodes"] < 2 * (DEVICES - DRAWN), (half, whole)
    assert whole["heap"] - half["heap"] < half["heap"], "devices without a row cost less than those with one"
    assert abs(again["nodes"] - whole["nodes"]) < 200, "reports of known devices add nothing"
    assert again["heap"] - whole["heap"] < 2_000_000, "reports of known devices are not kept"


def test_an_old_scan_of_thousands_of_devices_is_usable_while_it_is_drawn(server, page):  # noqa: F811
    from test_page import ended
    old = ended(ledger={"identified": str(DEVICES), "silent": "6384", "targets": "16384", "elapsedMs": "9000"})
    server.replies["ScanService/GetScan"] = {"scan": old}
    ledger = {"type": "ledger", "seq": DEVICES + 1, "outcome": "completed", "targets": 16384, "identified": DEVICES, "silent": 6384, "elapsed_ms": 9000}
    server.send(SCAN, *[hosted(number) for number in range(1, DEVICES + 1)], ledger)
    page.browser.get("about:blank")
    at = time.monotonic()
    page.browser.get(f"{page.server}/#/scans/{SCAN}")
    page.script(WATCH)
    page.until("all devices", lambda: page.script("return document.querySelectorAll('[data-seq]').length === 1000 && document.querySelector('#devices-title').textContent === '10,000 devices'"))
    took = time.monotonic() - at
    own = page.script("return performance.now()")
    frames, tasks, marks = page.script("return [window.frames, window.tasks, window.marks.slice(1)]")
    report(old_scan_usable_s=round(took, 2), page_clock_ms=round(own), longest_tasks_ms=sorted(tasks)[-3:], frames=len(frames))
    assert max(frames) <= ROWS and max(marks) <= EVENTS, (frames, marks)
    # The filter searches the devices without a row too.
    page.find("#scan-filter").send_keys("10.0.39.")
    page.shows("250 of 10,000 devices")
    page.until("their rows", lambda: page.script("return document.querySelectorAll('[data-seq]').length") == 250)


def test_the_inventory_asks_for_one_page_of_devices_however_many_there_are(server, page):  # noqa: F811
    server.replies["DeviceSearchService/SearchDevices"] = {"devices": [device(number, lastSeen=ago(20)) for number in range(1, 101)], "nextCursor": "100:"}
    server.replies["DeviceSearchService/GetDeviceFacets"] = {"total": "100000"}
    page.browser.get("about:blank")
    at = time.monotonic()
    page.browser.get(f"{page.server}/#/devices")
    page.until("a page of rows", lambda: page.script("return document.querySelectorAll('.grid-devices [data-key]').length") == 100)
    report(devices_first_page_s=round(time.monotonic() - at, 2), page_clock_ms=round(page.script("return performance.now()")))
    page.shows("100,000 devices")
    asked = [request for name, request in server.requests if name == "DeviceSearchService/SearchDevices"]
    assert [(request["limit"], request["cursor"]) for request in asked] == [(100, "")]
