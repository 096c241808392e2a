"""How full the address pools are, as Prometheus reads it. Names and labels are those of Calico's kube-controllers
(docs.tigera.io, "Prometheus metrics"), where they mean the same.
"""

from __future__ import annotations

import time
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from datastore.api import StoreError
from ipam.errors import IpamError
from ipam.pool import all_pools
from ipam.reservation import reserved_ranges
from ipam.utilization import all_blocks, blocks_of, node_of, utilization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.core import Metric

    from datastore.api import Store
    from ipam.utilization import BlockUsage, Utilization

FAMILIES = (4, 6)
FRESH = 15.0  # seconds that an answer is given again
SPARING = 20  # and as many times as long as it took to read it: a twentieth of the time is spent on it, at most
MOST_BLOCKS = 1024  # that are told one by one
NO_POOL = "no_ippool"  # Calico: kube-controllers pkg/controllers/node/pool_manager.go


class Usage:
    """A collector of what the datastore holds. A datastore that cannot be read is told as `calico_ipam_readable 0`.

    open_store: the store, and the node whose blocks alone are told of, empty for all.
    """

    def __init__(
        self, open_store: Callable[[], tuple[Store, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_store, self._clock, self._lock = open_store, clock, Lock()
        self._metrics: Sequence[Metric] = ()
        self._stale_at = 0.0

    def describe(self) -> Iterable[Metric]:
        """Return the names, without a look at the datastore."""
        return _families()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are, or were some seconds ago."""
        with self._lock:
            begun = self._clock()
            if not self._metrics or begun >= self._stale_at:
                self._metrics = self._read()
                ended = self._clock()
                self._stale_at = ended + max(FRESH, SPARING * (ended - begun))
            return self._metrics

    def _read(self) -> Sequence[Metric]:
        families = _families()
        readable, *rest = families
        try:
            _fill(rest, _usage(*self._open_store()))
        except (StoreError, IpamError, OSError):
            readable.add_metric((), 0)
            return [readable]
        readable.add_metric((), 1)
        return families


def _usage(store: Store, node: str) -> Utilization:
    pools = sorted((pool for family in FAMILIES for pool in all_pools(store, family)), key=lambda pool: pool.name)
    reserved = [cidr for family in FAMILIES for cidr in reserved_ranges(store, family)]
    blocks = blocks_of(store, node) if node else (block for family in FAMILIES for block in all_blocks(store, family))
    return utilization(pools, reserved, blocks)


def _families() -> list[GaugeMetricFamily]:
    pool, place = ("ippool",), ("ippool", "block", "node")
    return [
        GaugeMetricFamily("calico_ipam_readable", "Whether the datastore could be read; 0: the others are missing."),
        GaugeMetricFamily("ipam_ippool_size", "Addresses of the pool's CIDR.", labels=pool),
        GaugeMetricFamily("ipam_allocations_in_use", "Addresses in use, also those that cool down.", labels=pool),
        GaugeMetricFamily("ipam_blocks", "Blocks cut from the pool.", labels=pool),
        GaugeMetricFamily("calico_ipam_block_allocations_in_use",
                          f"Addresses in use of a block; of the first {MOST_BLOCKS} blocks.", labels=place),
    ]


def _fill(families: list[GaugeMetricFamily], found: Utilization) -> None:
    size, in_use, blocks, of_block = families
    for pool in found.pools:
        size.add_metric((pool.name,), pool.total)
        in_use.add_metric((pool.name,), pool.in_use)
        blocks.add_metric((pool.name,), len(pool.blocks))
    if found.without_pool:
        in_use.add_metric((NO_POOL,), sum(block.in_use for block in found.without_pool))
        blocks.add_metric((NO_POOL,), len(found.without_pool))
    for name, block in islice(_blocks(found), MOST_BLOCKS):
        of_block.add_metric((name, block.cidr, node_of(block.affinity) or ""), block.in_use)


def _blocks(found: Utilization) -> Iterator[tuple[str, BlockUsage]]:
    yield from ((pool.name, block) for pool in found.pools for block in pool.blocks)
    yield from ((NO_POOL, block) for block in found.without_pool)
