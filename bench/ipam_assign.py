"""Assign and release in-process, as a plugin does it for one pod, beside whatever else is in the store."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.rows import Json, row
from cni_calico.node import boot_id
from datastore.file import FileStore
from ipam.assign import Request, assign
from ipam.handle import Owner
from ipam.release import release
from ipam.remove import remove_node

BAR = 1.2
NETWORK = "k8s-pod-network"


@dataclass
class Series:
    """One store seen from one node, and what it cost, ms. base: the series it is compared with, itself for none."""

    what: str
    root: Path
    node: str
    base: Series | None = None
    bar: float | None = None
    claims: bool = False
    assigned: list[float] = field(default_factory=list)
    released: list[float] = field(default_factory=list)
    in_a_row: list[float] = field(default_factory=list)  # the average of each row
    claimed: list[float] = field(default_factory=list)

    def pair(self, number: int) -> None:
        """Assign an address to a pod and release it."""
        owner = pod(self.node, number)
        self.assigned.append(self.assign(owner))
        self.released.append(self.release(owner))

    def many(self, first: int, count: int) -> None:
        """Assign to one pod after the other, so that blocks become full; take all back, which is not measured."""
        pods = [pod(self.node, number) for number in range(first, first + count)]
        self.in_a_row.append(statistics.fmean(self.assign(owner) for owner in pods))
        for owner in pods:
            self.release(owner)

    def claim(self, number: int) -> None:
        """Assign the first address of a new node, which takes a block; let the node be forgotten then."""
        node = f"new-{number}"
        owner = pod(node, number)
        self.claimed.append(self.assign(owner, node))
        self.release(owner)
        remove_node(FileStore(str(self.root)), node)

    def assign(self, owner: Owner, node: str = "") -> float:
        """Return what an assignment cost."""
        store, began = FileStore(str(self.root)), time.perf_counter()
        assign(store, Request(node=node or self.node, owner=owner))
        return (time.perf_counter() - began) * 1000

    def release(self, owner: Owner) -> float:
        """Return what a release cost."""
        store, began = FileStore(str(self.root)), time.perf_counter()
        release(store, owner)
        return (time.perf_counter() - began) * 1000

    @property
    def both(self) -> list[float]:
        """What an assignment and its release cost together."""
        return [one + other for one, other in zip(self.assigned, self.released, strict=True)]


def pod(node: str, number: int) -> Owner:
    """Return a pod as the plugin describes it."""
    container = f"{number:064x}"
    return Owner(f"{NETWORK}.{container}", {
        "node": node, "timestamp": "2026-08-01 10:00:00.000000000 +0000 UTC", "boot": boot_id(),
        "pod": f"web-{number}", "namespace": "default",
        "network": NETWORK, "container": container, "interface": "eth0",
    })  # fmt: skip


def measure(series: Sequence[Series], runs: int, rounds: int, count: int) -> None:
    """Take every measurement, all series in turn, in another order each time."""
    for item in series:  # claims a first block, looks for the one to assign from, fills the page cache
        item.pair(0)
        item.assigned.clear()
        item.released.clear()
    for number in range(runs):
        for item in _shuffled(series, number):
            item.pair(number)
    for number in range(rounds):
        for item in _shuffled(series, number):
            item.many(number * count, count)
        for item in _shuffled(series, number):
            if item.claims:
                item.claim(number)


def _shuffled(series: Sequence[Series], number: int) -> list[Series]:
    """Return the series in an order of this run, so that none is always behind the same other one."""
    return random.Random(number).sample(series, len(series))


def rows(series: Sequence[Series], count: int) -> list[Json]:
    """Return what was measured: both together with the bar, then each, then the rarer cases."""
    bases = [item.base or item for item in series]
    found = [row(f"assign + release, {item.what}", item.both, base.both, item.bar)
             for item, base in zip(series, bases, strict=True)]  # fmt: skip
    rarer = {"assign": "assigned", "release": "released", f"one of {count} assigned in a row": "in_a_row",
             "first address of a new node": "claimed"}  # fmt: skip
    for name, values in rarer.items():
        for item, base in zip(series, bases, strict=True):
            if getattr(item, values):
                found.append(row(f"{name}, {item.what}", getattr(item, values), getattr(base, values)))
    return found
