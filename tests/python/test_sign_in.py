"""Sign-in through a real OpenID provider, as a browser does it: with cookies, redirects and the form of the provider.

What a provider must not do is in fleet-server/tests/it/sign_in.rs, with a stand-in.
"""

import json
import os
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest

from provider import SECRET, Browser, SignInWorld
from world import postgres_database, program


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server and its provider. Ann is an operator."""
    with SignInWorld(tmp_path_factory.mktemp("sign-in")) as world:
        world.create("ann@example.org")
        world.start_provider()
        yield world


def fleetctl(world: SignInWorld, *arguments: str) -> str:
    environment = os.environ | {"FLEET_SERVER": world.url, "FLEET_API_KEY": world.key}
    done = subprocess.run([program("fleetctl"), *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def operators(world: SignInWorld) -> dict[str, dict]:
    listed = json.loads(fleetctl(world, "-o", "json", "operators", "list"))
    return {operator["email"]: operator for operator in listed}


def test_an_operator_signs_in_and_the_second_time_without_a_password(world):
    browser = Browser(world)
    assert browser.sign_in("ann") == "/"
    session = browser.session()
    assert (session["email"], session["role"], session["organization"]) == ("ann@example.org", "viewer", "lab")
    assert operators(world)["ann@example.org"]["signInIssuer"] == world.issuer
    # Signing out ends the session here, and not the one at the provider.
    request = urllib.request.Request(f"{world.url}/api/session", method="DELETE", headers={"x-fleet-csrf": "1"})
    assert browser.opener.open(request, timeout=30).status == 204
    assert browser.session() is None
    browser.visited.clear()
    assert browser.sign_in("ann") == "/"
    assert not any("/login/" in url for url in browser.visited), "the provider knows the browser"
    assert browser.session()["email"] == "ann@example.org"
    assert not any(SECRET in text or urllib.parse.quote(SECRET) in text for text in [world.server.tail(10_000), json.dumps(world.audited())])


def test_a_code_is_of_use_once_and_only_in_its_browser(world):
    ann, eve = Browser(world), Browser(world)
    address = ann.callback("ann")
    # Another browser has no attempt, or one with another state.
    assert eve.finish(address) == "/#/sign-in/attempt"
    eve.begin()
    assert eve.finish(address) == "/#/sign-in/attempt"
    # With its own state, the provider refuses the code of another browser (PKCE).
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(address).query)
    begun = urllib.parse.parse_qs(urllib.parse.urlsplit(eve.begin()).query)
    injected = urllib.parse.urlencode({"code": query["code"][0], "state": begun["state"][0], "iss": world.issuer})
    assert eve.finish(f"{world.url}/api/sign-in/callback?{injected}") == "/#/sign-in/denied"
    assert eve.session() is None

    fresh = Browser(world)
    address = fresh.callback("ann")
    cookies = [cookie for cookie in fresh.cookies if cookie.name == "fleet_sign_in"]
    assert fresh.finish(address) == "/"
    assert not [cookie for cookie in fresh.cookies if cookie.name == "fleet_sign_in"], "the attempt is over"
    thief = Browser(world)
    thief.cookies.set_cookie(cookies[0])
    assert thief.finish(address) in ("/#/sign-in/denied", "/#/sign-in/attempt")
    assert thief.session() is None


@pytest.mark.parametrize(("account", "problem"), [("eve", "unknown"), ("una", "email-unverified"), ("second", "linked-to-another")])
def test_other_accounts_stay_out(world, account, problem):
    assert Browser(world).sign_in("ann") == "/"
    browser = Browser(world)
    assert browser.sign_in(account) == f"/#/sign-in/{problem}"
    assert browser.session() is None
    refused = [record for record in world.audited() if record.get("refusal") and f"account {account} " in record["subject"]]
    assert refused and world.issuer in refused[0]["subject"]


def test_an_unlinked_operator_is_signed_out_and_may_be_linked_to_another_account(world):
    browser = Browser(world)
    assert browser.sign_in("ann") == "/"
    fleetctl(world, "operators", "unlink", operators(world)["ann@example.org"]["operatorId"])
    assert browser.session() is None
    assert "signInIssuer" not in operators(world)["ann@example.org"]
    assert Browser(world).sign_in("second") == "/"
    assert Browser(world).sign_in("ann") == "/#/sign-in/linked-to-another"
    fleetctl(world, "operators", "unlink", operators(world)["ann@example.org"]["operatorId"])
    assert Browser(world).sign_in("ann") == "/"


def test_the_provider_may_change_its_keys(world):
    assert Browser(world).sign_in("ann") == "/"
    world.start_provider("k2")
    assert Browser(world).sign_in("ann") == "/"


def test_a_provider_that_is_down_stops_nothing_else(tmp_path):
    with SignInWorld(tmp_path / "world", "--oidc-create-operators", "--oidc-domain", "example.org", "--oidc-role", "ops=operator") as world:
        assert Browser(world).begin() == f"{world.url}/#/sign-in/unavailable"
        assert world.is_ready()
        body = json.dumps({"key": world.key}).encode()
        request = urllib.request.Request(f"{world.url}/api/session", body, {"content-type": "application/json"})
        assert urllib.request.urlopen(request, timeout=30).status == 204
        world.start_provider()
        browser = Browser(world)
        address = browser.callback("ann")
        world.provider.kill()
        assert browser.finish(address) == "/#/sign-in/unavailable"
        # With these flags, an operator is created, with the role of the group.
        world.start_provider("k3")
        browser = Browser(world)
        assert browser.sign_in("ann") == "/"
        assert browser.session()["role"] == "operator"
        assert Browser(world).sign_in("eve") == "/#/sign-in/no-role"


def test_a_sign_in_begins_at_one_server_and_ends_at_another(tmp_path):
    with postgres_database() as database, SignInWorld(tmp_path / "world", database=database) as world:
        world.create("ann@example.org")
        other = world.replica()
        world.start_provider()

        def seen_at(browser: Browser, url: str) -> str | None:
            answer = browser.open(f"{url}/api/session")
            return json.load(answer)["email"] if answer.status == 200 else None

        browser = Browser(world)
        address = browser.callback("ann")
        elsewhere = other + address.removeprefix(world.url)
        attempt = [cookie for cookie in browser.cookies if cookie.name == "fleet_sign_in"]
        assert browser.finish(elsewhere) == "/"
        for url in (world.url, other):
            assert seen_at(browser, url) == "ann@example.org"
        assert operators(world)["ann@example.org"]["signInIssuer"] == world.issuer
        # The first server knows that the answer was used at the other one.
        thief = Browser(world)
        thief.cookies.set_cookie(attempt[0])
        assert thief.finish(address) in ("/#/sign-in/denied", "/#/sign-in/attempt")
        assert seen_at(thief, world.url) is None
        # A session ends at both servers.
        request = urllib.request.Request(f"{world.url}/api/session", method="DELETE", headers={"x-fleet-csrf": "1"})
        assert browser.opener.open(request, timeout=30).status == 204
        assert seen_at(browser, other) is None
        # The account is linked: the other way around, it signs in the same operator.
        browser = Browser(world)
        assert browser.finish(browser.callback("ann")) == "/"
        assert seen_at(browser, other) == "ann@example.org"


def test_the_configuration_is_checked_at_the_start(world, tmp_path):
    for flags, expected in [
        (["--oidc-issuer", "http://id.example.org"], "https"),
        (["--password-sign-in", "off", "--oidc-role", "a=root"], "root"),
    ]:
        command = [*world.server.command, *flags]
        if "--oidc-issuer" in flags:
            at = command.index("--oidc-issuer")
            del command[at:at + 2]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.returncode == 64, (done.returncode, done.stderr)
        assert expected in done.stderr and SECRET not in done.stderr, done.stderr
