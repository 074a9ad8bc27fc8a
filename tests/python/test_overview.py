"""The overview and the maps of sites, against the API of `fakeserver`. The components are tested through the view that shows them."""

import base64
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from fakeserver import Refused, ago
from test_page import HOSTILE, OTHER, SCAN, WIDTHS, browser, node, page, server, site  # noqa: F401 (fixtures)

NETWORK = "10.2.0.0/24"
NOT_REACHED, SILENT, REFUSED, UNIDENTIFIED, IDENTIFIED, EXCLUDED, NEVER = range(7)


def overview(**fields) -> dict:
    today = datetime.now(timezone.utc).date()
    days = [{"date": str(today - timedelta(days=29 - at))} for at in range(30)]
    days[-1] |= {"seen": "1200", "added": "3", "missing": "1"}
    days[-2] |= {"seen": "600", "added": "597"}
    return {"devices": "1234", "newToday": "3", "missing": "2", "needPassword": "7", "nodesOffline": "1", "scansRunning": "0", "days": days, **fields}


def block(network: str = NETWORK, hosts: tuple = (), **states: int) -> dict:
    """Returns a block whose cells are never scanned, except those of `states`: `c5=SILENT`."""
    outcomes = bytearray([NEVER] * 256)
    for name, state in states.items():
        outcomes[int(name[1:])] = state
    return {"network": network, "outcomes": base64.b64encode(outcomes).decode(), "scannedAt": ago(60), "hosts": list(hosts)}


def site_map(*blocks: dict, **fields) -> dict:
    return {"blocks": list(blocks), "total": str(len(blocks)), **fields}


EVERY_STATE = block(c0=NOT_REACHED, c1=SILENT, c2=REFUSED, c3=UNIDENTIFIED, c4=IDENTIFIED, c5=EXCLUDED, hosts=(
    {"octet": 4, "deviceId": "42", "answeredAt": ago(60)}, {"octet": 3, "scanId": OTHER, "answeredAt": ago(60)}, {"octet": 1, "answeredAt": ago(90_000)}))


@pytest.fixture(autouse=True)
def replies(server):  # noqa: F811
    server.replies |= {
        "OverviewService/GetOverview": overview(),
        "SiteService/ListSites": {"sites": [site()]},
        "OverviewService/GetSiteMap": site_map(EVERY_STATE),
    }


def cell(page, octet: int, network: str = NETWORK) -> str:  # noqa: F811
    """Returns the state of a cell by its class."""
    return page.script("""
        const cell = document.querySelector(`[data-network='${arguments[0]}'] [data-octet='${arguments[1]}']`);
        return cell ? [...cell.classList].find((name) => name.startsWith('is-')) ?? '' : null;
    """, network, octet)


def sent(server, procedure: str) -> list[dict]:  # noqa: F811
    return [body for name, body in server.requests if name == f"OverviewService/{procedure}"]


def press(page, *keys: str) -> None:  # noqa: F811
    from selenium.webdriver.common.action_chains import ActionChains
    actions = ActionChains(page.browser)
    for key in keys:
        actions.send_keys(key)
    actions.perform()


def test_the_start_page_shows_counts_as_links_to_lists(server, page):  # noqa: F811
    page.open("")
    page.shows("Overview", "1,234", "Need a password")
    figures = page.script("return [...document.querySelectorAll('[data-figure]')].map((one) => [one.dataset.figure, one.querySelector('strong').textContent, one.getAttribute('href')])")
    assert figures == [
        ["devices", "1,234", "#/devices"],
        ["newToday", "3", "#/devices?search=first%3Atoday"],
        ["missing", "2", "#/devices?search=missing%3Ayes"],
        ["needPassword", "7", "#/devices?search=pairing%3Apassword"],
        ["nodesOffline", "1", "#/nodes"],
        ["scansRunning", "0", "#/scans"],
    ]
    assert page.script("return document.querySelector('.nav [aria-current]').textContent") == "Overview"
    page.click("[data-figure=missing]")
    page.until("the filtered list", lambda: [body["search"] for name, body in server.requests if name == "DeviceSearchService/SearchDevices"] == ["missing:yes"])


def test_an_unknown_address_opens_the_overview(server, page):  # noqa: F811
    page.open("#/nowhere")
    page.shows("Last 30 days")
    assert page.script("return location.hash") == "#/"


def test_the_chart_shows_its_numbers_under_the_pointer_and_by_keyboard(server, page):  # noqa: F811
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    page.open("#/")
    page.shows("1,200 seen, 3 new, 1 missing", "up to 1,200", "up to 597")
    reading = lambda: page.script("return document.querySelector('.chart-reading').textContent")
    columns = page.browser.find_elements("css selector", ".chart-day")
    assert len(columns) == 30
    ActionChains(page.browser).move_to_element(columns[28]).perform()
    page.until("the day under the pointer", lambda: "600 seen, 597 new, 0 missing" in reading())
    ActionChains(page.browser).move_to_element(page.find("h1")).perform()
    page.script("document.querySelector('.chart-day.is-chosen').focus()")
    press(page, Keys.ARROW_RIGHT)
    assert "1,200 seen" in reading()
    press(page, Keys.HOME)
    assert "0 seen, 0 new, 0 missing" in reading() and page.focused() == reading()
    press(page, Keys.ARROW_LEFT, Keys.END, Keys.ARROW_RIGHT)
    assert "1,200 seen" in reading()
    heights = page.script("return [...document.querySelectorAll('.chart-day:last-child .chart-bar')].map((bar) => Number(bar.getAttribute('height')))")
    # Each row has its own scale: 1 of at most 1 is as high as 1,200 of at most 1,200, and 3 of 597 is visible.
    assert heights[0] == heights[2] == 24 and heights[1] == 2


def test_the_map_shows_each_state_by_a_shape(server, page):  # noqa: F811
    page.open("#/")
    page.shows("barn", NETWORK, "1 device")
    names = ["not_reached", "silent", "refused", "unidentified", "identified", "excluded", "never"]
    assert [cell(page, octet) for octet in range(7)] == [f"is-{name}" for name in names]
    assert cell(page, 255) == "is-never"
    legend = page.script("return [...document.querySelectorAll('.map-legend li')].map((one) => one.textContent)")
    assert legend == ["Identified", "Unidentified", "Refused", "Silent", "Not reached", "Excluded", "Never scanned"]
    look = lambda: page.script("""
        return [...document.querySelectorAll('.map-legend .map-cell')].map((one) => {
          const style = getComputedStyle(one);
          // Without the colors: the shape alone.
          return [style.backgroundImage.replace(/rgba?\\([^)]*\\)/g, ''), style.borderStyle, style.backgroundImage === 'none' && style.backgroundColor !== getComputedStyle(document.querySelector('.panel')).backgroundColor].join(' ');
        });
    """)
    for scheme in ("light", "dark"):
        page.size(1440, scheme)
        assert len(set(look())) == 7, f"{scheme}: {look()}"
    read = page.script("return document.querySelector('[data-octet=\"1\"]').getAttribute('aria-label')")
    assert read.startswith("10.2.0.1: silent, last answer ")


def test_a_cell_opens_its_device_or_its_host(server, page):  # noqa: F811
    page.open("#/")
    page.until("the map", lambda: cell(page, 4) == "is-identified")
    page.click("[data-octet='1']")
    page.shows("10.2.0.1: silent")
    assert page.script("return location.hash") == "#/", "a silent address has nothing to open"
    page.click("[data-octet='4']")
    page.until("the device", lambda: page.script("return location.hash") == "#/devices/42")
    page.open("#/")
    page.until("the map", lambda: cell(page, 3) == "is-unidentified")
    page.click("[data-octet='3']")
    page.until("the host", lambda: page.script("return location.hash") == f"#/scans/{OTHER}/changes/unidentified")


def test_the_map_works_by_keyboard_alone(server, page):  # noqa: F811
    from selenium.webdriver.common.keys import Keys
    page.open("#/")
    page.until("the map", lambda: cell(page, 4) == "is-identified")
    stops = page.script("return [...document.querySelectorAll('.map-grid [tabindex=\"0\"]')].map((one) => one.dataset.octet)")
    assert stops == ["0"], "a block is one stop of the tab key"
    for _ in range(40):
        press(page, Keys.TAB)
        if page.focused().startswith("10.2.0.0:"):
            break
    press(page, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.focused() == "10.2.0.17: never scanned"
    press(page, Keys.END)
    assert page.focused() == "10.2.0.31: never scanned"
    press(page, Keys.HOME, Keys.ARROW_UP, Keys.ARROW_UP, *[Keys.ARROW_RIGHT] * 4)
    assert page.focused().startswith("10.2.0.4: identified") and "opens the device" in page.focused()
    press(page, Keys.ENTER)
    page.until("the device", lambda: page.script("return location.hash") == "#/devices/42")


def test_a_block_starts_a_scan_with_its_network(server, page):  # noqa: F811
    page.open("#/")
    page.until("the map", lambda: cell(page, 4) == "is-identified")
    page.click(f"[aria-label='Scan {NETWORK}']")
    planned = lambda: [body for name, body in server.requests if name == "ScanService/PlanScan"]
    page.until("the plan of the network", lambda: planned() and (planned()[-1]["fleetNodeId"], NETWORK in json.dumps(planned()[-1])) == ("7", True))


def test_a_block_of_a_site_with_several_nodes_is_scanned_by_the_site(server, page):  # noqa: F811
    server.replies["SiteService/ListSites"] = {"sites": [site(fleetNodeIds=["7", "8"])]}
    server.replies["NodeService/ListNodes"] = {"nodes": [node(siteId="3", siteName="barn"), node(8, name="barn-3", siteId="3", siteName="barn")]}
    page.open("#/")
    page.until("the map", lambda: cell(page, 4) == "is-identified")
    page.click(f"[aria-label='Scan {NETWORK}']")
    planned = lambda: [body for name, body in server.requests if name == "ScanService/PlanScan"]
    page.until("the plan of the network", lambda: planned() and (planned()[-1].get("siteId"), NETWORK in json.dumps(planned()[-1])) == ("3", True))


def test_the_map_fills_while_a_scan_runs(server, page):  # noqa: F811
    server.replies["OverviewService/GetOverview"] = overview(scansRunning="1")
    page.open("#/")
    page.until("the map", lambda: cell(page, 4) == "is-identified")
    page.script("document.querySelector('[data-octet=\"9\"]').witness = true")
    server.replies["OverviewService/GetSiteMap"] = site_map(block(c9=IDENTIFIED, hosts=({"octet": 9, "deviceId": "9"},)))
    page.until("the new device", lambda: cell(page, 9) == "is-identified")
    assert cell(page, 4) == "is-never"
    assert page.script("return document.querySelector('[data-octet=\"9\"]').witness"), "cells are changed, not replaced"
    # After the end of the last scan the map is read once more, and then seldom.
    server.replies["OverviewService/GetOverview"] = overview()
    page.until("the end", lambda: page.find("[data-figure=scansRunning] strong").text == "0")
    before = len(sent(server, "GetSiteMap"))
    polls = len(sent(server, "GetOverview"))
    page.until("two more polls", lambda: len(sent(server, "GetOverview")) >= polls + 2)
    assert len(sent(server, "GetSiteMap")) - before <= 1


def test_more_blocks_are_shown_on_request_in_the_order_of_addresses(server, page):  # noqa: F811
    networks = [f"10.2.{number}.0/24" for number in range(20)]

    def paged(request):
        first = networks.index(request["cursor"]) + 1 if request.get("cursor") else 0
        shown = networks[first:first + request["limit"]]
        rest = first + len(shown) < len(networks)
        return {"blocks": [block(network) for network in shown], "total": "20", **({"nextCursor": shown[-1]} if rest else {})}

    server.replies["OverviewService/GetSiteMap"] = paged
    page.open("#/")
    shown = lambda: page.script("return [...document.querySelectorAll('.map-block')].map((one) => one.dataset.network)")
    page.until("16 blocks", lambda: shown() == networks[:16])
    page.shows("20 blocks", "Show more blocks")
    page.click(".overview-site .more button")
    page.until("all blocks", lambda: shown() == networks)
    page.until("no button", lambda: "Show more blocks" not in page.text())


def test_only_the_maps_of_open_sites_are_read(server, page):  # noqa: F811
    server.replies["SiteService/ListSites"] = {"sites": [site(siteId=str(number), name=f"site {number}") for number in range(1, 7)]}
    page.open("#/")
    page.shows("site 6")
    page.until("four maps", lambda: {body["siteId"] for body in sent(server, "GetSiteMap")} == {"1", "2", "3", "4"})
    page.script("document.querySelectorAll('.overview-site summary')[5].click()")
    page.until("the sixth map", lambda: {body["siteId"] for body in sent(server, "GetSiteMap")} == {"1", "2", "3", "4", "6"})


def test_without_sites_the_page_leads_to_the_first_node(server, page):  # noqa: F811
    server.replies["SiteService/ListSites"] = {}
    server.replies["OverviewService/GetOverview"] = {}
    page.open("#/")
    page.shows("No sites yet", "Enroll a node")


def test_an_outage_keeps_the_map_and_is_reported(server, page):  # noqa: F811
    page.open("#/")
    page.until("the map", lambda: cell(page, 4) == "is-identified")
    server.go_offline()
    page.shows("The server cannot be reached")
    assert cell(page, 4) == "is-identified"
    server.go_online()
    page.until("the end of the outage", lambda: "cannot be reached" not in page.text())

    def refused(_request):
        raise Refused(500, "internal", "the database failed")
    server.replies["OverviewService/GetOverview"] = refused
    page.shows("The database failed.")


def test_ipv6_networks_are_listed_below_the_map(server, page):  # noqa: F811
    networks = [{"network": "fd00:2::/64", "devices": "3"}, {"network": "fd00:3::/64"}]
    server.replies["OverviewService/GetSiteMap"] = site_map(EVERY_STATE, ipv6Networks=networks, ipv6Total="34")
    page.open("#/")
    page.shows("IPv6 networks.", "fd00:2::/64: 3 devices", "fd00:3::/64: no device found", "and 32 more networks")
    server.replies["OverviewService/GetSiteMap"] = site_map(ipv6Networks=networks[:1], ipv6Total="1")
    page.open("#/")
    page.shows("fd00:2::/64: 3 devices")
    assert "more network" not in page.text()
    assert "No addresses yet" not in page.text(), "a site may have IPv6 addresses only"
    server.replies["OverviewService/GetSiteMap"] = site_map(EVERY_STATE)
    page.open("#/")
    page.until("the map", lambda: cell(page, 4) == "is-identified")
    assert "IPv6" not in page.text()


def test_hostile_names_of_sites_are_texts(server, page):  # noqa: F811
    server.replies["SiteService/ListSites"] = {"sites": [site(name=HOSTILE)]}
    page.open("#/")
    page.until("the map", lambda: cell(page, 4) == "is-identified")
    assert "evil" in page.text()
    assert page.script("return [window.hacked ?? null, document.querySelectorAll('main img').length]") == [None, 0]
    assert page.script("return document.querySelector('.overview-site h2 bdi').textContent") == HOSTILE
    assert page.violations() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_defect_in_the_overview(server, page, scheme):  # noqa: F811
    axe = os.environ.get("FLEET_AXE") or pytest.skip("FLEET_AXE is not set: accessibility is not tested")
    server.replies["SiteService/ListSites"] = {"sites": [site(), site(siteId="6", name="x" * 255)]}
    findings = {}
    for width in WIDTHS:
        page.size(width, scheme)
        page.open("#/")
        page.until("the map", lambda: cell(page, 4) == "is-identified")
        wide = page.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{wide} too wide at {width}"
        page.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": Path(axe).read_text()})
        result = page.browser.execute_async_script("const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then((found) => done(found.violations), (error) => done([{ id: String(error), nodes: [] }]))")
        for finding in result:
            findings[f"{finding['id']} at {width}"] = [one["html"][:200] for one in finding["nodes"]][:3]
    assert findings == {}, json.dumps(findings, indent=1)
