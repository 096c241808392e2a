"""Assign and release where much is in use, and claiming a block where few are left, beside an etcd that is empty."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.etcd_fill import Bulk, fill, fill_beside
from bench.etcd_server import Server
from bench.etcd_trips import Allocator
from bench.etcd_wire import Request, Wire, told
from bench.fixture import Bar, Size, node_name
from bench.ground import BenchError, say
from bench.ipam_assign import pod
from bench.rows import Json, row
from cni_calico.node import boot_id
from datastore import keys
from datastore.model import IpamConfig
from ipam.affinity import give_up, own_blocks
from ipam.release import release

BAR = 1.3
CLAIM_POOL = "10.0.0.0/12"  # 16,384 blocks of /26
ADDRESSES_EACH = 8  # in use in each block of the nearly full pool
NODE_BLOCKS = 20  # Calico's limit
OWN = "own-block"  # a node that claims one for itself
MUCH = 10_000  # bytes


@dataclass
class Series:
    """One server seen from one node, and what it cost, ms. base: the series that it is compared with."""

    what: str
    server: Server
    node: str
    base: Series | None = None
    bar: float | None = None
    added: list[float] = field(default_factory=list)
    deleted: list[float] = field(default_factory=list)

    def pair(self, number: int) -> None:
        """Assign an address and release it."""
        allocator = Allocator(self.server, self.node)
        self.added.append(allocator.add(number))
        self.deleted.append(allocator.delete(number))

    @property
    def both(self) -> list[float]:
        """What assigning and releasing cost together."""
        return [one + other for one, other in zip(self.added, self.deleted, strict=True)]


@dataclass
class Filled:
    """A server with records, and what it took to write them: seconds, bytes and number of records, MB on disk."""

    server: Server
    seconds: float
    bulk: Bulk | None

    def rows(self, what: str) -> list[Json]:
        """Return what is in it."""
        if not self.bulk:
            return []
        return [
            row(f"{what}: writing it", [self.seconds], unit="s"),
            row(f"{what}: records", [self.bulk.records], unit=""),
            row(f"{what}: keys and values", [self.bulk.bytes / 1e6], unit="MB"),
            row(f"{what}: database", [self.server.megabytes()], unit="MB"),
        ]


@contextmanager
def filled(scratch: Path, name: str, size: Size) -> Iterator[Filled]:
    """Yield a server with so much in it. Raises FixtureError."""
    server, began = Server(scratch, name), time.monotonic()
    try:
        bulk = fill(server.url, replace(size, boot=boot_id()), Bar(f"{name}: {size.allocations:,} addresses"))
        yield Filled(server, time.monotonic() - began, bulk)
    finally:
        server.close()


def scale(scratch: Path, nodes: int, allocations: int, runs: int) -> list[Json]:
    """Return what assign and release cost beside so many allocations, and beside none."""
    crowded = Size(nodes, allocations)
    most = allocations // sum(blocks for blocks, _ in crowded.shares())
    with ExitStack() as ended:
        full = ended.enter_context(filled(scratch, "full", crowded))
        empty = ended.enter_context(filled(scratch, "empty", Size(1, 0, 1)))
        single = ended.enter_context(filled(scratch, "single", Size(1, most, 1)))
        beside = fill_beside(full.server.url, nodes)
        base = Series("empty", empty.server, OWN)
        alone = Series(f"only a block with {most} of 64 in use", single.server, node_name(0))
        series = [
            base,
            Series(f"{allocations:,} in use, a block of its own", full.server, OWN, base, BAR),
            alone,
            Series(f"{allocations:,} in use, a block with about {most} of 64", full.server, node_name(0), alone, BAR),
        ]
        say(f"assign and release: {runs} runs of {len(series)} in turn")
        measure(series, runs)
        other = row("full: records of nodes and host endpoints beside them", [beside.records], unit="")
        return [*pair_rows(series), *full.rows("full"), other]


def measure(series: Sequence[Series], runs: int) -> None:
    """Take every measurement, all series in turn, in another order each time; the first is not counted."""
    for number in range(runs + 1):
        for item in random.Random(number).sample(series, len(series)):
            item.pair(number)
    for item in series:
        del item.added[0], item.deleted[0]


def pair_rows(series: Sequence[Series]) -> list[Json]:
    """Return both together with the bar, then each."""
    found = []
    for what, name, is_barred in (("assign + release", "both", True), ("assign", "added", False),
                                  ("release", "deleted", False)):  # fmt: skip
        for item in series:
            base = item.base or item
            bar = item.bar if is_barred else None
            found.append(row(f"{what}, {item.what}", getattr(item, name), getattr(base, name), bar))
    return found


@dataclass
class Claims:
    """What a new node's first address cost on one server: ms, and on the wire requests and bytes received."""

    what: str
    server: Server
    times: list[float] = field(default_factory=list)
    requests: list[list[Request]] = field(default_factory=list)

    def time(self, number: int) -> None:
        """Claim a block for a new node, straight at the server; let the node be forgotten then."""
        self.times.append(self._claim(number, ""))

    def count(self, number: int) -> None:
        """Do the same through a proxy that counts."""
        wire = Wire(self.server.url)
        try:
            self._claim(number, wire.url, wire)
        finally:
            wire.close()

    def _claim(self, number: int, url: str, wire: Wire | None = None) -> float:
        node = f"new-{number}"
        ms = Allocator(self.server, node, url).add(number)
        if wire:
            self.requests.append(wire.take()[0])
        self._forget(node, number)
        return ms

    def _forget(self, node: str, number: int) -> None:
        """Leave everything as it was before the node came."""
        store = self.server.store(node)
        release(store, pod(node, number))
        for cidr in own_blocks(store, node, 4):
            give_up(store, node, cidr)
        record = store.get(keys.host(node))
        store.delete(record.key, record.revision)


def claim(scratch: Path, pool: str, left: int, runs: int) -> tuple[list[Json], dict[str, list[str]]]:
    """Return what claiming a block costs when so many are left of the pool, beside a pool of which none is taken."""
    whole = Size(pool=pool, nodes=1)
    blocks = (1 << (whole.block_size - int(pool.partition("/")[2]))) - left
    config = IpamConfig(strict_affinity=True, max_blocks_per_host=NODE_BLOCKS + 1)
    size = replace(whole, nodes=-(-blocks // NODE_BLOCKS), allocations=blocks * ADDRESSES_EACH, blocks=blocks,
                   config=config)  # fmt: skip
    with ExitStack() as ended:
        full = ended.enter_context(filled(scratch, "taken", size))
        empty = ended.enter_context(filled(scratch, "untaken", replace(whole, allocations=0, blocks=1, config=config)))
        base, most = Claims("1 block", empty.server), Claims(f"{blocks:,} blocks, {left} left", full.server)
        say(f"claiming a block: {runs} runs of 2 in turn")
        for number in range(runs):
            for item in (base, most) if number % 2 else (most, base):
                item.time(number)
        for item in (base, most):
            item.count(runs)
        return claim_rows(base, most, full), {f"claim, {item.what}": _lines(item.requests[0]) for item in (base, most)}


def claim_rows(base: Claims, most: Claims, full: Filled) -> list[Json]:
    """Return times, then what went over the wire."""
    if not full.bulk:
        raise BenchError("nothing was written")
    found = [row(f"first address of a node, {item.what}", item.times, base.times) for item in (base, most)]
    for what, unit, of in (("requests", "requests", len), ("received", "kB", _kilobytes)):
        for item in (base, most):
            found.append(row(f"… {what}, {item.what}", list(map(of, item.requests)), list(map(of, base.requests)),
                             unit=unit))  # fmt: skip
    found.append(row(f"… all that is stored, {most.what}", [full.bulk.bytes / 1000], unit="kB"))
    return [*found, *full.rows("nearly full pool")]


def _kilobytes(requests: Sequence[Request]) -> float:
    return sum(each.received for each in requests) / 1000


def _lines(requests: Sequence[Request]) -> list[str]:
    """Return what was asked for in order, with what came for it where that is much."""
    return [told([each]) + (f" ({each.received / 1000:,.0f} kB)" if each.received > MUCH else "") for each in requests]
