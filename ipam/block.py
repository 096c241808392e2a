"""A block's rules, without any I/O: which ordinals are free, who holds the others, what assigning and freeing do.

The shape is Calico's (libcalico-go lib/ipam/ipam_block.go): free ordinals form a queue, so the address freed last is
used again last, and owners are shared entries that allocations point to.
"""

from __future__ import annotations

from datastore.api import Corrupt
from datastore.frozen import replace
from datastore.model import Attribute, Block
from ipam.cidr import parse_cidr
from ipam.errors import AddressInUse, BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ipam.cidr import Cidr


def new_block(cidr: Cidr, node: str, now_ns: int, claimed_at: str) -> Block:
    """Return an empty block of the node. The sequence starts at the clock, so a re-created block never repeats one."""
    return Block(
        cidr=str(cidr),
        affinity=host_affinity(node),
        allocations=(None,) * cidr.size,
        unallocated=tuple(range(cidr.size)),
        attributes=(),
        sequence=now_ns,
        allocation_sequence={},
        extra={"affinity_claim_time": claimed_at, "deleted": False},
    )


def host_affinity(node: str) -> str:
    """Return the text by which a block names the node it belongs to."""
    return f"host:{node}"


def check(block: Block) -> Block:
    """Return the block if it is sound: every ordinal either allocated or free, once. Raises Corrupt."""
    allocated = {ordinal for ordinal, owner in enumerate(block.allocations) if owner is not None}
    owners_known = all(block.allocations[ordinal] in range(len(block.attributes)) for ordinal in allocated)
    free = set(block.unallocated)
    try:
        size = parse_cidr(block.cidr).size
    except BadRequest as error:
        raise Corrupt(f"block {block.cidr} is named by no CIDR: {error}") from error
    if (
        len(block.allocations) != size
        or not owners_known
        or len(free) != len(block.unallocated)
        or allocated & free
        or len(allocated | free) != size
    ):
        raise Corrupt(f"block {block.cidr} is unsound: {_fault(size, allocated, free)}; repair its record")
    return block


def _fault(size: int, allocated: set[int], free: set[int]) -> str:
    """Say what is wrong with a block's ordinals."""
    for ordinal in range(size):
        if ordinal in allocated & free:
            return f"ordinal {ordinal} is both allocated and free"
        if ordinal not in allocated | free:
            return f"ordinal {ordinal} is neither allocated nor free"
    return "an ordinal is there twice, or is out of range, or belongs to no owner"


def give(block: Block, ordinals: Sequence[int], attribute: Attribute) -> Block:
    """Return the block with the ordinals given to the owner; raises AddressInUse, naming who holds one."""
    for ordinal in ordinals:
        if ordinal not in block.unallocated:
            address = parse_cidr(block.cidr).address(ordinal)
            raise AddressInUse(f"address {address} is in use by {describe(owner_of(block, ordinal))}")
    attributes = block.attributes
    if attribute not in attributes:
        attributes = (*attributes, attribute)
    return replace(
        _pointed(block, ordinals, attributes.index(attribute)),
        unallocated=tuple(free for free in block.unallocated if free not in ordinals),
        attributes=attributes,
        sequence=block.sequence + 1,
        allocation_sequence={**block.allocation_sequence, **dict.fromkeys(ordinals, block.sequence)},
    )


def free(block: Block, ordinals: Iterable[int], resting_since: str = "") -> Block:
    """Return the block with these allocated ordinals free: at the end of the queue, or at rest since that time.

    Owners of nothing are left out. An ordinal at rest points to an owner that has nothing but `released_at` (Calico).
    """
    freed = sorted(set(ordinals))
    block = replace(block, sequence=block.sequence + 1)
    if not resting_since:
        return _emptied(block, freed)
    resting = Attribute(None, {}, released_at=resting_since)
    attributes = block.attributes if resting in block.attributes else (*block.attributes, resting)
    return _compacted(replace(_pointed(block, freed, attributes.index(resting)), attributes=attributes))


def rested(block: Block, until: Callable[[str], bool]) -> Block:
    """Return the block with the ordinals free whose rest is over, as told for the time it began."""
    over = {index for index, item in enumerate(block.attributes) if item.released_at and until(item.released_at)}
    return _emptied(block, [ordinal for ordinal, index in enumerate(block.allocations) if index in over])


def _pointed(block: Block, ordinals: Iterable[int], index: int | None) -> Block:
    """Return the block with the ordinals allocated to the owner of this index, or to none."""
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = index
    return replace(block, allocations=tuple(allocations))


def _emptied(block: Block, freed: Collection[int]) -> Block:
    return _compacted(replace(
        _pointed(block, freed, None),
        unallocated=(*block.unallocated, *freed),
        allocation_sequence={at: number for at, number in block.allocation_sequence.items() if at not in freed},
    ))


def _compacted(block: Block) -> Block:
    """Return the block without owners that nothing points to."""
    used = sorted({owner for owner in block.allocations if owner is not None})
    renumbered = {old: new for new, old in enumerate(used)}
    return replace(
        block,
        allocations=tuple(None if owner is None else renumbered[owner] for owner in block.allocations),
        attributes=tuple(block.attributes[owner] for owner in used),
    )


def owner_of(block: Block, ordinal: int) -> Attribute | None:
    """Return who holds an ordinal, or None when nobody does; one at rest is "held" by its `released_at`."""
    index = block.allocations[ordinal]
    return None if index is None else block.attributes[index]


def held(block: Block, wanted: Callable[[Attribute], bool]) -> list[int]:
    """Return the ordinals whose owner is wanted."""
    matching = {index for index, attribute in enumerate(block.attributes) if wanted(attribute)}
    return [ordinal for ordinal, owner in enumerate(block.allocations) if owner in matching]


def held_of(block: Block, handle_id: str) -> list[int]:
    """Return the ordinals that a handle holds."""
    return held(block, lambda attribute: attribute.handle == handle_id)


def describe(attribute: Attribute | None) -> str:
    """Name an owner for a person: the pod if it is known, the container and interface, else the handle."""
    if attribute is None:
        return "nobody"
    if attribute.released_at:
        return f"nobody: it rests since it was released at {attribute.released_at} (ipCooldownSeconds)"
    owner = attribute.owner
    pod = f"pod {owner.get('namespace', '?')}/{owner['pod']} " if owner.get("pod") else ""
    if owner.get("container"):
        return f"{pod}container {owner['container']} interface {owner.get('interface', '?')}"
    return f"{pod}handle {attribute.handle}"
