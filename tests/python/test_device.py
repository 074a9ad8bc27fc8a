"""The page of a device, against the API of `fakeserver`."""

import json
import os
from pathlib import Path

import pytest

from fakeserver import Refused, ago
from test_page import HOSTILE, LONG_ADDRESS, WIDTHS, browser, device, node, page, server  # noqa: F811, F401 (fixtures)

FORMER = "auto:00ff00ff00ff00ff"


def event(kind: str, former: str = "", became: str = "", **fields) -> dict:
    return {"kind": kind, "former": former, "became": became, "at": ago(600), "fleetNodeId": "7", **fields}


def detail(*events: dict, ports: tuple = (80,), note: dict | None = None, **fields) -> dict:
    return {"device": device(42, ip="10.2.0.44", labels=["rack-7"], **fields), "ports": list(ports), "events": list(events), **({"note": note} if note else {})}


@pytest.fixture(autouse=True)
def replies(server):  # noqa: F811
    server.replies["DeviceDetailService/GetDeviceDetail"] = detail(event("found"))
    server.replies["NodeService/ListNodes"] = {"nodes": [node(), node(8, name="hall-1")]}


def sent(server, procedure: str) -> list[dict]:  # noqa: F811
    return [body for name, body in server.requests if name == procedure]


def test_a_device_is_shown_with_its_identity_and_its_nodes(server, page):  # noqa: F811
    seen = {"fleetNodeId": "8", "ip": "10.2.0.44", "port": 80, "firstSeen": ago(900), "lastSeen": ago(90)}
    server.replies["DeviceDetailService/GetDeviceDetail"] = detail(
        event("found"), ports=(80, 4028), mac="02:00:5E:10:00:2A", serial="SN-1", evidence="title <Antminer>", seenBy=[seen], missingSince=ago(60))
    page.open("#/devices/42")
    page.shows("Bitmain Antminer S19", "02:00:5E:10:00:2A", "SN-1", "title <Antminer>", "80, 4028", "Missing", "barn-2 found it", "hall-1 sees it too", "rack-7")
    assert sent(server, "DeviceDetailService/GetDeviceDetail")[0] == {"deviceId": "42"}
    assert page.script("return document.querySelector('.nav [aria-current]').textContent") == "Devices"


@pytest.mark.parametrize("fields, ports, url", [
    ({"scheme": "http", "port": 8080}, (8080,), "http://10.2.0.44:8080/"),
    ({"scheme": "https", "port": 443}, (443,), "https://10.2.0.44/"),
    ({"scheme": "http", "port": 4028}, (4028,), "http://10.2.0.44/"),
    ({"scheme": "cgminer", "port": 4028}, (80, 443, 4028), "http://10.2.0.44/"),
    ({"scheme": "cgminer", "port": 4028}, (443, 4028), "https://10.2.0.44/"),
    ({"scheme": "cgminer", "port": 4028}, (4028,), None),
    ({"scheme": "javascript", "port": 80}, (), None),
    ({"scheme": "cgminer", "port": 4028, "ip": ""}, (80,), None),
])
def test_the_own_page_of_a_device_is_linked_where_it_serves_one(server, page, fields, ports, url):  # noqa: F811
    reply = detail(event("found"), ports=ports)
    reply["device"] |= fields
    server.replies["DeviceDetailService/GetDeviceDetail"] = reply
    page.open("#/devices/42")
    page.shows("First seen")
    link = page.script("const link = document.querySelector('#device-page'); return link && [link.href, link.rel, link.target]")
    assert link == (url and [url, "noopener noreferrer", "_blank"])


def test_the_timeline_describes_every_kind_of_event(server, page):  # noqa: F811
    server.replies["DeviceDetailService/GetDeviceDetail"] = detail(
        event("back", became="10.2.0.44:80"), event("missing", "10.2.0.44:80"), event("pairing", "UNPAIRED", "PAIRED"), event("firmware", "1.0", "2.0"),
        event("name", "Bitmain S19", "Braiins S19"), event("host_name", "miner7.lan", "miner9.lan"), event("address", "10.2.0.9:80", "10.2.0.44:80"), event("address", "10.2.0.9:80"),
        event("separated", FORMER, "mac:02:00:5E:10:00:2A"), event("merged", FORMER, "mac:02:00:5E:10:00:2A", reason="showed its MAC"), event("found", fleetNodeId="0"))
    page.open("#/devices/42")
    page.shows("Back at 10.2.0.44:80", "Missing: no answer at 10.2.0.44:80", "Not paired → Paired", "Firmware: 1.0 → 2.0", "Make and model: Bitmain S19 → Braiins S19", "Host name: miner7.lan → miner9.lan",
               "Address: 10.2.0.9:80 → 10.2.0.44:80", "Address: 10.2.0.9:80 → unknown", f"Merge of {FORMER} undone", f"Merged {FORMER} into mac:02:00:5E:10:00:2A: showed its MAC", "First seen")
    kinds = page.script("return [...document.querySelectorAll('#timeline li')].map((one) => one.dataset.kind)")
    assert kinds == ["back", "missing", "pairing", "firmware", "name", "host_name", "address", "address", "separated", "merged", "found"]
    assert "Undo" not in page.text(), "an undone merge has no undo"


def test_a_merge_is_undone_after_a_confirmation(server, page):  # noqa: F811
    server.replies["DeviceDetailService/GetDeviceDetail"] = detail(event("merged", FORMER, "mac:02:00:5E:10:00:2A", reason="showed its MAC", identityChangeId="5"))
    page.open("#/devices/42")
    page.click("#timeline .link")
    page.shows("Undo this merge?", "showed its MAC")
    page.click("#dialog-action")
    page.until("the undo", lambda: sent(server, "DeviceService/UndoIdentityChange") == [{"identityChangeId": "5"}])
    # A viewer reads the timeline and changes nothing.
    server.session = {**server.session, "permissions": ["fleetnode:read"]}
    page.open("#/devices/42")
    page.shows("Merged", "rack-7")
    assert page.script("return document.querySelectorAll('#timeline .link, .label-remove, #save-note, .label-form').length") == 0


def test_labels_are_added_removed_and_linked(server, page):  # noqa: F811
    page.open("#/devices/42")
    page.shows("rack-7")
    assert page.script("return document.querySelector('.label-link').getAttribute('href')") == "#/devices?search=label%3Arack-7"
    server.replies["DeviceDetailService/LabelDevices"] = {}
    page.type(".label-form .input", "spare")
    page.click(".label-form .button")
    page.until("the label", lambda: sent(server, "DeviceDetailService/LabelDevices") == [{"deviceIds": ["42"], "add": ["spare"]}])
    page.until("the focus on the field", lambda: page.script("return document.activeElement.closest('.label-form') !== null"))
    page.click("[aria-label='Remove label \u2068rack-7\u2069']")
    page.until("the removal", lambda: sent(server, "DeviceDetailService/LabelDevices")[-1] == {"deviceIds": ["42"], "remove": ["rack-7"]})

    def refused(_request):
        raise Refused(400, "invalid_argument", "label `a b`: use letters, digits and the characters - _ . /")
    server.replies["DeviceDetailService/LabelDevices"] = refused
    page.type(".label-form .input", "a b")
    page.click(".label-form .button")
    page.shows("use letters, digits")


def test_a_note_is_saved_and_not_replaced_while_it_is_written(server, page):  # noqa: F811
    written = {"text": "fan is loud", "author": "ann@example.org", "changedAt": ago(60)}
    server.replies["DeviceDetailService/GetDeviceDetail"] = detail(event("found"), note=written)
    page.open("#/devices/42")
    page.until("the note", lambda: page.script("return document.querySelector('#device-note')?.value") == "fan is loud")
    page.shows("ann@example.org")
    page.type("#device-note", "fan was replaced")
    polls = len(sent(server, "DeviceDetailService/GetDeviceDetail"))
    server.replies["DeviceDetailService/GetDeviceDetail"] = detail(event("back", became="10.2.0.44:80"), note={**written, "text": "by another operator"})
    page.shows("Back at")
    assert len(sent(server, "DeviceDetailService/GetDeviceDetail")) > polls
    assert page.script("return document.querySelector('#device-note').value") == "fan was replaced"
    page.click("#save-note")
    page.until("the note", lambda: sent(server, "DeviceDetailService/SetDeviceNote") == [{"deviceId": "42", "text": "fan was replaced"}])


def test_an_unknown_device_says_so(server, page):  # noqa: F811
    def missing(_request):
        raise Refused(404, "not_found", "no device 43 in this organization")
    server.replies["DeviceDetailService/GetDeviceDetail"] = missing
    page.open("#/devices/43")
    page.shows("Device not found", "No device 43 in this organization.")


def test_the_list_of_devices_leads_to_the_page_of_a_device(server, page):  # noqa: F811
    server.replies["DeviceSearchService/SearchDevices"] = {"devices": [device(42, labels=["rack-7"], missingSince=ago(60))]}
    page.open("#/devices")
    page.shows("rack-7", "Missing")
    page.click("a[href='#/devices/42']")
    page.shows("Timeline")


def test_hostile_texts_of_a_device_are_isolated(server, page):  # noqa: F811
    server.replies["DeviceDetailService/GetDeviceDetail"] = detail(
        event("firmware", HOSTILE, HOSTILE), event("merged", HOSTILE, HOSTILE, reason=HOSTILE, identityChangeId="5"), event(HOSTILE),
        note={"text": HOSTILE, "author": HOSTILE, "changedAt": ago(60)},
        identifier=HOSTILE, manufacturer=HOSTILE, model=HOSTILE, firmware=HOSTILE, serial=HOSTILE, evidence=HOSTILE, pairingError=HOSTILE, scheme="javascript")
    for permissions in (server.session["permissions"], ["fleetnode:read"]):
        server.session = {**server.session, "permissions": permissions}
        page.open("#/devices/42")
        page.until("the device", lambda: page.text().count("evil") > 5)
        loose = page.script("""
            const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const loose = [];
            while (walker.nextNode()) {
              const text = walker.currentNode.data;
              const parent = walker.currentNode.parentElement;
              const isolated = /\\u2068[^\\u2069]*\\u202e[^\\u2069]*\\u2069/.test(text);
              if (text.includes('\\u202e') && !parent.closest('bdi, textarea') && !isolated) loose.push(parent.outerHTML.slice(0, 300));
            }
            return loose;
        """)
        assert loose == []
        assert page.script("return [window.hacked ?? null, document.querySelectorAll('main img').length, window.violations.length]") == [None, 0, 0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_defect_in_the_page_of_a_device(server, page, scheme):  # noqa: F811
    axe = os.environ.get("FLEET_AXE") or pytest.skip("FLEET_AXE is not set: accessibility is not tested")
    server.replies["DeviceDetailService/GetDeviceDetail"] = detail(
        event("address", f"[{LONG_ADDRESS}]:65535", f"[{LONG_ADDRESS}]:65534"), event("pairing", "UNPAIRED", "AUTHENTICATION_NEEDED"), event("merged", FORMER, "mac:02:00:5E:10:00:2A", identityChangeId="5"),
        ports=tuple(range(4000, 4040)), firmware="LuxOS-2026.3.30.174759-b99dff377-" * 3, missingSince=ago(60), evidence="x" * 300)
    server.replies["DeviceDetailService/GetDeviceDetail"]["device"]["labels"] = [f"label-{number}-{'x' * 20}" for number in range(16)]
    findings = {}
    for width in WIDTHS:
        page.size(width, scheme)
        page.open("#/devices/42")
        page.shows("Timeline", "Undo")
        wide = page.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{wide} too wide at {width}"
        page.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": Path(axe).read_text()})
        result = page.browser.execute_async_script("const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then((found) => done(found.violations), (error) => done([{ id: String(error), nodes: [] }]))")
        for finding in result:
            findings[f"{finding['id']} at {width}"] = [one["html"][:200] for one in finding["nodes"]][:3]
    assert findings == {}, json.dumps(findings, indent=1)
