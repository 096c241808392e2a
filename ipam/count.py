"""Keeping a handle's count of a block equal to what the block holds."""

from __future__ import annotations

from datastore import keys
from datastore.api import Conflict, Corrupt, Exists, Missing
from datastore.model import Handle, handle_json, handle_of
from ipam.cidr import parse_cidr
from ipam.errors import BadRequest, Contended
from ipam.handle import with_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.api import Store
    from ipam.cidr import Cidr

ATTEMPTS = 100  # Calico: datastoreRetries


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


def set_count(store: Store, handle_id: str, cidr: str, count: int) -> None:
    """Record that the handle holds `count` addresses in the block; a handle that holds none at all is removed.

    Raises Contended when other writers never let it through.
    """
    key = keys.handle(handle_id)
    for _ in range(ATTEMPTS):
        try:
            record = store.get(key)
        except Missing:
            record = None
        old = handle_of(record) if record else Handle(handle_id, {})
        new = with_count(old, cidr, count)
        try:
            if record is None:
                if new.blocks:
                    store.create(key, handle_json(new))
            elif not new.blocks:
                store.delete(key, record.revision)
            elif new != old:
                store.update(key, handle_json(new), record.revision)
        except (Conflict, Exists, Missing):
            continue
        return
    raise Contended(f"handle {handle_id} kept changing under {ATTEMPTS} attempts to write it; try again")
