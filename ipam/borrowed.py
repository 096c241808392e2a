"""What a node takes from blocks of others, and therefore all the blocks in which it may have addresses.

In a datastore of many nodes that is what a node looks at for pods of its own, instead of everything.
"""

from __future__ import annotations

from contextlib import suppress

from datastore.frozen import replace
from ipam import host
from ipam.affinity import ATTEMPTS, own_blocks
from ipam.cidr import parse_cidr
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.api import Store
    from ipam.cidr import Cidr


def remember_borrowed(store: Store, node: str, cidr: str) -> None:
    """Note, before it is done, that the node takes from a block of another. Raises StoreError."""
    for _ in range(ATTEMPTS):
        memory, revision = host.load(store, node)
        borrowed = (*memory.borrowed, cidr)
        if cidr in memory.borrowed or host.save(store, node, replace(memory, borrowed=borrowed), revision):
            return


def near_blocks(store: Store, node: str) -> list[Cidr]:
    """Return the node's blocks and those it has borrowed from. Raises StoreError."""
    found = [cidr for family in (4, 6) for cidr in own_blocks(store, node, family)]
    for text in host.load(store, node)[0].borrowed:
        with suppress(BadRequest):  # a hint that nobody has written
            found.append(parse_cidr(text))
    return list(dict.fromkeys(found))
