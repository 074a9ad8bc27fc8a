"""The pictures of the documents, taken from the demo. FLEET_WRITE_DOCS=1 writes them into docs/images.

The test runs each time, so that a view which the demo no longer fills is noticed. Environment variables: those of
`test_journey.py`.
"""

import os
import struct
from pathlib import Path

import pytest

from test_journey import browser, settings  # noqa: F401
from webpage import Page

IMAGES = Path(__file__).resolve().parents[2] / "docs/images"
SIZE = (1280, 820)
"""Width and height in CSS pixels."""
DENSITY = 1.5
SMALLEST = 20_000
"""Bytes of a picture with content. An empty view has fewer."""


@pytest.fixture
def page(settings, browser):  # noqa: F811
    """The page, signed in."""
    page = Page(browser, settings.server)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": DENSITY, "mobile": False})
    browser.get(page.server + "/")
    page.click("#by-key")
    page.type("#key", settings.key)
    page.click("button[type=submit]")
    page.find("#sign-out")
    return page


def take(page: Page, folder: Path, name: str) -> None:
    """Takes a picture, and checks its size and that it has content."""
    file = folder / f"{name}.png"
    assert page.browser.save_screenshot(str(file))
    data = file.read_bytes()
    assert struct.unpack(">II", data[16:24]) == tuple(int(length * DENSITY) for length in SIZE), name
    assert len(data) > SMALLEST, f"{name} has {len(data)} bytes: the view is empty"


def go(page: Page, view: str) -> None:
    page.browser.execute_script("location.hash = arguments[0]; window.scrollTo(0, 0)", view)


def test_the_pictures_of_the_documents_show_the_demo(settings, page, tmp_path):  # noqa: F811
    folder = IMAGES if os.environ.get("FLEET_WRITE_DOCS") == "1" else tmp_path

    go(page, "#/scans/new")
    page.until("the nodes", lambda: page.browser.execute_script("return document.querySelector('#node').value"))
    page.find("#target").send_keys(settings.targets.replace(",", " ") + " ")
    page.find("#scan-name").send_keys("morning round")
    page.find("#check.check-good:not(.check-stale)")
    take(page, folder, "new-scan")

    page.until("an enabled start button", lambda: page.find("#start-scan").is_enabled())
    page.click("#start-scan")
    page.until("devices", lambda: len(page.browser.find_elements("css selector", "[data-seq]")) > 8)
    take(page, folder, "live")

    page.until("the end", lambda: page.browser.execute_script("return document.getElementById('outcome') !== null"), 180)
    go(page, "#/scans")
    page.until("the history", lambda: "History" in page.text() and "morning round" in page.text())
    # The demo's second scan, after its site changed.
    changes = page.until("the changes", lambda: next((one for one in page.browser.find_elements("css selector", ".result-changes") if "moved" in one.text), None))
    assert "new" in changes.text and "missing" in changes.text, changes.text
    take(page, folder, "scans")

    changes.click()
    page.until("the rows", lambda: page.browser.find_elements("css selector", ".grid-changes .grid-body .row"))
    take(page, folder, "changes")

    go(page, "#/")
    page.until("the map", lambda: len(page.browser.find_elements("css selector", ".map-cell.is-identified")) > 8)
    take(page, folder, "overview")

    go(page, "#/devices?order=address")
    page.until("the rows", lambda: len(page.browser.find_elements("css selector", ".grid-devices [data-key]")) > 8)
    page.until("paired devices", lambda: "Paired" in page.text())
    take(page, folder, "devices")

    go(page, "#/alerts")
    page.until("the alerts of both scans of the demo", lambda: page.text().count("Delivered") >= 5)
    take(page, folder, "alerts")
