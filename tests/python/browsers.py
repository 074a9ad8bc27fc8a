"""The browsers besides Chromium: Firefox over WebDriver BiDi, and WebKitGTK's MiniBrowser over WebDriver."""

import contextlib
import glob
import os
import re
import selectors
import shutil
import subprocess
import time

import pytest

from bidi import Firefox
from webpage import PATIENCE, SCRIPT, WITNESS, chromium, program

ALONE = """
user_pref("app.update.enabled", false);
user_pref("app.normandy.enabled", false);
user_pref("browser.safebrowsing.downloads.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.update.enabled", false);
user_pref("focusmanager.testmode", true);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.dns.disablePrefetch", true);
user_pref("remote.events.async.enabled", false);
user_pref("services.settings.server", "");
user_pref("toolkit.telemetry.enabled", false);
"""
"""Preferences without which Firefox opens connections of its own, and two for tests: its window counts as focused, and input goes straight to the page. Once in eight runs, a key that went through the parent process was never answered."""

ERRORS = """
window.pageErrors = [];
window.addEventListener('error', (event) => window.pageErrors.push(event.message));
window.addEventListener('unhandledrejection', (event) => window.pageErrors.push(String(event.reason)));
"""


@contextlib.contextmanager
def firefox(profile):
    """Starts headless Firefox with a new profile in the directory `profile`."""
    binary = program("FLEET_FIREFOX", "firefox-esr")
    profile.mkdir()
    (profile / "user.js").write_text(ALONE)
    process = subprocess.Popen(
        [binary, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port=0"],
        env={**os.environ, "HOME": str(profile)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        browser = Firefox(_announced(process), 2 * PATIENCE, WITNESS)
        browser.set_window_size(1280, 900)
        yield browser
        browser.quit()
    finally:
        process.terminate()
        process.wait()


def _announced(process) -> str:
    """Returns the address that Firefox prints when it listens."""
    os.set_blocking(process.stderr.fileno(), False)
    output, end = b"", time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as ready:
        ready.register(process.stderr, selectors.EVENT_READ)
        while not (found := re.search(rb"WebDriver BiDi listening on (ws://\S+)\s", output)):
            ready.select(max(0, end - time.monotonic()))
            piece = process.stderr.read()
            if piece == b"" or time.monotonic() > end:
                pytest.fail(f"Firefox does not listen: {output.decode(errors='replace')}")
            output += piece or b""
    return found[1].decode()


@contextlib.contextmanager
def webkit(profile):
    """Starts MiniBrowser of WebKitGTK on a display of its own, with its files in the directory `profile`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: the web page is not tested")
    driver = program("FLEET_WEBKIT", "WebKitWebDriver")
    binary = next(iter(sorted(glob.glob("/usr/lib/*/webkit2gtk-4.*/MiniBrowser"))), None) or pytest.skip("MiniBrowser is not installed: WebKit is not tested")

    class WebKit(webdriver.WebKitGTK):
        """WebDriver of WebKit has no log, and no scripts that run before those of a page: both are added after a page was loaded."""

        def get(self, url: str) -> None:
            super().get(url)
            self._watch()

        def refresh(self) -> None:
            super().refresh()
            self._watch()

        def _watch(self) -> None:
            self.execute_script(f"if (!window.violations) {{ {WITNESS} {ERRORS} }}")

        def get_log(self, _kind: str) -> list[dict]:
            return [{"level": "SEVERE", "message": text} for text in self.execute_script("return window.pageErrors.splice(0)")]

    profile.mkdir()
    with _display() as display:
        options = webdriver.WebKitGTKOptions()
        options.binary_location = binary
        options.add_argument("--automation")
        environment = {
            **os.environ, "DISPLAY": display, "HOME": str(profile), "GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1", "DBUS_SESSION_BUS_ADDRESS": "disabled:",
            # Without a graphics card and as root, neither compositing nor the sandbox works. The page is our own.
            "WEBKIT_DISABLE_COMPOSITING_MODE": "1", "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",
        }
        browser = WebKit(options=options, service=webdriver.WebKitGTKService(driver, env=environment))
        try:
            browser.set_script_timeout(SCRIPT)
            browser.set_window_size(1280, 900)
            yield browser
        finally:
            browser.quit()


@contextlib.contextmanager
def _display():
    """Starts a display without a screen. Yields its name."""
    xvfb = shutil.which("Xvfb") or pytest.skip("Xvfb is not installed: WebKit is not tested")
    read, write = os.pipe()
    process = subprocess.Popen([xvfb, "-displayfd", str(write), "-screen", "0", "1600x1200x24", "-nolisten", "tcp"], pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as numbers:
            yield f":{numbers.readline().strip()}"
    finally:
        process.terminate()
        process.wait()


BROWSERS = {"chromium": chromium, "firefox": firefox, "webkit": webkit}
