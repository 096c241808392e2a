"""Cutting a pool into equal smaller ones under its addresses (Calico: calicoctl commands/ipam/split.go).

Blocks know no pool, so they and what is allocated in them go on as before: each lies in one of the parts. The order of
the writes is Calico's: disable the pool, create the parts, remove the pool. So a run that was killed is finished by
another: it finds the pool disabled, and of the parts those that it had made. Parts are created some at a time, as a
transaction of etcd holds 128 changes and 1.5 MB at most.
"""

from __future__ import annotations

import time
from contextlib import suppress

from datastore import keys
from datastore.api import Change, Missing
from datastore.frozen import frozen
from datastore.resources import pool_of
from ipam.cidr import Cidr, parse_cidr
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from datastore.api import Json, Record, Store
    from datastore.resources import Pool

MOST_PARTS = 1024  # ours: each is a record that every assignment reads
BATCH = 32  # parts that are written at a time
LONGEST_NAME = 253  # characters of a resource's name (RFC 1123 subdomain, as Kubernetes limits it)
OF_THE_OLD = ("resourceVersion", "generation", "generateName", "selfLink", "managedFields")


@frozen
class Part:
    """One of the pools that a pool is cut into."""

    name: str
    cidr: Cidr


def split(store: Store, wanted: str, parts: int) -> tuple[Pool, list[Part]]:
    """Cut the pool of this name or CIDR into `parts` pools with its settings, enabled; return it and them.

    Every other writer of the datastore, of one in etcd every other one of this node, waits meanwhile. Raises
    BadRequest, before anything is changed, when the pool cannot be cut so; Conflict, when another node's writer has
    changed something between two of the writes: run it again; Corrupt, Busy, Unwritable.
    """
    with store.exclusive():
        record = _find(store, wanted)
        pool = pool_of(record)
        made = cut(pool, parts)
        _check_blocks(store, pool, made[0].cidr.prefix)
        missing = list(_missing(store, pool, made))
        disabled = store.update(record.key, _disabled(record.value), record.revision)
        for at in range(0, len(missing), BATCH):
            store.commit(*(Change(keys.ippool(part.name), _resource(record.value, part), None)
                           for part in missing[at : at + BATCH]))
        store.delete(record.key, disabled.revision)
    return pool, made


def cut(pool: Pool, parts: int) -> list[Part]:
    """Return the parts of a pool, named as Calico names them. Raises BadRequest."""
    whole = parse_cidr(pool.cidr)
    if not 2 <= parts <= MOST_PARTS or parts & (parts - 1):
        raise BadRequest(f"a pool is split into a power of two of parts, from 2 to {MOST_PARTS}, not {parts}")
    prefix = whole.prefix + parts.bit_length() - 1
    if prefix > pool.block_size:
        raise BadRequest(f"pool {pool.name} {pool.cidr} has blocks of /{pool.block_size} and cannot be split into "
                         f"{parts} pools of /{prefix}: a part must hold a block; ask for fewer parts")
    size = whole.size // parts
    stem = f"split-{pool.name}"[: LONGEST_NAME - len(f"-{parts - 1}")]
    return [Part(f"{stem}-{at}", Cidr(whole.family, whole.first + at * size, prefix)) for at in range(parts)]


def _find(store: Store, wanted: str) -> Record:
    """Return the record of the pool with this name or CIDR; raises BadRequest."""
    records = list(store.records(keys.IPPOOLS))
    pools = [pool_of(record) for record in records]
    for record, pool in zip(records, pools, strict=True):
        if wanted in (pool.name, pool.cidr):
            return record
    known = ", ".join(f"{pool.name} {pool.cidr}" for pool in pools) or "none"
    raise BadRequest(f'IP pool "{wanted}" does not exist; the pools are: {known}')


def _check_blocks(store: Store, pool: Pool, prefix: int) -> None:
    """Raise BadRequest when a block, cut when the pool had larger ones, would lie in several parts."""
    whole = parse_cidr(pool.cidr)
    for cidr in _blocks(store.keys(keys.blocks(whole.family))):
        if cidr.overlaps(whole) and cidr.prefix < prefix:
            raise BadRequest(f"block {cidr} of pool {pool.name} is larger than a part (/{prefix}); ask for fewer parts")


def _blocks(names: Iterable[str]) -> Iterator[Cidr]:
    for key in names:
        with suppress(BadRequest):  # a record that is named after no CIDR is no block
            yield parse_cidr(keys.block_cidr(key))


def _missing(store: Store, pool: Pool, parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the parts that an earlier run has not made; raises BadRequest when another pool has a part's name."""
    for part in parts:
        try:
            present = pool_of(store.get(keys.ippool(part.name)))
        except Missing:
            yield part
            continue
        if present.cidr != str(part.cidr):
            raise BadRequest(f"pool {present.name} {present.cidr} has the name of the part {part.cidr} of {pool.name}; "
                             "if a split into another number of parts was interrupted, ask for that number")


def _disabled(value: Json) -> Json:
    return {**value, "spec": {**value["spec"], "disabled": True}}


def _resource(value: Json, part: Part) -> Json:
    """Return the part's resource: all of the pool's but what is the pool's own, its identity and its status."""
    from uuid import uuid4

    metadata = {name: item for name, item in value["metadata"].items() if name not in OF_THE_OLD}
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        **{name: item for name, item in value.items() if name != "status"},
        "metadata": {**metadata, "name": part.name, "uid": str(uuid4()), "creationTimestamp": created},
        "spec": {**value["spec"], "cidr": str(part.cidr), "disabled": False},
    }
