"""Collecting what nobody comes back for: rested addresses, empty blocks that no node has, handles without an address.

An assignment frees rested addresses of the block that it takes from; blocks that no node has are not taken from first
(Calico: GarbageCollectColdIPs). A handle is written before the block, and stays alone where that was cut off.
"""

from __future__ import annotations

from contextlib import suppress

from datastore import keys
from datastore.api import Conflict, Corrupt, Missing
from datastore.model import block_json, block_of, handle_of
from ipam import configuration
from ipam.block import check
from ipam.cooldown import settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from datastore.api import Record, Store
    from ipam.cidr import Cidr


def collect(store: Store) -> int:
    """Free rested addresses, remove empty blocks of no node and idle handles; return how many blocks were changed.

    Damaged blocks, and those that others are writing, are passed over. Raises Unwritable, Busy.
    """
    with store.exclusive():
        _drop_idle_handles(store)
        return _collect_all(store, (key for family in (4, 6) for key in store.keys(keys.blocks(family))))


def collect_blocks(store: Store, cidrs: Iterable[Cidr]) -> int:
    """Do the same to these blocks alone, not to handles. Raises Unwritable, Busy."""
    with store.exclusive():
        return _collect_all(store, (keys.block(cidr.family, str(cidr)) for cidr in cidrs))


def _collect_all(store: Store, names: Iterable[str]) -> int:
    changed = 0
    try:
        seconds = configuration.load(store).cooldown_seconds
    except Corrupt:
        return 0  # how long a rest is, is not known
    for key in names:
        with suppress(Conflict, Missing, Corrupt):
            changed += _collect(store, store.get(key), seconds)
    return changed


def _drop_idle_handles(store: Store) -> None:
    """Remove the handles that no block names, unless they name one that is lost; none where a block cannot be read.

    They are listed before the blocks are read: one that is made meanwhile, with its block, is not among them.
    """
    from ipam.audit.survey import UNKNOWN  # for GC and repair only

    idle, present = set(store.keys(keys.HANDLES)), set()
    for family in (4, 6):
        for key in store.keys(keys.blocks(family)):
            try:
                block = block_of(store.get(key))
            except Missing:
                continue
            except Corrupt:
                return
            holders = {owner.handle for owner in block.attributes if owner.handle}
            idle -= set(map(keys.handle, holders))
            if UNKNOWN not in holders:  # else any handle may have some of those
                present.add(block.cidr)
    for key in sorted(idle):
        with suppress(Conflict, Missing, Corrupt):
            record = store.get(key)
            if handle_of(record).blocks.keys() <= present:
                store.delete(key, record.revision)


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
