"""The scan's event stream over plain HTTP: server-sent events, resumable by their ids. Read `read_events` first."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from .connect import ConnectClient


@dataclass(frozen=True)
class Event:
    """One event: its id (the sequence, as text; None where it has none), its type and its JSON."""

    id: str | None
    type: str
    data: dict


def read_events(client: ConnectClient, scan_id: str, last_event_id: str | None = None) -> Iterator[Event]:
    """Yields the events after `last_event_id` up to the ledger, which is the last; anything after it is an AssertionError."""
    headers = {"accept": "text/event-stream"} | ({"last-event-id": last_event_id} if last_event_id is not None else {})
    connection, response = client.get(f"/api/scans/{scan_id}/events", headers)
    with connection:
        assert response.status == 200, (response.status, response.read(300))
        assert response.headers.get_content_type() == "text/event-stream"
        for fields in blocks(response):
            event = Event(fields.get("id"), (data := json.loads(fields["data"]))["type"], data)
            assert fields.get("event", event.type) == event.type, fields
            yield event
            if event.type == "ledger":
                return
    raise AssertionError("the event stream ended without a ledger")


def blocks(lines) -> Iterator[dict[str, str]]:
    """Groups the lines of an event stream into events; comments and events without data are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        text = line.decode("utf-8").rstrip("\r\n")
        if not text:
            if "data" in fields:
                yield fields
            fields = {}
        elif not text.startswith(":"):
            name, _, value = text.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value
