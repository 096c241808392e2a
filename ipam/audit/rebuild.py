"""A block's record made anew from what is left of it, from endpoint records, handles and the node's wires. Pure.

An address is free in the new record only if it provably is: a record that can be trusted says so; or the block is this
node's, whose wires are all known, and every handle that names the block is accounted for. All others stay allocated to
the handle `repaired-unknown`: an address too many in use costs an address, one too few costs two pods their network.
"""

from __future__ import annotations

from contextlib import suppress

from datastore.frozen import frozen, replace
from datastore.model import Attribute, Block
from ipam.audit.survey import UNKNOWN
from ipam.cooldown import seconds_of, stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ipam.cidr import Cidr


@frozen
class Evidence:
    """What is known of one block from elsewhere.

    owners: ordinal -> who has it, by wire or endpoint record; handles: handle -> how many it says it holds.
    complete: nobody else can have an address of the block: it is this node's, and no handle's record is damaged.
    """

    owners: Mapping[int, Attribute]
    handles: Mapping[str, int]
    complete: bool


def rebuilt(
    cidr: Cidr, affinity: str | None, old: Block | None, trusted: bool, evidence: Evidence, now_ns: int
) -> Block:
    """Return a sound block. now_ns is a time nobody has seen before.

    old: the record as far as it can be read; trusted: it is usable, and only has what wastes space or misses somebody.
    """
    kept = _kept(cidr, old)
    holders = {**kept, **{at: owner for at, owner in evidence.owners.items()
                          if not trusted or at not in kept or kept[at].released_at}}
    queue = dict.fromkeys(old.unallocated if old else ())
    free = [at for at in (*queue, *(at for at in range(cidr.size) if at not in queue))
            if at < cidr.size and at not in holders]
    if not trusted and not (evidence.complete and _accounted(holders, evidence.handles)):
        holders |= dict.fromkeys(free, Attribute(UNKNOWN, {}))
        free = []
    return _written(cidr, affinity, old, holders, free, max(old.sequence + 1 if old else 0, now_ns))


def _kept(cidr: Cidr, old: Block | None) -> dict[int, Attribute]:
    """Return what the old record says of who has which ordinal."""
    if old is None:
        return {}
    return {at: _settled(old.attributes[index]) for at, index in enumerate(old.allocations[: cidr.size])
            if index is not None and index < len(old.attributes)}


def _settled(attribute: Attribute) -> Attribute:
    """Return an attribute whose rest, if it rests, began now at the latest."""
    if not attribute.released_at:
        return attribute
    now = stamp()
    with suppress(ValueError):
        if seconds_of(attribute.released_at) <= seconds_of(now):
            return attribute
    return replace(attribute, released_at=now)


def _accounted(holders: Mapping[int, Attribute], handles: Mapping[str, int]) -> bool:
    found = [holder.handle for holder in holders.values()]
    return all(found.count(handle) >= count for handle, count in handles.items())


def _written(
    cidr: Cidr, affinity: str | None, old: Block | None, holders: Mapping[int, Attribute], free: Sequence[int],
    sequence: int,
) -> Block:
    attributes: list[Attribute] = []
    for _, holder in sorted(holders.items()):
        if holder not in attributes:
            attributes.append(holder)
    numbers = old.allocation_sequence if old else {}
    return Block(
        cidr=str(cidr),
        affinity=affinity,
        allocations=tuple(attributes.index(holders[at]) if at in holders else None for at in range(cidr.size)),
        unallocated=tuple(free),
        attributes=tuple(attributes),
        sequence=sequence + 1,
        allocation_sequence={at: numbers.get(at, sequence) for at in sorted(holders)},
        extra=old.extra if old else {"deleted": False},
    )


def attribute_of(handle: str, *told: Mapping[str, str]) -> Attribute:
    """Return an owner with all that is told of him, the later telling first; what is empty is not told."""
    merged = {name: text for part in told for name, text in part.items() if text}
    return Attribute(handle, merged)


def empty(block: Block, evidence: Evidence) -> bool:
    """Tell whether a block that was rebuilt from nothing has nothing: then it need not be there at all."""
    return not block.attributes and not evidence.handles
