"""Blocks against handles: for each owner and block the same count.

The hundreds of thousands of handles of a large cluster are compared by digests; only those that differ are looked at
one by one.
"""

from __future__ import annotations

from collections import Counter

from datastore import keys
from datastore.api import Corrupt, Missing, Torn
from datastore.frozen import frozen
from datastore.model import handle_of
from ipam.audit.endpoints import told_before
from ipam.audit.finding import HANDLE_COUNT, HANDLE_EMPTY, HANDLE_MISSING, Finding
from ipam.audit.survey import FAMILIES, UNKNOWN, in_use, read, undisturbed
from ipam.audit.tally import Tally
from ipam.block import held_of
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from typing import Any

    from datastore.api import Record, Store
    from ipam.audit.survey import Survey
    from ipam.audit.tally import Missed


@frozen
class Counted:
    """A handle's revision, None when it has no record, what it says, and what the blocks hold for it.

    Blocks in doubt are in neither, nor are those that keep addresses of nobody known, one of which may be the handle's;
    unclear is what the handle says of them.
    """

    handle_id: str
    revision: int | None
    told: dict[str, int]
    held: dict[str, int]
    unclear: dict[str, int]


def compare_handles(store: Store, found: Survey, watch: Callable[..., Iterable[Any]]) -> int:
    """Tell how handles and blocks disagree; return how many handles there are. Raises Unwritable, Busy."""
    stored, count = Tally(), 0
    for record in watch(store.scan(keys.HANDLES, found.unreadable), "Reading handles", found.pairs):
        count += 1
        for fact in _facts(record, found.unreadable):
            stored.add(*fact)
    odd: dict[str, set[str]] = {}
    for handle_id, cidr, _ in (*_in_blocks(store, found.handles.without(stored), watch, found.pairs),
                               *_in_handles(store, stored.without(found.handles), watch, found.pairs)):
        odd.setdefault(handle_id, set()).add(cidr)
    for handle_id, cidrs in odd.items():
        found.findings += _look_again(store, found, handle_id, cidrs)
    return count


def _facts(record: Record, unreadable: Callable[[Torn], object]) -> list[tuple[str, str, int]]:
    """Return what a handle says it holds; a handle of nothing says so of no block."""
    try:
        handle = handle_of(record)
    except Corrupt as error:
        unreadable(Torn(record.key, "", str(error)))
        return []
    name = record.key[len(keys.HANDLES) :]
    return [(name, cidr, count) for cidr, count in handle.blocks.items()] or [(name, "", 0)]


def _in_blocks(store: Store, missed: Missed, watch: Callable[..., Iterable[Any]], count: int) -> Iterator[Any]:
    """Yield the facts in blocks that no handle has."""
    for family in FAMILIES if missed else ():
        prefix = keys.blocks(family)
        for key in watch(store.keys(prefix), "Looking for missing handles", count):
            try:
                block = read(store, keys.block_cidr(key))
            except (Corrupt, BadRequest):
                continue
            counts = Counter(attribute.handle for _, attribute, _ in in_use(block)) if block else {}
            yield from (fact for handle, held in counts.items() if block
                        for fact in [(handle, block.cidr, held)] if handle is not None and fact in missed)


def _in_handles(store: Store, missed: Missed, watch: Callable[..., Iterable[Any]], count: int) -> Iterator[Any]:
    """Yield the facts in handles that no block has."""
    if missed:
        for record in watch(store.scan(keys.HANDLES, told_before), "Looking for orphaned handles", count):
            yield from (fact for fact in _facts(record, told_before) if fact in missed)


def _look_again(store: Store, found: Survey, handle_id: str, cidrs: Iterable[str]) -> Iterator[Finding]:
    with undisturbed(store):
        counted = count(store, handle_id, cidrs, found.doubtful)
    if counted is None:
        found.unread[handle_id] = set(cidrs)
        return
    told, held = _total(counted.told), _total(counted.held)
    if counted.revision is None and counted.held:
        yield Finding(HANDLE_MISSING, handle_id, f"blocks hold {held} for it, but it has no record", counted)
    elif counted.revision is not None and not counted.held and not counted.unclear:
        yield Finding(HANDLE_EMPTY, handle_id, f"it says {told}, but no block holds anything for it", counted)
    elif counted.told != counted.held:
        yield Finding(HANDLE_COUNT, handle_id, f"it says {told}, blocks hold {held}", counted)


def count(store: Store, handle_id: str, cidrs: Iterable[str], doubtful: Collection[str]) -> Counted | None:
    """Return what the handle and the blocks say of each other, None when the handle's record cannot be read.

    cidrs: blocks to look at besides those the handle names; doubtful: blocks whose content is not known.
    """
    try:
        record = store.get(keys.handle(handle_id))
        handle, revision = handle_of(record), record.revision
    except Missing:
        handle, revision = None, None
    except Corrupt:
        return None
    told = dict(handle.blocks) if handle else {}
    held = {cidr: None if cidr in doubtful else _held(store, cidr, handle_id, told.get(cidr, 0))
            for cidr in {*told, *cidrs} if cidr}
    unclear = {cidr: told.pop(cidr, 0) for cidr, number in held.items() if number is None}
    return Counted(handle_id, revision, told, {cidr: number for cidr, number in held.items() if number}, unclear)


def _held(store: Store, cidr: str, handle_id: str, told: int) -> int | None:
    """Return how many addresses a block holds for the handle, None when that cannot be told."""
    try:
        block = read(store, cidr)
    except Corrupt:
        return None
    except BadRequest:
        return 0
    held = len(held_of(block, handle_id)) if block else 0
    hidden = block and held < told and handle_id != UNKNOWN and held_of(block, UNKNOWN)
    return None if hidden else held


def _total(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} in {cidr}" for cidr, number in sorted(counts.items())) or "nothing"
