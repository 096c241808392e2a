"""The lean address arithmetic gives netaddr's answers."""

from __future__ import annotations

import netaddr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.cidr import BITS, Address, Cidr, block_at, parse_address, parse_cidr
from ipam.errors import BadRequest

families = st.sampled_from([4, 6])


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    family = draw(families)
    return Address(family, draw(st.integers(0, 2 ** BITS[family] - 1)))


@given(addresses())
def test_addresses(address: Address) -> None:
    """Text and back, the same as netaddr's."""
    assert parse_address(str(address)) == address
    assert int(netaddr.IPAddress(str(address))) == address.number


@given(addresses(), st.data())
def test_ranges(address: Address, data: st.DataObject) -> None:
    """The range around an address: text, size, ends, membership and overlap are netaddr's."""
    prefix = data.draw(st.integers(0, BITS[address.family]))
    cidr = block_at(address, prefix)
    theirs = netaddr.IPNetwork(f"{address}/{prefix}").cidr
    assert str(cidr) == str(theirs)
    assert parse_cidr(str(cidr)) == cidr
    assert (cidr.size, cidr.first, cidr.last) == (theirs.size, theirs.first, theirs.last)
    assert address in cidr
    other = block_at(data.draw(addresses()), data.draw(st.integers(0, 32)))
    their_other = netaddr.IPNetwork(str(other))
    assert (other in cidr) == (other.family == cidr.family and their_other in theirs)
    assert cidr.overlaps(other) == (other.family == cidr.family and (other in cidr or cidr in other))


@pytest.mark.parametrize("text", ["", "10.0.0", "010.0.0.1", "10.0.0.256", "10.0.0.1/32", "::g", "10.0.0.1 ", "é"])
def test_no_addresses(text: str) -> None:
    """Anything but an address is refused, by name."""
    with pytest.raises(BadRequest):
        parse_address(text)


@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.1/24", "10.0.0.0/-1", "::/129",
                                  "::/٣", "10.0.0.0/0008"])
def test_no_ranges(text: str) -> None:
    """Anything but a CIDR with nothing behind its prefix is refused."""
    with pytest.raises(BadRequest):
        parse_cidr(text)


def test_ordinals() -> None:
    """An ordinal is the distance from the block's first address."""
    block = parse_cidr("10.0.0.64/26")
    assert str(block.address(5)) == "10.0.0.69"
    assert Cidr(4, block.first, 26) == block
