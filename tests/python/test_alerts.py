"""Alerts at receivers of other makers: webhooks that the library of Standard Webhooks checks, and mail over TLS at aiosmtpd."""

import email
import json
from email import policy

import pytest
from standardwebhooks import Webhook as StandardWebhook
from standardwebhooks.webhooks import WebhookVerificationError

from receivers import Authority, MailServer, Webhook
from world import World, eventually

SERVICE = "fleet.v1.AlertService"

# aiosmtpd does not know of the TLS under it.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")


def channel(world: World, **receiver) -> dict:
    """Creates a channel, and returns it with its secret."""
    name = f"channel {len(world.call(f'{SERVICE}/ListAlertChannels').get('channels', []))}"
    return world.call(f"{SERVICE}/CreateAlertChannel", name=name, **receiver)


def probed(world: World, created: dict) -> str:
    """Sends a test message, and returns the id of its delivery."""
    return world.call(f"{SERVICE}/TestAlertChannel", channelId=created["channel"]["channelId"])["delivery"]["deliveryId"]


def attempted(world: World, delivery: str, state: str) -> dict:
    """Waits for the result of the first attempt, and returns the delivery."""

    def found():
        rows = world.call(f"{SERVICE}/ListAlertDeliveries").get("deliveries", [])
        row = next(row for row in rows if row["deliveryId"] == delivery)
        return row.get("answer") and row

    row = eventually("the first attempt", found)
    assert row["state"] == state, row
    return row


@pytest.fixture(scope="module")
def authorities(tmp_path_factory) -> tuple[Authority, Authority]:
    """The authority that the servers trust, and another one."""
    folder = tmp_path_factory.mktemp("authorities")
    return Authority(folder, "own"), Authority(folder, "other")


@pytest.fixture(scope="module")
def hooks(tmp_path_factory, authorities):
    """A server that trusts the private authority for webhooks."""
    settings = f'[webhooks]\nca-file = "{authorities[0].file}"'
    with World(tmp_path_factory.mktemp("hooks") / "world", settings=settings) as world:
        yield world


def test_the_library_of_standard_webhooks_accepts_a_message_over_private_tls(hooks, authorities):
    with Webhook(authorities[0].context()) as receiver:
        created = channel(hooks, webhookUrl=receiver.url)
        delivery = probed(hooks, created)
        row = attempted(hooks, delivery, "delivered")
        assert row["answer"] == "HTTP 204"
        [(headers, body)] = receiver.received
    library = StandardWebhook(created["signingSecret"])
    message = library.verify(body, headers)
    assert (message["type"], headers["webhook-id"]) == ("test", f"msg_{delivery}")
    for damaged in (body + b" ", json.dumps({**message, "type": "other"}).encode()):
        with pytest.raises(WebhookVerificationError):
            library.verify(damaged, headers)
    with pytest.raises(WebhookVerificationError):
        library.verify(body, headers | {"webhook-id": "msg_other"})


def test_a_webhook_with_a_certificate_that_is_not_valid_gets_nothing(hooks, authorities):
    own, other = authorities
    for context in (other.context(), own.context("elsewhere.test")):
        with Webhook(context) as receiver:
            created = channel(hooks, webhookUrl=receiver.url)
            row = attempted(hooks, probed(hooks, created), "waiting")
            assert "certificate" in row["answer"], row
            assert receiver.received == []


def test_a_redirect_is_not_followed_and_410_ends_the_message(hooks, authorities):
    tls = authorities[0].context()
    with Webhook(tls) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            with Webhook(tls, status, elsewhere.url) as receiver:
                created = channel(hooks, webhookUrl=receiver.url)
                row = attempted(hooks, probed(hooks, created), "waiting")
                assert row["answer"].startswith(f"HTTP {status}: redirects are not followed"), row
                hooks.call(f"{SERVICE}/DeleteAlertChannel", channelId=created["channel"]["channelId"])
        with Webhook(tls, 410) as receiver:
            row = attempted(hooks, probed(hooks, channel(hooks, webhookUrl=receiver.url)), "failed")
            assert (row["answer"], row["attempts"]) == ("HTTP 410", 1)
        # This message comes after everything that a redirect could have led to.
        attempted(hooks, probed(hooks, channel(hooks, webhookUrl=elsewhere.url)), "delivered")
        assert len(elsewhere.received) == 1


def smtp(port: int, security: str, authority: Authority) -> str:
    return (
        f'[smtp]\nhost = "127.0.0.1"\nport = {port}\nfrom = "Fleet <fleet@fleet.test>"\nsecurity = "{security}"\n'
        f'user = "fleet"\npassword-file = "{authority.folder}/password"\nca-file = "{authority.file}"\n'
    )


@pytest.fixture
def password(authorities):
    (authorities[0].folder / "password").write_text("pass word\n")


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_is_sent_over_tls_of_a_private_authority_with_the_login(tmp_path, authorities, password, security):
    own = authorities[0]
    with MailServer(**{security: own.context()}) as server, World(tmp_path / "world", settings=smtp(server.port, security, own)) as world:
        delivery = probed(world, channel(world, email="ann@acme.test"))
        row = attempted(world, delivery, "delivered")
        assert row["answer"] == "SMTP 250"
        [mail] = server.mails
    assert (mail.recipients, mail.encrypted, mail.user) == (["ann@acme.test"], True, "fleet")
    message = email.message_from_string(mail.content, policy=policy.default)
    assert (message["from"], message["to"], message["subject"]) == ("Fleet <fleet@fleet.test>", "ann@acme.test", "Test message")
    assert message["message-id"] == f"<{delivery}@fleet.test>"
    assert "lab@example.org sent it to test this channel." in message.get_content()


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_server_with_another_authority_gets_neither_message_nor_login(tmp_path, authorities, password, security):
    own, other = authorities
    with MailServer(**{security: other.context()}) as server, World(tmp_path / "world", settings=smtp(server.port, security, own)) as world:
        row = attempted(world, probed(world, channel(world, email="ann@acme.test")), "waiting")
        assert "certificate" in row["answer"], row
        assert server.mails == []
        assert not any(command.startswith("AUTH") for command in server.commands), server.commands


def test_a_mail_server_without_starttls_gets_neither_message_nor_login(tmp_path, authorities, password):
    own = authorities[0]
    with MailServer() as server, World(tmp_path / "world", settings=smtp(server.port, "starttls", own)) as world:
        row = attempted(world, probed(world, channel(world, email="ann@acme.test")), "waiting")
        assert "STARTTLS" in row["answer"].upper(), row
        assert server.mails == []
        assert server.commands == ["EHLO"]
