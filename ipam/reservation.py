"""Reservations: addresses that are never given out unless somebody asks for them by name (Calico: IPReservation)."""

from __future__ import annotations

from contextlib import suppress

from datastore import keys
from datastore.api import Corrupt, Missing
from datastore.fields import read, texts
from datastore.resources import reservation_of
from ipam.cidr import BITS, Cidr, parse_address, parse_cidr
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from datastore.api import Record, Store
    from ipam.cidr import Address

# What `calico-ipam -upgrade` reserves with: names begin so, and an annotation names host-local's directory.
GATE = "host-local-"
GATE_MARK = "projectcalico.org/host-local-upgrade"


def reserved_ranges(store: Store, family: int) -> list[Cidr]:
    """Return the reserved ranges of the family in address order, none within another. Raises Corrupt."""
    found: list[Cidr] = []
    for record in store.records(keys.IPRESERVATIONS):
        found.extend(cidr for cidr in ranges_of(record) if cidr.family == family)
    return _outermost(found)


def ranges_of(record: Record) -> list[Cidr]:
    """Return the ranges of one reservation. Raises Corrupt."""
    reservation = reservation_of(record)
    try:
        return list(map(parse_range, reservation.cidrs))
    except BadRequest as error:
        raise Corrupt(f"reservation {reservation.name} cannot be honoured: {error}; correct it") from error


def held_by_upgrade(store: Store, address: Address) -> str | None:
    """Return the name of the reservation that keeps an address for host-local's pod, if any. Raises Corrupt."""
    for key in store.keys(keys.IPRESERVATIONS):
        if key.startswith(keys.ipreservation(GATE)):
            with suppress(Missing):
                if _gates(store.get(key), address):
                    return key.removeprefix(keys.IPRESERVATIONS)
    return None


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


def _gates(record: Record, address: Address) -> bool:
    """Tell whether a reservation is one of the upgrade's, and has the address."""
    marked = read(record, lambda value: GATE_MARK in texts(value["metadata"].get("annotations")))
    return marked and any(address in cidr for cidr in ranges_of(record))


def _outermost(ranges: Iterable[Cidr]) -> list[Cidr]:
    """Return the ranges that lie in no other: two CIDRs share all addresses of one of them, or none."""
    kept: list[Cidr] = []
    for cidr in sorted(ranges, key=lambda cidr: (cidr.first, cidr.prefix)):
        if not (kept and cidr in kept[-1]):
            kept.append(cidr)
    return kept
