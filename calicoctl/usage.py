"""How full pools and blocks are, as `ipam show` tells it: totals over the pool's CIDR, use over its blocks.

Calico: GetUtilization (libcalico-go lib/ipam/ipam.go). An address that cools down after its release counts as in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import netaddr

from calicoctl.table import number, printable, render, share
from datastore.frozen import frozen
from ipam.pool import all_pools
from ipam.usage import block_usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from datastore.api import Json, Store
    from ipam.usage import BlockUsage

HEADER = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE")
NUMBERS = range(2, len(HEADER))
FAMILIES = (4, 6)


@frozen
class Row:
    """One line: a pool or a block and its counts. No address is reserved until there are IPReservations."""

    grouping: str
    cidr: str
    total: int
    in_use: int
    reserved: int = 0

    @property
    def free(self) -> int:
        """Addresses that are neither in use nor reserved."""
        return self.total - self.in_use - self.reserved

    def cells(self) -> tuple[str, ...]:
        """Return the line as the table has it."""
        counts = [share(count, self.total) for count in (self.in_use, self.reserved, self.free)]
        return (self.grouping, printable(self.cidr), number(self.total), *counts)

    def json(self) -> Json:
        """Return the line as `-o json` has it."""
        return {"cidr": self.cidr, "total": self.total, "inUse": self.in_use, "reserved": self.reserved,
                "free": self.free}


@frozen
class PoolUse:
    """A pool and the blocks that lie in it."""

    name: str
    row: Row
    blocks: tuple[BlockUsage, ...]


@frozen
class Utilization:
    """Every pool, in name order, and the blocks that lie in none."""

    pools: tuple[PoolUse, ...]
    without_pool: tuple[BlockUsage, ...]


def utilization(store: Store) -> Utilization:
    """Return how full everything is; reads each record once. Raises Corrupt."""
    pools = sorted((pool for family in FAMILIES for pool in all_pools(store, family)), key=lambda pool: pool.name)
    left = [(netaddr.IPNetwork(block.cidr), block) for family in FAMILIES for block in block_usage(store, family)]
    uses = []
    for pool in pools:
        network = netaddr.IPNetwork(pool.cidr)
        inside = tuple(block for cidr, block in left if cidr in network)
        left = [(cidr, block) for cidr, block in left if cidr not in network]
        row = Row("IP Pool", pool.cidr, network.size, sum(block.in_use for block in inside))
        uses.append(PoolUse(pool.name, row, inside))
    return Utilization(tuple(uses), tuple(block for _, block in left))


def as_table(found: Utilization, show_blocks: bool) -> str:
    """Return Calico's table: a row for each pool and, if wanted, each of its blocks, then blocks of no pool."""
    return table(_rows(found, show_blocks))


def table(rows: Iterable[Row]) -> str:
    """Return rows under Calico's header, numbers on the right."""
    return render(HEADER, [row.cells() for row in rows], NUMBERS)


def as_json(found: Utilization) -> Json:
    """Return everything, blocks included, as docs/calicoctl.md documents it."""
    pools = [{"name": pool.name, **pool.row.json(), "blocks": list(map(_block_json, pool.blocks))}
             for pool in found.pools]
    return {"pools": pools, "blocksWithoutPool": list(map(_block_json, found.without_pool))}


def _rows(found: Utilization, show_blocks: bool) -> Iterator[Row]:
    for pool in found.pools:
        yield pool.row
        if show_blocks:
            yield from map(_block_row, pool.blocks)
    if show_blocks:
        yield from map(_block_row, found.without_pool)


def _block_row(block: BlockUsage) -> Row:
    return Row("Block", block.cidr, block.total, block.in_use)


def _block_json(block: BlockUsage) -> Json:
    return {**_block_row(block).json(), "affinity": block.affinity}
