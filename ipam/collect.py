"""Collecting what nobody comes back for: addresses whose rest is over, and empty blocks that no node has.

An assignment frees rested addresses of the block that it takes from; blocks that no node has are not taken from first
(Calico: GarbageCollectColdIPs).
"""

from __future__ import annotations

from contextlib import suppress

from datastore import keys
from datastore.api import Conflict, Corrupt, Missing
from datastore.model import block_json, block_of
from ipam import configuration
from ipam.block import check
from ipam.cooldown import settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.api import Record, Store


def collect(store: Store) -> int:
    """Free rested addresses and remove empty blocks of no node; return how many blocks were changed.

    Damaged blocks, and those that others are writing, are passed over. Raises Unwritable, Busy.
    """
    changed = 0
    with store.exclusive():
        try:
            seconds = configuration.load(store).cooldown_seconds
        except Corrupt:
            return 0  # how long a rest is, is not known
        for family in (4, 6):
            for key in store.keys(keys.blocks(family)):
                with suppress(Conflict, Missing, Corrupt):
                    changed += _collect(store, store.get(key), seconds)
    return changed


def _collect(store: Store, record: Record, seconds: int) -> bool:
    stored = check(block_of(record))
    block = settled(stored, seconds)
    if block.affinity is None and not block.attributes:
        store.delete(record.key, record.revision)
    elif block != stored:
        store.update(record.key, block_json(block), record.revision)
    else:
        return False
    return True
