"""IP report buttons and the page: an operator walks along the racks with the live scan open and presses button after button.

Server, node and devices are programs on loopback. A button is a datagram to the broadcast address of loopback.
"""

import socket

from webpage import Page, chromium
from world import World, eventually

NETWORK = "127.79.41.0/27"
LOOPBACK = "127.255.255.255"
"""Every listening node of this machine receives what is sent to it, and takes only the addresses of its own network."""
PATIENCE = 120
"""Time limit of a step in seconds: server, node, devices and browser share this machine with the other tests."""
COPIES = 3
"""Makes repeat the report of one press, up to five times."""
ROWS = "return [...document.querySelectorAll('[data-seq]')].map((row) => /127\\.\\d+\\.\\d+\\.\\d+/.exec(row.textContent)[0])"


def press(address: str) -> None:
    """Sends the report of an Antminer, from the device's own address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as button:
        button.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        button.bind((address, 0))
        number = int(address.rsplit(".", 1)[1])
        for _ in range(COPIES):
            button.sendto(f"{address},02:00:5E:00:00:{number:02X}".encode(), (LOOPBACK, 14_235))


def sign_in(page: Page, key: str) -> None:
    page.browser.get(page.server + "/")
    page.click("#by-key")
    page.type("#key", key)
    page.click("button[type=submit]")
    page.find("#sign-out")


def test_rows_appear_in_the_order_in_which_the_buttons_are_pressed(tmp_path):
    with chromium(tmp_path / "profile") as browser, World(tmp_path / "world") as world:
        devices = world.site(NETWORK, 8, delay_ms=50, cgminer_port=4028)
        node = world.enroll("racks")
        world.run_node("racks", "--listen-announcements", "--local-subnet", NETWORK)
        world.until_connected(1)
        page = Page(browser, world.url)
        sign_in(page, world.key)
        # The scan listens for longer than the test takes, which cancels it.
        request = {"mdns": {"serviceType": "ip-reports", "timeoutSeconds": 540}}
        scan = world.call("fleet.v1.ScanService/StartScan", requestId="racks", fleetNodeId=node, request=request)["scan"]["scanId"]
        browser.get(f"{world.url}/#/scans/{scan}")
        rows = lambda: browser.execute_script(ROWS)

        # Neither the lowest nor the highest address first, so that no sorting gives the same order.
        order = [devices[at] for at in (3, 6, 0, 7, 1, 5, 2, 4)]
        first, *others = order

        def first_is_shown() -> bool:
            # Nothing shows when the node listens, except that a pressed button has an effect.
            press(first)
            return rows() == [first]

        eventually("the row of the first device", first_is_shown)
        for pressed, address in enumerate(others, start=2):
            press(address)
            page.until(f"{pressed} rows", lambda: len(rows()) >= pressed, PATIENCE)
        assert rows() == order

        # The order is that of the record, so it is the same when the page is opened again.
        browser.refresh()
        page.until("all rows again", lambda: len(rows()) == len(order), PATIENCE)
        assert rows() == order
        world.call("fleet.v1.ScanService/CancelScan", scanId=scan)
        assert world.finished(scan)["state"] == "SCAN_STATE_CANCELED"
        assert rows() == order, "copies of a report add no rows"
