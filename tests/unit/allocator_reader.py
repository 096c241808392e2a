"""What the raw records say, read without the allocator's code: who holds what, and whether all of it agrees.

The formats are Calico's (libcalico-go lib/backend/model). Every fault is an assertion that names the record.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import pairwise
from typing import Any

from datastore.api import Store

from .stores import QuickStore

Json = dict[str, Any]
IPAM = "/calico/ipam/v2"
BLOCK = re.compile(f"{IPAM}/assignment/ipv[46]/block/([^/]+)$")
AFFINITY = re.compile(f"{IPAM}/host/([^/]+)/ipv[46]/block/([^/]+)$")
HANDLE = re.compile(f"{IPAM}/handle/(.+)$")


@dataclass(frozen=True)
class Span:
    """A range of addresses as numbers."""

    family: int
    first: int
    size: int

    def overlaps(self, other: Span) -> bool:
        return (self.family == other.family and self.first < other.first + other.size
                and other.first < self.first + self.size)

    def numbers(self) -> range:
        return range(self.first, self.first + self.size)


@cache
def span(cidr: str) -> Span:
    network = ipaddress.ip_network(cidr)
    return Span(network.version, int(network.network_address), network.num_addresses)


@cache
def text(family: int, number: int) -> str:
    return str(ipaddress.IPv4Address(number) if family == 4 else ipaddress.IPv6Address(number))


@dataclass(frozen=True)
class Holder:
    """Who has an address."""

    handle: str
    owner: Json
    sequence: int


class BlockFacts:
    """One block's record; reading it checks all that can be checked of it alone."""

    def __init__(self, cidr: str, value: Json) -> None:
        self.cidr, self.span = cidr, span(cidr)
        self.affinity: str | None = value["affinity"]
        self.claimed_at: str = value.get("affinity_claim_time", "")
        self.queue: list[int] = value["unallocated"]
        allocations, attributes = value["allocations"], value["attributes"]
        sequences = {int(at): number for at, number in value["sequenceNumberForAllocation"].items()}
        taken = [at for at, index in enumerate(allocations) if index is not None]
        assert value["cidr"] == cidr
        assert len(allocations) == self.span.size, f"{cidr} has {len(allocations)} ordinals"
        assert sorted([*taken, *self.queue]) == list(range(self.span.size)), f"{cidr} does not have each ordinal once"
        assert {allocations[at] for at in taken} == set(range(len(attributes))), f"{cidr} has owners of nothing"
        assert all(one not in attributes[:at] for at, one in enumerate(attributes)), f"{cidr} names an owner twice"
        assert sequences.keys() == set(taken), f"{cidr} has sequence numbers of {sequences.keys()}, not of {taken}"
        assert all(number < value["sequenceNumber"] for number in sequences.values()), f"{cidr} ran back"
        self.held: dict[int, Holder] = {}
        self.resting: dict[int, float] = {}
        for at in taken:
            attribute = attributes[allocations[at]]
            if attribute.get("releasedAt"):
                assert attribute["handle_id"] is None, f"{cidr} has an address at rest that somebody holds"
                self.resting[at] = seconds(attribute["releasedAt"])
            else:
                self.held[at] = Holder(attribute["handle_id"], attribute["secondary"], sequences[at])
        self.counts = Counter((holder.handle, cidr) for holder in self.held.values())
        self.addresses = {self.address(at): holder for at, holder in self.held.items()}

    def address(self, ordinal: int) -> str:
        return text(self.span.family, self.span.first + ordinal)


def seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


class Reading:
    """One look at all records."""

    def __init__(self, blocks: dict[str, BlockFacts], handles: dict[str, Json], affinities: dict[tuple[str, str], str],
                 ) -> None:
        self.blocks, self.handles, self.affinities = blocks, handles, affinities
        self.addresses: dict[str, Holder] = {}
        for block in blocks.values():
            self.addresses.update(block.addresses)

    def check(self, torn: Collection[str] = (), unfinished: bool = False) -> None:
        """Assert that the records agree with each other.

        torn: handles of the dead, which may count too much. unfinished: nodes that were killed, or lost races, may have
        left claims half-way.
        """
        self._check_spans(block.span for block in self.blocks.values())
        self._check_handles(torn)
        self._check_affinities(unfinished)

    def _check_spans(self, spans: Iterable[Span]) -> None:
        ordered = sorted(spans, key=lambda item: (item.family, item.first))
        for one, other in pairwise(ordered):
            assert not one.overlaps(other), f"blocks at {text(one.family, one.first)} overlap"

    def _check_handles(self, torn: Collection[str]) -> None:
        counts: dict[tuple[str, str], int] = {}
        for block in self.blocks.values():
            counts.update(block.counts)
        told = {(name, cidr): count for name, value in self.handles.items() for cidr, count in value.items()}
        for name, value in self.handles.items():
            assert value, f"handle {name} holds nothing"
        for pair in told.keys() | counts.keys() if told != counts else ():
            says, has = told.get(pair, 0), counts.get(pair, 0)
            assert says == has or (says > has and pair[0] in torn), f"handle {pair} counts {says}, holds {has}"

    def _check_affinities(self, unfinished: bool) -> None:
        for cidr, block in self.blocks.items():
            if block.affinity:
                node = block.affinity.removeprefix("host:")
                assert (node, cidr) in self.affinities, f"block {cidr} of {node} has no affinity"
        for (node, cidr), state in self.affinities.items():
            found = self.blocks.get(cidr)
            agrees = state == "confirmed" and found is not None and found.affinity == f"host:{node}"
            assert agrees or unfinished, f"affinity of {node} to {cidr} is {state}, the block is not its"


class Reader:
    """Reads a store again and again: only what was changed meanwhile is looked at anew."""

    def __init__(self, store: QuickStore) -> None:
        self._store = store
        self._blocks: dict[str, tuple[int, BlockFacts]] = {}
        self._others: dict[str, tuple[int, Json]] = {}

    def look(self) -> Reading:
        blocks: dict[str, BlockFacts] = {}
        handles: dict[str, Json] = {}
        affinities: dict[tuple[str, str], str] = {}
        for key, revision in self._store.revisions().items():
            if match := BLOCK.match(key):
                cidr = match[1].replace("-", "/")
                blocks[cidr] = self._block(key, cidr, revision)
            elif match := AFFINITY.match(key):
                affinities[match[1], match[2].replace("-", "/")] = self._value(key, revision)["state"]
            elif match := HANDLE.match(key):
                value = self._value(key, revision)
                assert value["handleID"] == match[1]
                handles[match[1]] = value["block"]
        return Reading(blocks, handles, affinities)

    def _block(self, key: str, cidr: str, revision: int) -> BlockFacts:
        known = self._blocks.get(key)
        if known is None or known[0] != revision:
            self._blocks[key] = known = (revision, BlockFacts(cidr, self._store.get(key).value))
        return known[1]

    def _value(self, key: str, revision: int) -> Json:
        known = self._others.get(key)
        if known is None or known[0] != revision:
            self._others[key] = known = (revision, self._store.get(key).value)
        return known[1]


def read(store: Store) -> Reading:
    """Read any store once."""
    quick = QuickStore()
    for record in store.records("/"):
        quick.create(record.key, record.value)
    return Reader(quick).look()


def sound(store: Store, torn: Collection[str] = (), unfinished: bool = True) -> dict[str, str]:
    """Check every invariant of the stored state (Reading.check); return address -> container."""
    reading = read(store)
    reading.check(torn, unfinished)
    return {address: holder.owner["container"] for address, holder in reading.addresses.items()}
