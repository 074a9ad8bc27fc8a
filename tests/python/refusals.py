"""Assertions that a call is refused."""

from contextlib import contextmanager

import pytest

from fleetwire.connect import STATUS_OF_CODE, ConnectError


@contextmanager
def refused(*codes: str, naming: str = ""):
    """Expects a ConnectError with one of the codes, its HTTP status, and a message that holds `naming`."""
    with pytest.raises(ConnectError) as caught:
        yield caught
    refusal = caught.value
    assert refusal.code in codes, refusal
    assert refusal.http_status == STATUS_OF_CODE[refusal.code], refusal
    assert naming in refusal.message, refusal
