"""A headless Chromium and the steps that operate the page in it. Read `Page` first."""

import contextlib
import os
import shutil
import time

import pytest

exceptions = pytest.importorskip("selenium.common.exceptions", reason="selenium is not installed: the web page is not tested")

PATIENCE = 60
"""Time limit of a step in seconds. It only turns a hang into a failure: no test depends on how fast the machine is."""

SCRIPT = 300
"""Time limit of a script in seconds. The check of accessibility takes longer on a busy machine than the 30 s of the driver, and than the 120 s after which the client stops waiting for it."""

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
        browser.set_script_timeout(SCRIPT)
        browser.command_executor.client_config.timeout = 2 * SCRIPT
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
            try:
                seen = look()
            except exceptions.StaleElementReferenceException:
                # The page draws lists again. An element that was found before is then gone, and the next look finds the new one.
                seen = None
            if seen:
                return seen
            if time.monotonic() > end:
                pytest.fail(f"timed out waiting for {what}; the page shows:\n{self.text()}\nconsole: {self.read_console()}")
            # Each look interrupts the page, which on a slow machine would get nothing else done.
            time.sleep(0.05)

    def text(self) -> str:
        return self.browser.execute_script("return document.body.innerText")

    def find(self, selector: str):
        """Waits for the first visible element."""
        def look():
            found = self.browser.find_elements("css selector", selector)
            return next((element for element in found if element.is_displayed()), None)
        return self.until(selector, look)

    def click(self, selector: str) -> None:
        """Clicks the first visible element, once. The page can replace or cover it before the click, which then is tried again."""
        def click():
            try:
                self.find(selector).click()
            except exceptions.ElementClickInterceptedException:
                return False
            return True
        self.until(f"a click on {selector}", click)

    def type(self, selector: str, text: str) -> None:
        """Replaces the text of a field, again from its start if the page replaced the field in between."""
        def type():
            field = self.find(selector)
            field.clear()
            if text:
                field.send_keys(text)
            return True
        self.until(f"the text in {selector}", type)

    def read_console(self) -> list[str]:
        """Returns all errors of the browser console so far. The driver returns each entry only once."""
        self.console += [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        return self.console

    def violations(self) -> list[str]:
        return self.browser.execute_script("return window.violations")

    def status(self, path: str) -> int:
        return self.browser.execute_async_script("fetch(arguments[0], {cache: 'no-store'}).then((answer) => arguments[1](answer.status))", path)
