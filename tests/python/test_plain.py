"""The port of a running server beyond its API: plain HTTP, health and reflection."""

import pytest

from fleetwire import control, descriptors, reflection
from fleetwire.connect import ConnectClient

CHECK = descriptors.method("grpc.health.v1.Health", "Check")
OUR_SERVICES = [
    "fleetnodegateway.v1.FleetNodeGatewayService",
    "fleetnodeadmin.v1.FleetNodeAdminService",
    "pairing.v1.PairingService",
    "fleet.v1.ScheduleService",
    "fleet.v1.AlertService",
]


@pytest.fixture(scope="module")
def schema(server_url) -> reflection.Schema:
    """The reflected descriptors of the server's services."""
    return reflection.fetch(server_url)


def test_healthz_answers_200(server_url):
    connection, response = ConnectClient(server_url).get("/healthz")
    with connection:
        assert response.status == 200


def test_the_root_is_a_web_page(server_url):
    connection, response = ConnectClient(server_url).get("/")
    with connection:
        assert response.status == 200
        assert response.headers.get_content_type() == "text/html"
        assert b"<html" in response.read().lower()


def test_health_says_serving(server_url):
    with control.channel(server_url) as channel:
        check = channel.unary_unary(
            control.path(server_url, CHECK),
            request_serializer=CHECK.request.SerializeToString,
            response_deserializer=CHECK.response.FromString,
        )
        assert check(CHECK.request(), timeout=30).status == descriptors.enum_value("grpc.health.v1.ServingStatus", "SERVING")


def test_reflection_lists_the_services(schema):
    assert schema.services >= {*OUR_SERVICES, "grpc.health.v1.Health"}


@pytest.mark.parametrize("service", OUR_SERVICES)
def test_the_servers_own_schema_agrees_with_the_table(schema, service):
    assert "\n".join(reflection.differences(schema, service)) == ""


@pytest.mark.parametrize("name", ["fleetnodegateway.v1.AgentCommand", "common.v1.FleetErrorDetails"])
def test_messages_that_travel_inside_others_agree_with_the_table(schema, name):
    schema.load_symbol(name)
    assert "\n".join(reflection.message_differences(schema, name, name)) == ""
