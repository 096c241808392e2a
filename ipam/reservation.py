"""Reservations: addresses that are never given out unless somebody asks for them by name (Calico: IPReservation)."""

from __future__ import annotations

from datastore import keys
from datastore.api import Corrupt
from datastore.resources import reservation_of
from ipam.cidr import BITS, Cidr, parse_address, parse_cidr
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from datastore.api import Store


def reserved_ranges(store: Store, family: int) -> list[Cidr]:
    """Return the reserved ranges of the family in address order, none within another. Raises Corrupt."""
    found: list[Cidr] = []
    for record in store.records(keys.IPRESERVATIONS):
        reservation = reservation_of(record)
        try:
            ranges = map(parse_range, reservation.cidrs)
            found.extend(cidr for cidr in ranges if cidr.family == family)
        except BadRequest as error:
            raise Corrupt(f"reservation {reservation.name} cannot be honoured: {error}; correct it") from error
    return _outermost(found)


def parse_range(text: str) -> Cidr:
    """Return a CIDR, or one address as the range of itself. Raises BadRequest."""
    if "/" in text:
        return parse_cidr(text)
    address = parse_address(text)
    return Cidr(address.family, address.number, BITS[address.family])


def reserved_ordinals(reserved: Iterable[Cidr], block: Cidr) -> set[int]:
    """Return the ordinals of a block that are reserved."""
    found: set[int] = set()
    for cidr in filter(block.overlaps, reserved):
        first, last = max(cidr.first, block.first), min(cidr.last, block.last)
        found.update(range(first - block.first, last - block.first + 1))
    return found


def reserved_count(reserved: Iterable[Cidr], within: Cidr) -> int:
    """Return how many addresses of a range are reserved; the ranges share none (reserved_ranges)."""
    return sum(min(cidr.size, within.size) for cidr in reserved if cidr.overlaps(within))


def is_reserved(reserved: Iterable[Cidr], block: Cidr) -> bool:
    """Tell whether every address of a block is reserved."""
    return reserved_count(reserved, block) == block.size


def _outermost(ranges: Iterable[Cidr]) -> list[Cidr]:
    """Return the ranges that lie in no other: two CIDRs share all addresses of one of them, or none."""
    kept: list[Cidr] = []
    for cidr in sorted(ranges, key=lambda cidr: (cidr.first, cidr.prefix)):
        if not (kept and cidr in kept[-1]):
            kept.append(cidr)
    return kept
