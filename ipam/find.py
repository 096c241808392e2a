"""Who holds which address."""

from __future__ import annotations

from datastore.api import Corrupt
from datastore.frozen import frozen
from ipam.affinity import Present, block_cidrs, read_block
from ipam.block import owner_of
from ipam.cidr import BITS, block_at, parse_cidr
from ipam.count import handle_blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from datastore.api import Store
    from datastore.model import Attribute, Block
    from ipam.cidr import Address, Cidr
    from ipam.handle import Owner


@frozen
class Allocation:
    """An address in use, and who holds it; the sequence number tells this giving from any other."""

    address: Address
    attribute: Attribute
    sequence: int | None


def allocations(
    store: Store, damaged: Callable[[Corrupt], object], among: Iterable[Cidr] | None = None
) -> Iterator[Allocation]:
    """Yield every address in use, block by block; a block that cannot be read is told to `damaged`, and passed over.

    among: the blocks to look at, None for all.
    """
    everywhere = (cidr for family in (4, 6) for cidr in sorted(block_cidrs(store, family), key=str))
    for cidr in everywhere if among is None else among:
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


def held_by_handle(store: Store, handle_id: str, family: int) -> list[Allocation]:
    """Return what a handle holds of one family, whoever its owners are. Raises Corrupt."""
    stored = [read_block(store, cidr) for cidr in handle_blocks(store, handle_id) if cidr.family == family]
    return [found for item in stored if item for found in _in_block(item[0]) if found.attribute.handle == handle_id]


def holder(store: Store, address: Address) -> Allocation | None:
    """Return who holds an address, or None. Raises Corrupt."""
    cidr = block_of_address(store, address)
    stored = read_block(store, cidr) if cidr else None
    held = _in_block(stored[0]) if stored else ()
    return next((found for found in held if found.address == address), None)


def block_of_address(store: Store, address: Address) -> Cidr | None:
    """Return the CIDR of the block that an address lies in, of whatever size it is, or None."""
    return Present(store, address.family).at(block_at(address, BITS[address.family]))


def _in_block(block: Block) -> Iterator[Allocation]:
    cidr = parse_cidr(block.cidr)
    for ordinal in range(cidr.size):
        attribute = owner_of(block, ordinal)
        if attribute is not None and not attribute.released_at:
            yield Allocation(cidr.address(ordinal), attribute, block.allocation_sequence.get(ordinal))
