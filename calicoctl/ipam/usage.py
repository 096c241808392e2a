"""How full pools and blocks are, as `ipam show` tells it (ipam/utilization.py counts)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calicoctl.progress import FAMILIES, every_block
from calicoctl.table import number, printable, render, share
from ipam.pool import all_pools
from ipam.reservation import reserved_ranges
from ipam.utilization import utilization

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from datastore.api import Json, Store
    from datastore.resources import Pool
    from ipam.cidr import Cidr
    from ipam.utilization import BlockUsage, PoolUsage, Utilization

HEADER = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE")
NUMBERS = range(2, len(HEADER))


def every_pool(store: Store) -> list[Pool]:
    """Return the pools of both families in name order. Raises Corrupt."""
    return sorted((pool for family in FAMILIES for pool in all_pools(store, family)), key=lambda pool: pool.name)


def every_reservation(store: Store) -> list[Cidr]:
    """Return the reserved ranges of both families. Raises Corrupt."""
    return [cidr for family in FAMILIES for cidr in reserved_ranges(store, family)]


def usage(store: Store) -> Utilization:
    """Return how full everything is; reads each record once. Raises Corrupt."""
    return utilization(every_pool(store), every_reservation(store), every_block(store))


def as_table(found: Utilization, show_blocks: bool) -> str:
    """Return Calico's table: a row for each pool and, if wanted, each of its blocks, then blocks of no pool."""
    return table(_rows(found, show_blocks))


def table(rows: Iterable[tuple[str, PoolUsage | BlockUsage]]) -> str:
    """Return counts, each with what they are of, under Calico's header, numbers on the right."""
    return render(HEADER, [_cells(grouping, row) for grouping, row in rows], NUMBERS)


def as_json(found: Utilization) -> Json:
    """Return everything, blocks included, as docs/calicoctl.md documents it."""
    pools = [{"name": pool.name, **_counts(pool), "blocks": list(map(block_json, pool.blocks))} for pool in found.pools]
    return {"pools": pools, "blocksWithoutPool": list(map(block_json, found.without_pool))}


def block_json(block: BlockUsage) -> Json:
    """Return one block as docs/calicoctl.md documents it."""
    return {**_counts(block), "coolingDown": block.cooling, "borrowed": block.borrowed, "affinity": block.affinity}


def _rows(found: Utilization, show_blocks: bool) -> Iterator[tuple[str, PoolUsage | BlockUsage]]:
    for pool in found.pools:
        yield "IP Pool", pool
        if show_blocks:
            yield from (("Block", block) for block in pool.blocks)
    if show_blocks:
        yield from (("Block", block) for block in found.without_pool)


def _cells(grouping: str, row: PoolUsage | BlockUsage) -> tuple[str, ...]:
    counts = (share(count, row.total) for count in (row.in_use, row.reserved, row.free))
    return (grouping, printable(row.cidr), number(row.total), *counts)


def _counts(row: PoolUsage | BlockUsage) -> Json:
    return {"cidr": row.cidr, "total": row.total, "inUse": row.in_use, "reserved": row.reserved, "free": row.free}
