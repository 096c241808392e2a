"""A simple model of the allocator: what there is to give, by sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from datastore import keys
from ipam import configuration

from .allocator_deeds import Assign, Claim, Deed
from .allocator_reader import BlockFacts, Json, Reader, Reading, Span, seconds, span, text
from .stores import QuickStore

NODES = ("n0", "n1", "n2", "n3")
SELECTORS: dict[str, Callable[[Json], bool]] = {
    "all()": lambda labels: True,
    "zone == 'a'": lambda labels: labels.get("zone") == "a",
    "zone in {'a', 'b'}": lambda labels: labels.get("zone") in ("a", "b"),
    "!has(zone)": lambda labels: "zone" not in labels,
}
ZONES: tuple[Json, ...] = ({}, {"zone": "a"}, {"zone": "b"})
USES: tuple[tuple[str, ...], ...] = ((), ("Workload",), ("Tunnel",), ("Workload", "Tunnel"))
COOLDOWNS = (0, 600, 1200)  # seconds
AGE = 700  # by so much time passes: one is enough for the first rest, two for the second, and to reclaim a block
DEFAULT_LIMIT, FRESH = 20, 60


@dataclass
class PoolModel:
    name: str
    cidr: str
    block_size: int
    sizes: tuple[int, ...]  # that it may be made anew with
    selector: str = "all()"
    uses: tuple[str, ...] = ()
    disabled: bool = False
    mode: str = "Automatic"

    @property
    def family(self) -> int:
        return span(self.cidr).family

    def resource(self) -> Json:
        return {"metadata": {"name": self.name}, "spec": {
            "cidr": self.cidr, "blockSize": self.block_size, "nodeSelector": self.selector, "disabled": self.disabled,
            "allowedUses": list(self.uses), "assignmentMode": self.mode}}

    def holds(self, part: Span) -> bool:
        whole = span(self.cidr)
        return (whole.family == part.family and whole.first <= part.first
                and part.first + part.size <= whole.first + whole.size)

    def blocks(self) -> Iterator[Span]:
        """Yield what it may be cut into."""
        whole = span(self.cidr)
        size = 1 << ((32 if whole.family == 4 else 128) - self.block_size)
        for first in range(whole.first, whole.first + whole.size, size):
            yield Span(whole.family, first, size)


def pools() -> dict[str, PoolModel]:
    return {pool.name: pool for pool in (
        PoolModel("a", "10.0.0.0/28", 30, (29, 30, 31)),
        PoolModel("b", "10.0.1.0/29", 31, (30, 31)),
        PoolModel("c", "10.0.2.0/29", 30, (30,), uses=("Tunnel",)),
        PoolModel("d", "fd00::/125", 127, (126, 127)),
        PoolModel("e", "fd00:1::/126", 126, (126,), mode="Manual"),
    )}


ADDRESSES = tuple(
    text(whole.family, number) for pool in pools().values() for whole in [span(pool.cidr)] for number in whole.numbers()
)


@dataclass
class World:
    """The store, and what the model knows of it."""

    store: QuickStore = field(default_factory=QuickStore)
    pools: dict[str, PoolModel] = field(default_factory=dict)
    labels: dict[str, Json] = field(default_factory=dict)
    reserved: dict[str, str] = field(default_factory=dict)  # name -> range
    strict: bool = False
    auto: bool = True
    max_blocks: int = 0
    cooldown: int = 0
    torn: set[str] = field(default_factory=set)
    unfinished: bool = False

    def __post_init__(self) -> None:
        self.reader = Reader(self.store)
        for pool in pools().values():
            self.put_pool(pool)
        self.now = self.reader.look()

    def look(self) -> Reading:
        """Read the store, check that it agrees with itself, and return what it was before."""
        before, self.now = self.now, self.reader.look()
        self.now.check(self.torn, self.unfinished)
        return before

    def put(self, key: str, value: Json | None) -> None:
        """Store a resource, or remove it."""
        if key in self.store.revisions():
            self.store.delete(key, self.store.get(key).revision)
        if value is not None:
            self.store.create(key, value)

    def put_pool(self, pool: PoolModel) -> None:
        self.pools[pool.name] = pool
        self.put(keys.ippool(pool.name), pool.resource())

    def put_labels(self, node: str, labels: Json) -> None:
        self.labels[node] = labels
        self.put(keys.node(node), {"metadata": {"name": node, "labels": labels}})

    def put_reservation(self, name: str, cidr: str) -> None:
        self.reserved[name] = cidr
        value = {"metadata": {"name": name}, "spec": {"reservedCIDRs": [cidr]}}
        self.put(keys.ipreservation(name), value if cidr else None)

    def configure(self, strict: bool, auto: bool, max_blocks: int, cooldown: int) -> None:
        self.strict, self.auto, self.cooldown = strict, auto or not strict, cooldown
        self.max_blocks = max_blocks if strict else 0
        configuration.save(self.store, strict_affinity=self.strict, auto_allocate_blocks=self.auto,
                           max_blocks_per_host=self.max_blocks, cooldown_seconds=cooldown)

    def grow_older(self) -> None:
        """Let time pass: every time that a block tells of is longer ago."""
        for family in (4, 6):
            for record in self.store.records(keys.blocks(family)):
                value = record.value
                if value.get("affinity_claim_time"):
                    value["affinity_claim_time"] = _earlier(value["affinity_claim_time"])
                for attribute in value["attributes"]:
                    if attribute.get("releasedAt"):
                        attribute["releasedAt"] = _earlier(attribute["releasedAt"])
                self.store.update(record.key, value, record.revision)

    def fitted(self, deed: Deed) -> Deed:
        """Return the deed as it may be done beside others: nobody claims blocks of a size that the pool has not."""
        pool = self.pool_at(span(deed.cidr)) if isinstance(deed, Claim) else None
        return replace(deed, block_size=pool.block_size) if isinstance(deed, Claim) and pool else deed

    def selects(self, pool: PoolModel, node: str) -> bool:
        return SELECTORS[pool.selector](self.labels.get(node, {}))

    def pool_at(self, part: Span) -> PoolModel | None:
        return next((pool for pool in self.pools.values() if pool.holds(part)), None)

    def chosen(self, deed: Assign) -> list[PoolModel] | None:
        """Return the pools to assign from, or None when the request names one that cannot serve."""
        if deed.pools:
            named = [self.pools[name] for name in deed.pools if name in self.pools]
            if len(named) < len(deed.pools) or any(pool.disabled or pool.family != deed.family for pool in named):
                return None
            return [pool for pool in named if _for(pool, deed.use)] or None
        return [pool for pool in self.pools.values() if pool.family == deed.family and not pool.disabled
                and pool.mode == "Automatic" and self.selects(pool, deed.node) and _for(pool, deed.use)]

    def is_reserved(self, family: int, number: int) -> bool:
        return any(span(cidr).family == family and number in span(cidr).numbers()
                   for cidr in self.reserved.values() if cidr)

    def is_over(self, released_at: float) -> bool:
        """Tell whether a rest is over."""
        return time.time() - released_at >= self.cooldown

    def queue(self, block: BlockFacts) -> list[int]:
        """Return the ordinals of a block that may be given, reserved or not, the longest free first."""
        return [*block.queue, *sorted(at for at, since in block.resting.items() if self.is_over(since))]

    def to_give(self, block: BlockFacts) -> list[int]:
        first, family = block.span.first, block.span.family
        return [at for at in self.queue(block) if not self.is_reserved(family, first + at)]

    def owned(self, reading: Reading, node: str, chosen: Sequence[PoolModel]) -> list[BlockFacts]:
        """Return the node's blocks in these pools."""
        return [block for block in reading.blocks.values() if block.affinity == f"host:{node}"
                and any(pool.holds(block.span) for pool in chosen)]

    def limit(self, deed: Assign) -> int:
        return min((limit for limit in (deed.limit, self.max_blocks) if limit), default=DEFAULT_LIMIT)

    def eligible(self, reading: Reading, node: str, chosen: Sequence[PoolModel], borrow: bool) -> set[str]:
        """Return every address that the node could be given; borrow: of other nodes' blocks in use as well."""
        found: set[str] = set()
        for block in reading.blocks.values():
            mine = block.affinity == f"host:{node}"
            pool = next((pool for pool in chosen if pool.holds(block.span)), None)
            if pool and (borrow or mine):
                found.update(map(block.address, self.to_give(block)))
            if pool and not mine and self.is_left(block):
                found.update(self._in_its_place(reading, block, pool))
        for part in self._uncut(reading, node, chosen):
            found.update(self._of(part))
        return found

    def _in_its_place(self, reading: Reading, block: BlockFacts, pool: PoolModel) -> Iterator[str]:
        """Yield what the blocks would have to give that the pool would be cut into in the place of this one."""
        others = [other.span for other in reading.blocks.values() if other is not block]
        for part in pool.blocks():
            if part.overlaps(block.span) and not any(part.overlaps(other) for other in others):
                yield from self._of(part)

    def _of(self, part: Span) -> list[str]:
        return [text(part.family, number) for number in part.numbers() if not self.is_reserved(part.family, number)]

    def is_left(self, block: BlockFacts) -> bool:
        """Tell whether a block that is not the node's may become its: empty, and not claimed just now."""
        if block.held or not all(map(self.is_over, block.resting.values())):
            return False
        fresh = block.affinity and block.claimed_at and abs(time.time() - seconds(block.claimed_at)) < FRESH
        return self.auto and not fresh

    def _uncut(self, reading: Reading, node: str, chosen: Sequence[PoolModel]) -> Iterator[Span]:
        """Yield the blocks that the node could make: new ones, and those it was making when it died."""
        present = [block.span for block in reading.blocks.values()]
        begun = [span(cidr) for (whose, cidr) in reading.affinities if whose == node]
        for pool in chosen:
            parts = [part for part in begun if part in pool.blocks()]
            for part in [*parts, *pool.blocks()] if self.auto else parts:
                if not any(part.overlaps(other) for other in present):
                    yield part


def _earlier(stamp: str) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds(stamp) - AGE))


def _for(pool: PoolModel, use: str) -> bool:
    return use in (pool.uses or ("Workload", "Tunnel"))
