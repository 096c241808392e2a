"""Which blocks a node has: claiming one in Calico's three writes, and giving it up in three, each to be carried on.

An affinity is `pending` before the block exists, `confirmed` after, and `pendingDeletion` while it is given up
(libcalico-go lib/ipam/ipam_block_reader_writer.go). A death between two writes leaves a state that the next claim or
release of the same block takes to its end.
"""

from __future__ import annotations

import time
from contextlib import suppress

from datastore import keys
from datastore.api import Change, Conflict, Corrupt, Exists, Missing
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
    handle_of,
)
from ipam.block import check, host_affinity, new_block
from ipam.cidr import BITS, Cidr, parse_cidr
from ipam.cooldown import settled
from ipam.errors import BadRequest, Contended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from datastore.api import Json, Record, Store
    from datastore.model import Block
    from datastore.resources import Pool

Stored = tuple["Block", int]
ATTEMPTS = 100  # Calico: datastoreRetries
CLAIM_TIME = "affinity_claim_time"
OPEN_STATES = (PENDING, PENDING_DELETION)


def own_blocks(store: Store, node: str, family: int) -> list[Cidr]:
    """Return the CIDRs the node has, was claiming or was giving up when it died, in key order."""
    return list(cidrs_of(store.keys(keys.affinities(node, family))))


def block_cidrs(store: Store, family: int) -> list[Cidr]:
    """Return the CIDRs of all blocks there are, in key order, without reading them."""
    return list(cidrs_of(store.keys(keys.blocks(family))))


def cidrs_of(names: Iterable[str]) -> Iterator[Cidr]:
    """Yield the CIDRs that keys end with; a record that is named after none is no block, and nobody will read it."""
    for key in names:
        with suppress(BadRequest):
            yield parse_cidr(keys.block_cidr(key))


class Present:
    """The blocks there are, to be asked which others would share an address with one: a pool may have been remade."""

    def __init__(self, store: Store, family: int) -> None:
        self._keys = set(store.keys(keys.blocks(family)))
        self._sizes = {key.rpartition("-")[2] for key in self._keys}
        self._ranges: list[Cidr] | None = None

    def at(self, cidr: Cidr) -> Cidr | None:
        """Return the block that shares an address with the range: the very one, else any; None when there is none."""
        if keys.block(cidr.family, str(cidr)) in self._keys:
            return cidr
        if self._sizes <= {str(cidr.prefix)}:
            return None
        if self._ranges is None:
            self._ranges = list(cidrs_of(self._keys))
        return next((other for other in self._ranges if other.overlaps(cidr)), None)


def read_block(store: Store, cidr: Cidr) -> Stored | None:
    """Return a sound block and its revision, or None; raises Corrupt."""
    try:
        record = store.get(keys.block(cidr.family, str(cidr)))
    except Missing:
        return None
    return check(block_of(record)), record.revision


def block_with_room(store: Store, cidr: Cidr) -> Stored | None:
    """Return a sound block as `read_block` does, but None for one that says that it is full."""
    try:
        record = store.get(keys.block(cidr.family, str(cidr)))
    except Missing:
        return None
    return None if block_is_full(record) else (check(block_of(record)), record.revision)


def is_full(store: Store, cidr: Cidr, node: str) -> bool:
    """Tell cheaply whether a block is the node's and has no free address: most blocks of a busy node are."""
    try:
        record = store.get(keys.block(cidr.family, str(cidr)))
    except Missing:
        return False
    return record.value.get("affinity") == host_affinity(node) and block_is_full(record)


def claim(
    store: Store, node: str, cidr: Cidr, fits: Callable[[], bool] = lambda: True, pool: Pool | None = None
) -> Stored | None:
    """Make the block the node's, carrying on from where an earlier claim stopped; None when it is somebody else's.

    `fits` is asked before a block is made; where it does not, the claim is dropped, and the answer is None as well.
    A block is made only as long as the pool is as it was read: one made anew may cut other blocks in its place.
    Raises Conflict, Exists or Missing when another writer was faster: try again.
    """
    pending = _pending(store, node, cidr)
    stored = read_block(store, cidr)
    if stored is None and affinity_of(pending).state == CONFIRMED:
        _require_unused(store, cidr)
    if stored is None and fits():
        return _create(store, node, cidr, pending, pool)
    if stored is None or stored[0].affinity != host_affinity(node):
        store.delete(pending.key, pending.revision)
        return None
    if affinity_of(pending).state != CONFIRMED:
        store.update(pending.key, _confirmed(pending), pending.revision)
    return stored


def _require_unused(store: Store, cidr: Cidr) -> None:
    """Raise Corrupt when a block that was there is gone, but handles say that addresses of it are in use.

    That is a look at every handle, for what never happens: a block and its confirmed affinity come and go together.
    """
    for record in store.records(keys.HANDLES):
        if str(cidr) in handle_of(record).blocks:
            raise Corrupt(f"block {cidr} is gone, but {record.key} has addresses of it in use; "
                          "`calicoctl ipam check --repair` makes it anew")


def _pending(store: Store, node: str, cidr: Cidr) -> Record:
    """Return the affinity's record, made if there is none; one that is being given up is taken back."""
    key = keys.affinity(node, cidr.family, str(cidr))
    try:
        record = store.get(key)
    except Missing:
        return store.create(key, affinity_json(Affinity(PENDING)))
    affinity = affinity_of(record)
    if affinity.state == PENDING_DELETION:
        return store.update(key, affinity_json(replace(affinity, state=PENDING)), record.revision)
    return record


def _create(store: Store, node: str, cidr: Cidr, pending: Record, pool: Pool | None) -> Stored | None:
    """Make the block, and confirm the affinity if nobody has touched it meanwhile: no block is without one."""
    now = time.time_ns()
    block = new_block(cidr, node, now, _told(now))
    same = [Change(keys.ippool(pool.name), None, pool.revision, keep=True)] if pool and pool.revision else []
    store.commit(*same, Change(keys.block(cidr.family, str(cidr)), block_json(block), None),
                 Change(pending.key, _confirmed(pending), pending.revision))
    stored = read_block(store, cidr)
    return stored if stored and stored[0].affinity == host_affinity(node) else None


def take_over(store: Store, node: str, block: Block, revision: int) -> Stored | None:
    """Make an empty block of another node, or of nobody, the node's; at no time is it neither's.

    Raises Conflict, Exists or Missing when another writer was faster.
    """
    cidr, now = parse_cidr(block.cidr), time.time_ns()
    made = new_block(cidr, node, now, _told(now))
    owner = (block.affinity or "").partition(":")[2]
    store.commit(
        _claimed(store, keys.affinity(node, cidr.family, block.cidr)),
        Change(keys.block(cidr.family, block.cidr), block_json(replace(made, extra={**block.extra, **made.extra})),
               revision),
        *(_dropped(store, keys.affinity(owner, cidr.family, block.cidr)) if owner else ()),
    )
    return read_block(store, cidr)


def _claimed(store: Store, key: str) -> Change:
    """Return the write of a confirmed affinity."""
    try:
        record = store.get(key)
    except Missing:
        return Change(key, affinity_json(Affinity(CONFIRMED)), None)
    return Change(key, _confirmed(record), record.revision)


def _dropped(store: Store, key: str) -> list[Change]:
    """Return the removal of an affinity, if there is one."""
    try:
        return [Change(key, None, store.get(key).revision)]
    except Missing:
        return []


def _told(moment: int) -> str:
    """Return a time (ns since 1970) as a block says since when it has been a node's."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment // 10**9))


def _confirmed(record: Record) -> Json:
    return affinity_json(replace(affinity_of(record), state=CONFIRMED))


def claim_range(store: Store, node: str, within: Cidr, block_size: int) -> tuple[list[Cidr], list[Cidr]]:
    """Claim every block of a range; return those that are the node's now, and those that others have.

    Raises BadRequest when the range is smaller than a block (Calico: ClaimAffinity), Contended.
    """
    if within.prefix > block_size:
        raise BadRequest(f"{within} is smaller than a block (/{block_size})")
    claimed: list[Cidr] = []
    failed: list[Cidr] = []
    with store.exclusive():
        present = Present(store, within.family)
        for first in range(within.first, within.last + 1, 1 << (BITS[within.family] - block_size)):
            cidr = Cidr(within.family, first, block_size)
            free = present.at(cidr) in (None, cidr)
            (claimed if free and _claim_surely(store, node, cidr) else failed).append(cidr)
    return claimed, failed


def _claim_surely(store: Store, node: str, cidr: Cidr) -> bool:
    for _ in range(ATTEMPTS):
        try:
            return claim(store, node, cidr) is not None
        except (Conflict, Exists, Missing):
            continue
    raise Contended(f"block {cidr} kept changing under {ATTEMPTS} attempts to claim it; try again")


def give_up(store: Store, node: str, cidr: Cidr, require_empty: bool = False, cooldown: int = 0) -> bool:
    """Take a block from a node: an empty one is removed, another is nobody's from then on. Tell whether it was done.

    With require_empty a block that has an address in use or at rest stays the node's. An affinity whose block is gone
    or another's is stale and removed. Raises Contended, Corrupt.
    """
    for _ in range(ATTEMPTS):
        try:
            return _give_up(store, node, cidr, require_empty, cooldown)
        except (Conflict, Exists, Missing):
            continue
    raise Contended(f"block {cidr} kept changing under {ATTEMPTS} attempts to take it from node {node}; try again")


def _give_up(store: Store, node: str, cidr: Cidr, require_empty: bool, cooldown: int) -> bool:
    key = keys.affinity(node, cidr.family, str(cidr))
    try:
        record = store.get(key)
    except Missing:
        return False
    stored = read_block(store, cidr)
    if stored is None or stored[0].affinity != host_affinity(node):
        store.delete(key, record.revision)
        return True
    block, revision = settled(stored[0], cooldown), stored[1]
    if block.attributes and require_empty:
        if affinity_of(record).state != CONFIRMED:
            store.update(key, _confirmed(record), record.revision)
        return False
    leaving = store.update(key, affinity_json(replace(affinity_of(record), state=PENDING_DELETION)), record.revision)
    disown(store, block, revision)
    store.delete(key, leaving.revision)
    return True


def disown(store: Store, block: Block, revision: int) -> None:
    """Make a block nobody's; an empty one is removed. Raises Conflict, Missing."""
    key = keys.block(parse_cidr(block.cidr).family, block.cidr)
    if not block.attributes:
        store.delete(key, revision)
        return
    extra = {name: value for name, value in block.extra.items() if name != CLAIM_TIME}
    store.update(key, block_json(replace(block, affinity=None, sequence=block.sequence + 1, extra=extra)), revision)
