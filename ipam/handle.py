"""Owners and what they hold, without any I/O: who an address is for, and a handle's counts per block.

Counts are set to what the block holds rather than added to, so that a writer that died half-way cannot make them drift.
"""

from __future__ import annotations

from datastore.frozen import frozen, replace
from datastore.model import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from datastore.model import Attribute
    from ipam.cidr import Address, Cidr


@frozen
class Owner:
    """Who addresses are for: the handle, and the attributes stored with each address.

    The attributes `network`, `container` and `interface` tell attachments apart that share a handle: a pod with two
    interfaces of one network, or two names that only look alike once joined (a.b + c, a + b.c).
    """

    handle_id: str
    attributes: Mapping[str, str]

    def holds(self, attribute: Attribute) -> bool:
        """Tell whether an allocation is this owner's. What an older record does not say does not speak against it."""
        told = attribute.owner
        return attribute.handle == self.handle_id and all(
            told.get(name, self.attributes[name]) == self.attributes[name]
            for name in ("network", "container", "interface")
            if name in self.attributes
        )


@frozen
class Assigned:
    """An address given: the block it is from, and the sequence number that tells this giving from any later one."""

    address: Address
    block: Cidr
    handle_id: str
    sequence: int
    requested: bool


def with_count(handle: Handle, cidr: str, count: int) -> Handle:
    """Return the handle holding `count` addresses in the block; a block with none is left out."""
    others = {block: held for block, held in handle.blocks.items() if block != cidr}
    return replace(handle, blocks={**others, cidr: count} if count else others)
