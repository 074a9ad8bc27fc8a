"""A headless Chromium and the steps that operate the page in it. Read `Page` first."""

import contextlib
import os
import shutil
import time

import pytest

PATIENCE = 30
"""Time limit of a step in seconds."""

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1280,900",
]

WITNESS = """
window.violations = [];
document.addEventListener('securitypolicyviolation', (event) => window.violations.push(`${event.effectiveDirective} ${event.blockedURI}`));
"""


def program(variable: str, *names: str) -> str:
    """Returns the path of a program, or skips the test and names it."""
    found = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
    return found or pytest.skip(f"{names[0]} is not installed: the web page is not tested")


@contextlib.contextmanager
def chromium(profile):
    """Starts headless Chromium with a new profile in the directory `profile`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: the web page is not tested")
    options = webdriver.ChromeOptions()
    options.binary_location = program("FLEET_CHROMIUM", "chromium", "/usr/bin/chromium")
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = program("FLEET_CHROMEDRIVER", "chromedriver", "/usr/bin/chromedriver")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WITNESS})
        yield browser
    finally:
        browser.quit()


class Page:
    """The page as an operator uses it. Every step waits for its elements."""

    def __init__(self, browser, server: str):
        self.browser = browser
        self.server = server.rstrip("/")
        self.console: list[str] = []

    def until(self, what: str, look, patience: float = PATIENCE):
        """Calls `look` until it returns something. A timeout fails with the content of the page."""
        end = time.monotonic() + patience
        while True:
            seen = look()
            if seen:
                return seen
            if time.monotonic() > end:
                pytest.fail(f"timed out waiting for {what}; the page shows:\n{self.text()}\nconsole: {self.read_console()}")
            time.sleep(0.02)

    def text(self) -> str:
        return self.browser.execute_script("return document.body.innerText")

    def find(self, selector: str):
        """Waits for the first visible element."""
        def look():
            found = self.browser.find_elements("css selector", selector)
            return next((element for element in found if element.is_displayed()), None)
        return self.until(selector, look)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def type(self, selector: str, text: str) -> None:
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def read_console(self) -> list[str]:
        """Returns all errors of the browser console so far. The driver returns each entry only once."""
        self.console += [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        return self.console

    def violations(self) -> list[str]:
        return self.browser.execute_script("return window.violations")

    def status(self, path: str) -> int:
        return self.browser.execute_async_script("fetch(arguments[0], {cache: 'no-store'}).then((answer) => arguments[1](answer.status))", path)
