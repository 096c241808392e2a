"""Who holds which address."""

from __future__ import annotations

from datastore.api import Corrupt
from datastore.frozen import frozen
from ipam.affinity import block_cidrs, read_block
from ipam.block import owner_of
from ipam.cidr import parse_cidr
from ipam.count import handle_blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datastore.api import Store
    from datastore.model import Attribute, Block
    from ipam.cidr import Address
    from ipam.handle import Owner


@frozen
class Allocation:
    """An address in use, and who holds it."""

    address: Address
    attribute: Attribute


def allocations(store: Store, damaged: Callable[[Corrupt], object]) -> Iterator[Allocation]:
    """Yield every address in use, block by block; a block that cannot be read is told to `damaged`, and passed over."""
    for family in (4, 6):
        for cidr in sorted(block_cidrs(store, family), key=str):
            try:
                stored = read_block(store, cidr)
            except Corrupt as error:
                damaged(error)
                continue
            if stored:
                yield from _in_block(stored[0])


def holdings(store: Store, owner: Owner) -> list[Allocation]:
    """Return what one owner holds. Raises Corrupt."""
    stored = [read_block(store, cidr) for cidr in handle_blocks(store, owner.handle_id)]
    return [found for item in stored if item for found in _in_block(item[0]) if owner.holds(found.attribute)]


def holder(store: Store, address: Address) -> Allocation | None:
    """Return who holds an address, or None. Raises Corrupt."""
    for cidr in block_cidrs(store, address.family):
        stored = read_block(store, cidr) if address in cidr else None
        if stored:
            return next((found for found in _in_block(stored[0]) if found.address == address), None)
    return None


def _in_block(block: Block) -> Iterator[Allocation]:
    cidr = parse_cidr(block.cidr)
    for ordinal in range(cidr.size):
        attribute = owner_of(block, ordinal)
        if attribute is not None:
            yield Allocation(cidr.address(ordinal), attribute)
