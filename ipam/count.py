"""Keeping a handle's count of a block equal to what the block holds.

Both are written in one commit wherever a block changes. What a death between the two left on a store that writes one
after the other is a count that is too high, and the next change of that block by that handle sets it right.
"""

from __future__ import annotations

from datastore import keys
from datastore.api import Change, Corrupt, Missing
from datastore.frozen import replace
from datastore.model import Handle, handle_json, handle_of
from ipam.cidr import parse_cidr
from ipam.errors import BadRequest
from ipam.handle import with_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.api import Record, Store
    from ipam.cidr import Cidr


def handle_blocks(store: Store, handle_id: str) -> list[Cidr]:
    """Return the blocks that the handle has addresses in; none when there is no such handle. Raises Corrupt."""
    try:
        record = store.get(keys.handle(handle_id))
    except Missing:
        return []
    try:
        return [parse_cidr(text) for text in handle_of(record).blocks]
    except BadRequest as error:
        raise Corrupt(f"record {record.key} names a block that is none: {error}; repair it") from error


def handle_record(store: Store, handle_id: str) -> Record | None:
    """Return the record of a handle, None when there is none."""
    try:
        return store.get(keys.handle(handle_id))
    except Missing:
        return None


def count_change(
    record: Record | None, handle_id: str, cidr: str, count: int, boot: str | None = None
) -> Change | None:
    """Return the write that makes the handle hold `count` addresses in the block; None only when it holds nothing yet.

    A handle that holds none at all is removed; one whose count is right is written all the same, so that another
    writer who has read it before fails. It must have been read before the block, if that is not written as well.
    boot: the one that an owner who gets addresses ends with, empty for one who does not; a handle that anybody of those
    has ends with none. Raises Corrupt.
    """
    old = handle_of(record) if record else Handle(handle_id, {}, boot=boot or "")
    new = with_count(old if boot is None else replace(old, boot=boot if old.boot else ""), cidr, count)
    if record is None and not new.blocks:
        return None
    return Change(keys.handle(handle_id), handle_json(new) if new.blocks else None, record.revision if record else None)
