"""Which blocks a node has: claiming one in Calico's three writes, so that a death between them can be carried on.

An affinity is `pending` before the block exists and `confirmed` after (libcalico-go
lib/ipam/ipam_block_reader_writer.go).
"""

from __future__ import annotations

import time
from contextlib import suppress

from datastore import keys
from datastore.api import Exists, Missing
from datastore.frozen import replace
from datastore.model import (
    CONFIRMED,
    PENDING,
    PENDING_DELETION,
    Affinity,
    affinity_json,
    affinity_of,
    block_is_full,
    block_json,
    block_of,
)
from ipam.block import check, host_affinity, new_block
from ipam.cidr import block_at, parse_cidr
from ipam.errors import BadRequest
from ipam.pool import blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from datastore.api import Record, Store
    from datastore.model import Block
    from datastore.resources import Pool
    from ipam.cidr import Cidr

Stored = tuple["Block", int]


def own_blocks(store: Store, node: str, family: int) -> Iterator[Cidr]:
    """Yield the CIDRs the node has or was claiming when it died, in key order."""
    yield from _cidrs(store.keys(keys.affinities(node, family)))


def block_cidrs(store: Store, family: int) -> set[Cidr]:
    """Return the CIDRs of all blocks there are, without reading them."""
    return set(_cidrs(store.keys(keys.blocks(family))))


def unclaimed(store: Store, family: int, pools: Sequence[Pool]) -> Iterator[Cidr]:
    """Yield the blocks that share no address with any there is, also of another size: a pool may have been remade."""
    present = block_cidrs(store, family)
    sizes = {cidr.prefix for cidr in present}
    for pool in pools:
        size = pool.block_size
        within = {block_at(cidr.address(0), size) for cidr in present if cidr.prefix >= size}
        around = [prefix for prefix in sizes if prefix < size]
        for cidr in blocks(pool):
            if cidr not in within and not any(block_at(cidr.address(0), prefix) in present for prefix in around):
                yield cidr


def _cidrs(names: Iterable[str]) -> Iterator[Cidr]:
    """Yield the CIDRs that keys end with; a record that is named after none is no block, and nobody will read it."""
    for key in names:
        with suppress(BadRequest):
            yield parse_cidr(keys.block_cidr(key))


def read_block(store: Store, cidr: Cidr) -> Stored | None:
    """Return a sound block and its revision, or None; raises Corrupt."""
    try:
        record = store.get(keys.block(cidr.family, str(cidr)))
    except Missing:
        return None
    return check(block_of(record)), record.revision


def is_full(store: Store, cidr: Cidr) -> bool:
    """Tell cheaply whether a block is there and has no free address: a node with many pods has many such blocks."""
    try:
        return block_is_full(store.get(keys.block(cidr.family, str(cidr))))
    except Missing:
        return False


def claim(store: Store, node: str, cidr: Cidr) -> Stored | None:
    """Make the block the node's, carrying on from where an earlier claim stopped; None when it is somebody else's."""
    pending = _pending(store, node, cidr)
    affinity = affinity_of(pending)
    if affinity.state == PENDING_DELETION:
        return None
    stored = read_block(store, cidr) or _create(store, node, cidr)
    if stored[0].affinity != host_affinity(node):
        store.delete(pending.key, pending.revision)
        return None
    if affinity.state != CONFIRMED:
        store.update(pending.key, affinity_json(replace(affinity, state=CONFIRMED)), pending.revision)
    return stored


def _pending(store: Store, node: str, cidr: Cidr) -> Record:
    key = keys.affinity(node, cidr.family, str(cidr))
    try:
        return store.get(key)
    except Missing:
        return store.create(key, affinity_json(Affinity(PENDING)))


def _create(store: Store, node: str, cidr: Cidr) -> Stored:
    now = time.time_ns()
    claimed_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now // 10**9))
    block = new_block(cidr, node, now, claimed_at)
    try:
        return block, store.create(keys.block(cidr.family, str(cidr)), block_json(block)).revision
    except Exists:
        record = store.get(keys.block(cidr.family, str(cidr)))
        return check(block_of(record)), record.revision
