"""Everything that can be wrong within one block record. Pure.

The allocator's own check (ipam/block.py) stops at the first fault that makes a block unusable; this names them all, and
those that only waste space. Calico: checkBlock (calicoctl commands/ipam/check.go).
"""

from __future__ import annotations

from ipam.cidr import parse_cidr
from ipam.cooldown import seconds_of
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from datastore.model import Block


def faults(block: Block, now: float) -> list[str]:
    """Return what is wrong with a block, each in a few words; now is the time in seconds since 1970."""
    try:
        size = parse_cidr(block.cidr).size
    except BadRequest as error:
        return [str(error)]
    return [*_sizes(block, size), *_attributes(block, now), *_ordinals(block, size)]


def _sizes(block: Block, size: int) -> Iterator[str]:
    if len(block.allocations) != size:
        yield f"it has {len(block.allocations)} ordinals, a block of its CIDR has {size}"
    allocated = sum(index is not None for index in block.allocations)
    if allocated + len(block.unallocated) != size:
        yield f"its counts do not add up: {allocated} allocated and {len(block.unallocated)} free are not {size}"


def _attributes(block: Block, now: float) -> Iterator[str]:
    count, used = len(block.attributes), set(block.allocations)
    for index in sorted(index for index in used if index is not None and index >= count):
        yield f"an ordinal points to attribute {index}, of {count}"
    for index, attribute in enumerate(block.attributes):
        if index not in used:
            yield f"no ordinal points to attribute {index}"
        if attribute.released_at:
            yield from _rest(attribute.released_at, now)


def _rest(released_at: str, now: float) -> Iterator[str]:
    try:
        if seconds_of(released_at) > now:
            yield f"releasedAt {released_at} lies in the future"
    except ValueError:
        yield f"releasedAt {released_at!r} is no time"


def _ordinals(block: Block, size: int) -> Iterator[str]:
    free = set(block.unallocated)
    for ordinal in sorted(at for at in free if block.unallocated.count(at) > 1):
        yield f"ordinal {ordinal} is free twice"
    for ordinal in sorted(at for at in free if at >= size):
        yield f"ordinal {ordinal} is free, but the block ends at {size - 1}"
    for ordinal, index in enumerate(block.allocations[:size]):
        if (index is None) != (ordinal in free):
            state = "neither allocated nor free" if index is None else "both allocated and free"
            yield f"ordinal {ordinal} is {state}"
