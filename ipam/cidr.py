"""Addresses and CIDRs as integers: parse, print, contain, count.

`netaddr` is the library for this (pools are validated with it, ipam/pool.py), but costs 23 ms at import; an ADD needs
only the few operations here. tests/unit/test_cidr.py holds both to the same answers.
"""

from __future__ import annotations

import _socket  # `socket` adds 3-7 ms of enums and selectors around the two functions needed here

from datastore.frozen import frozen
from ipam.errors import BadRequest

BITS = {4: 32, 6: 128}
_AF = {4: _socket.AF_INET, 6: _socket.AF_INET6}


@frozen
class Address:
    """An IPv4 (family 4) or IPv6 (6) address as a number."""

    family: int
    number: int

    def __str__(self) -> str:
        """Return the address in its usual notation (RFC 5952 for IPv6)."""
        return _socket.inet_ntop(_AF[self.family], self.packed())

    def packed(self) -> bytes:
        """Return the address in network byte order."""
        return self.number.to_bytes(BITS[self.family] // 8, "big")


@frozen
class Cidr:
    """A range of addresses that share their first `prefix` bits; `first` is the lowest of them."""

    family: int
    first: int
    prefix: int

    def __str__(self) -> str:
        """Return the range as address/prefix."""
        return f"{Address(self.family, self.first)}/{self.prefix}"

    def __contains__(self, other: Address | Cidr) -> bool:
        """Tell whether an address or a whole other range lies within."""
        first, last = (other.number, other.number) if isinstance(other, Address) else (other.first, other.last)
        return other.family == self.family and self.first <= first and last <= self.last

    @property
    def size(self) -> int:
        """Number of addresses in the range."""
        return 1 << (BITS[self.family] - self.prefix)

    @property
    def last(self) -> int:
        """The highest address of the range, as a number."""
        return self.first + self.size - 1

    def address(self, ordinal: int) -> Address:
        """Return the address at this distance from the first."""
        return Address(self.family, self.first + ordinal)

    def overlaps(self, other: Cidr) -> bool:
        """Tell whether the two ranges share an address."""
        return self.family == other.family and self.first <= other.last and other.first <= self.last


def parse_address(text: str) -> Address:
    """Return the address in the text, which must be one and nothing else; raises BadRequest."""
    family = 6 if ":" in text else 4
    try:
        return Address(family, int.from_bytes(_socket.inet_pton(_AF[family], text), "big"))
    except (OSError, ValueError):
        raise BadRequest(f'"{text}" is not an IP address') from None


def parse_cidr(text: str) -> Cidr:
    """Return the range in the text, e.g. 10.0.0.0/8, no bit set behind the prefix; raises BadRequest."""
    address, cidr = _address_and_network(text)
    if cidr.first != address.number:
        raise BadRequest(f'"{text}" has bits set behind its prefix; did you mean {cidr}?')
    return cidr


def parse_network(text: str) -> Cidr:
    """Return the range that an address with a prefix length, e.g. 10.1.2.3/8, lies in; raises BadRequest."""
    return _address_and_network(text)[1]


def _address_and_network(text: str) -> tuple[Address, Cidr]:
    start, _, length = text.partition("/")
    address = parse_address(start)
    bits = BITS[address.family]
    if not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= bits):
        raise BadRequest(f'"{text}" is not a CIDR: the prefix must be a number from 0 to {bits}')
    return address, block_at(address, int(length))


def block_at(address: Address, prefix: int) -> Cidr:
    """Return the range of this prefix length that the address lies in."""
    spare = BITS[address.family] - prefix
    return Cidr(address.family, address.number >> spare << spare, prefix)
