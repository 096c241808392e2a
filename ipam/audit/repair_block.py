"""Making blocks anew: those that cannot be read, make no sense, are gone, or miss an address that a pod has."""

from __future__ import annotations

import time

from datastore import keys
from datastore.api import Corrupt, Missing, Torn
from datastore.frozen import frozen
from datastore.model import block_json, block_of
from ipam.audit.evidence import gather, node_of
from ipam.audit.finding import BLOCK_UNSOUND, UNALLOCATED
from ipam.audit.rebuild import Evidence, empty, rebuilt
from ipam.audit.survey import UNKNOWN
from ipam.block import check, host_affinity
from ipam.cidr import block_at, parse_cidr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from datastore.api import Store
    from datastore.model import Block
    from datastore.resources import Endpoint
    from ipam.audit.audit import Audit
    from ipam.audit.pods import Stray
    from ipam.audit.survey import Survey
    from ipam.cidr import Address
    from ipam.handle import Owner


@frozen
class Old:
    """A block's record as it is: what can be read of it, its revision if it is usable, and whether it is there."""

    block: Block | None
    revision: int | None
    there: bool


def repair_blocks(store: Store, last: Audit, owner_of: Callable[[Endpoint], Owner]) -> Iterator[str]:
    """Set right every block that can be, and say what was done. Raises Busy, Unwritable."""
    found = last.survey
    strays = {finding.detail.address: finding.detail for finding in last.findings if finding.kind == UNALLOCATED}
    unsound = {keys.block_cidr(finding.subject) for finding in last.findings if finding.kind == BLOCK_UNSOUND}
    homes = {cidr for stray in strays.values() for cidr in _block_for(found, stray)}
    wanted = found.doubtful | unsound | homes
    evidence = gather(store, found, wanted, owner_of) if wanted else {}
    for cidr in sorted(wanted):
        with store.exclusive():
            yield from _repair(store, found, cidr, evidence[cidr], strays)


def _block_for(found: Survey, stray: Stray) -> Iterator[str]:
    """Yield the block that an address without allocation lies in, or, for a pod of this node, should have lain in."""
    address, endpoint = stray.address, stray.endpoint
    present = found.block_at(address)
    if present:
        yield present
    elif endpoint is None or endpoint.node == found.living.node:
        size = next(size for pool, size in found.pools.items() if address in pool)
        cidr = block_at(address, size)
        if not any(parse_cidr(other).overlaps(cidr) for other in (*found.blocks, *found.doubtful)):
            yield str(cidr)


def _repair(
    store: Store, found: Survey, cidr: str, evidence: Evidence, strays: Collection[Address]
) -> Iterator[str]:
    """Write one block anew. A record that can be trusted gains those who were found without allocation, no others."""
    parsed, ours = parse_cidr(cidr), host_affinity(found.living.node)
    key = keys.block(parsed.family, cidr)
    old, node = _old(store, key), node_of(found, cidr)
    affinity = old.block.affinity if old.block else host_affinity(node) if node else None if old.there else ours
    trusted = old.revision is not None
    if not trusted and affinity not in (None, ours):
        return  # its own node knows more: its wires
    missed = {at: owner for at, owner in evidence.owners.items() if not trusted or parsed.address(at) in strays}
    complete = evidence.complete and (found.living.first or affinity == ours)
    evidence = Evidence(missed, evidence.handles, complete)
    block = rebuilt(parsed, affinity, old.block, trusted, evidence, time.time_ns())
    if not old.there and empty(block, evidence):
        yield from _forget_claims(store, found, cidr)
    elif not (old.block and trusted and _same(old.block, block)):
        _write(store, key, old, block)
        kept = _kept(block)
        yield (f"block {cidr} was {'set right' if old.block else 'made anew'}: {_in_use(block)} addresses in use"
               + (f", of which {kept} are kept, because nothing proves them free" if kept else ""))


def _old(store: Store, key: str) -> Old:
    try:
        record = store.get(key)
        block = block_of(record)
    except Missing:
        return Old(None, None, False)
    except Corrupt:
        return Old(None, None, True)
    try:
        return Old(check(block), record.revision, True)
    except Corrupt:
        return Old(block, None, True)


def _same(old: Block, new: Block) -> bool:
    return (old.allocations, old.unallocated, old.attributes) == (new.allocations, new.unallocated, new.attributes)


def _write(store: Store, key: str, old: Old, block: Block) -> None:
    if old.revision is not None:
        store.update(key, block_json(block), old.revision)
    elif old.there:
        store.mend(Torn(key, "", ""), block_json(block))
    else:
        store.create(key, block_json(block))


def _forget_claims(store: Store, found: Survey, cidr: str) -> Iterator[str]:
    """Remove the affinities of a block that is not there and has nobody; they are all that is left of it."""
    for node in found.claims.get(cidr, {}):
        key = keys.affinity(node, parse_cidr(cidr).family, cidr)
        try:
            store.delete(key, store.get(key).revision)
        except Missing:
            continue
        except Corrupt:
            store.mend(Torn(key, "", ""), None)
        yield f"affinity {key} was removed: its block is not there, and nobody has an address of it"


def _in_use(block: Block) -> int:
    return len(block.allocations) - len(block.unallocated)


def _kept(block: Block) -> int:
    unknown = {index for index, attribute in enumerate(block.attributes) if attribute.handle == UNKNOWN}
    return sum(index in unknown for index in block.allocations)
