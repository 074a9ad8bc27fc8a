"""The sign-in page with a real OpenID provider, in Chromium."""

import pytest

from provider import SignInWorld
from webpage import Page, chromium


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with SignInWorld(tmp_path_factory.mktemp("sign-in-page"), "--password-sign-in", "off") as world:
        world.create("ann@example.org", "admin")
        world.start_provider()
        yield world


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


def at_provider(page: Page, account: str) -> None:
    """Follows the link of the sign-in page and enters an account at the provider."""
    page.click("#by-provider")
    page.type("input[name=login]", account)
    page.click("[type=submit]")


def test_an_operator_signs_in_through_the_provider(world, browser):
    page = Page(browser, world.url)
    browser.get(f"{world.url}/")
    assert page.find("#by-provider").text.split() == "Sign in with Example ID".split()
    assert "Passwords are not accepted here" in page.find(".signin-provider").text
    at_provider(page, "eve")
    page.until("the refusal", lambda: "No operator here has your e-mail address" in page.text())
    # Cookies of one address belong to all of its ports: the provider asks again.
    browser.delete_all_cookies()
    browser.get(f"{world.url}/")
    at_provider(page, "ann")
    page.find("#sign-out")
    assert browser.current_url == f"{world.url}/" or browser.current_url == f"{world.url}/#/", browser.current_url
    assert "ann@example.org" in page.find("#account-email").text
    assert page.violations() == []
    browser.get(f"{world.url}/#/people")
    page.until("the link", lambda: f"signs in through {world.issuer}" in page.find("#people-operators").text)
    page.until("the session", lambda: f"through {world.issuer}" in page.find("#people-sessions").text)
    page.click("#sign-out")
    page.find("#by-provider")
