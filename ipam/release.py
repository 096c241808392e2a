"""Taking addresses back: all that an owner holds, or exactly what one assignment gave."""

from __future__ import annotations

from functools import partial

from datastore import keys
from datastore.api import Conflict, Missing
from datastore.model import block_json
from datastore.undo import all_of
from ipam.affinity import block_cidrs, read_block
from ipam.block import free, held
from ipam.cidr import parse_cidr
from ipam.count import ATTEMPTS, handle_blocks, set_count
from ipam.errors import Contended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from datastore.api import Store
    from datastore.model import Block
    from ipam.cidr import Address, Cidr
    from ipam.handle import Assigned, Owner


def release(store: Store, owner: Owner, hints: Collection[Address] = ()) -> list[Address]:
    """Free every address the owner holds and return them; having none is no error. Raises Contended, StoreError.

    Depends on nothing but the handle and its blocks: not on pools, node or configuration. The handle's counts are set
    to what the blocks hold, so a writer killed half-way leaves nothing behind once this has run. `hints` are addresses
    that another record tells of: their blocks are looked at too, should the handle have been lost.
    """
    freed: list[Address] = []
    with store.exclusive():
        blocks = set(handle_blocks(store, owner.handle_id))
        lost = [address for address in hints if not any(address in cidr for cidr in blocks)]
        if lost:
            family_blocks = (cidr for family in (4, 6) for cidr in block_cidrs(store, family))
            blocks |= {cidr for cidr in family_blocks if any(address in cidr for address in lost)}
        def free_from(cidr: Cidr) -> None:
            freed.extend(_free(store, cidr, owner.handle_id, lambda block: held(block, owner.holds)))

        all_of(*(partial(free_from, cidr) for cidr in sorted(blocks, key=str)))  # a damaged one keeps no other
    return freed


def take_back(store: Store, assigned: Assigned) -> None:
    """Free the address of one assignment, and only of that one: not if it has been given anew since."""
    ordinal = assigned.address.number - assigned.block.first

    def same(block: Block) -> list[int]:
        mine = held(block, lambda attribute: attribute.handle == assigned.handle_id)
        return [ordinal] if ordinal in mine and block.allocation_sequence.get(ordinal) == assigned.sequence else []

    with store.exclusive():
        _free(store, assigned.block, assigned.handle_id, same)


def _free(store: Store, cidr: Cidr, handle_id: str, choose: Callable[[Block], list[int]]) -> list[Address]:
    """Free the chosen ordinals of one block, then set the handle's count; return the addresses."""
    for _ in range(ATTEMPTS):
        stored = read_block(store, cidr)
        if stored is None:
            set_count(store, handle_id, str(cidr), 0)
            return []
        block, revision = stored
        ordinals = choose(block)
        try:
            if ordinals:
                block = free(block, ordinals)
                _write(store, block, revision)
        except (Conflict, Missing):
            continue
        set_count(store, handle_id, str(cidr), len(held(block, lambda attribute: attribute.handle == handle_id)))
        return [cidr.address(ordinal) for ordinal in ordinals]
    raise Contended(f"block {cidr} kept changing under {ATTEMPTS} attempts to release from it; try again")


def _write(store: Store, block: Block, revision: int) -> None:
    """Store the block; an empty one that no node owns is dropped."""
    key = keys.block(parse_cidr(block.cidr).family, block.cidr)
    if block.affinity is None and not block.attributes:
        store.delete(key, revision)
    else:
        store.update(key, block_json(block), revision)
