"""Compares our address classes with Python's `ipaddress` at every edge of the IANA registries. Every difference is explained.

`fleet-core/tests/data/address-classes.csv` holds what our classifier says; a test there keeps it fresh. Python's own
tables differ between its versions (the registries grew, and 3.11.10, 3.12.4 and 3.13 corrected several blocks), so an
explanation may hold for some versions only: what must not happen is a difference without one.
"""

import csv
import ipaddress
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[2] / "fleet-core" / "tests" / "data" / "address-classes.csv"


def addresses():
    with TABLE.open(newline="") as file:
        return [(ipaddress.ip_address(row["address"]), row["class"]) for row in csv.DictReader(file)]


def plain(address):
    """Returns the IPv4 address inside an IPv4-mapped one, which determines the class."""
    return getattr(address, "ipv4_mapped", None) or address


# The meaning of each Python property in our classes.
MEANING = {
    "is_loopback": {"loopback"},
    "is_link_local": {"link-local"},
    "is_multicast": {"multicast"},
    "is_unspecified": {"unspecified"},
    "is_global": {"public"},
}

ANYCAST = "set aside for one service of the internet: no device lives there, so it is not public to us"
UNALLOCATED = "not allocated as global unicast; Python calls every address global that has no table entry"
EMBEDDED = "an IPv4 address travels inside, which Python does not look at, or only since some version"
MULTICAST = "Python calls multicast global by its registry of scopes; to us it is multicast"
SITE_LOCAL = "deprecated site-local; Python calls it global or private by version"

# Property, block, reason: where the property differs from our class.
DIFFERENCES = [
    ("is_unspecified", "0.0.0.0/8", "to us the whole block is the address of nothing, to Python its first address"),
    ("is_global", "192.0.0.0/24", ANYCAST),
    ("is_global", "192.31.196.0/24", ANYCAST),
    ("is_global", "192.52.193.0/24", ANYCAST),
    ("is_global", "192.88.99.0/24", EMBEDDED),
    ("is_global", "192.175.48.0/24", ANYCAST),
    ("is_global", "224.0.0.0/4", MULTICAST),
    ("is_global", "ff00::/8", MULTICAST),
    ("is_global", "::/96", EMBEDDED),
    ("is_global", "::ffff:0:0:0/96", EMBEDDED),
    ("is_global", "64:ff9b::/96", EMBEDDED),
    ("is_global", "64:ff9b:1::/48", EMBEDDED),
    ("is_global", "2002::/16", EMBEDDED),
    ("is_global", "2001::/23", ANYCAST),
    ("is_global", "2620:4f:8000::/48", ANYCAST),
    ("is_global", "3fff::/20", "documentation since 2024; Python learned it later"),
    ("is_global", "fec0::/10", SITE_LOCAL),
    ("is_global", "::/3", UNALLOCATED),
    ("is_global", "4000::/2", UNALLOCATED),
    ("is_global", "8000::/1", UNALLOCATED),
]

# Blocks that differ in some versions of Python only.
BY_VERSION = {"2001::/23", "2002::/16", "64:ff9b:1::/48"}


def explanation(name, address):
    """The most specific block that explains the difference, if one does."""
    blocks = (ipaddress.ip_network(block) for known, block, _ in DIFFERENCES if known == name)
    around = [block for block in blocks if block.version == address.version and address in block]
    return max(around, key=lambda block: block.prefixlen, default=None)


def differences(name):
    """Returns the addresses whose property differs from our class, with both results."""
    for address, ours in addresses():
        theirs = getattr(plain(address), name)
        if theirs != (ours in MEANING[name]):
            yield plain(address), f"{address}: {ours}, {name} is {theirs}"


@pytest.mark.parametrize("name", MEANING)
def test_a_property_of_python_means_our_class_or_the_difference_is_explained(name):
    unexplained = [text for address, text in differences(name) if explanation(name, address) is None]
    assert not unexplained


def test_scannable_addresses_are_private_to_python_and_never_global():
    scanned = {"private", "unique-local"}
    checked = [address for address, ours in addresses() if ours in scanned]
    assert len(checked) > 8
    for address in map(plain, checked):
        assert address.is_private and not address.is_global, address
        for other in ("is_loopback", "is_link_local", "is_multicast", "is_reserved", "is_unspecified"):
            assert not getattr(address, other), (address, other)


def test_addresses_reserved_in_python_are_never_scanned_or_public_here():
    # Python calls reserved 240.0.0.0/4 and what RFC 4291 does not allocate.
    allowed = {"reserved", "broadcast", "IPv4-embedding", "unspecified", "loopback"}
    for address, ours in addresses():
        if plain(address).is_reserved:
            assert ours in allowed, f"{address}: {ours}"


def test_addresses_private_only_in_python_are_unscanned_for_a_reason():
    # Python's `is_private` means "not globally reachable"; ours is RFC 1918 and RFC 4193, and nothing else.
    others = {
        "loopback",
        "link-local",
        "unspecified",
        "broadcast",
        "documentation",
        "cloud metadata",
        "IPv4-embedding",
        "reserved",
    }
    for address, ours in addresses():
        if plain(address).is_private and ours not in {"private", "unique-local"}:
            assert ours in others, f"{address}: {ours}"


def test_no_explanation_is_idle():
    used = {(name, str(explanation(name, address))) for name in MEANING for address, _ in differences(name)}
    idle = {block for name, block, reason in DIFFERENCES if reason and (name, block) not in used}
    assert idle <= BY_VERSION
