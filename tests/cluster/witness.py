"""What etcd itself tells of every change there ever was, judged without the product's code.

The history of all keys is watched from a revision on (etcd's api-guide, "watch", over the JSON gateway), and what the
records say must agree after each single revision: a block has each ordinal once, an allocation is counted by its
owner's handle, an address goes from one owner to the next only by being free in between. The formats are Calico's
(libcalico-go lib/backend/model). Every finding is an assertion that names the revision.
"""

from __future__ import annotations

import ipaddress
import json
import re
import time
import urllib.request
from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]
IPAM = "/calico/ipam/v2"
BLOCK = re.compile(f"{IPAM}/assignment/ipv[46]/block/([^/]+)$")
AFFINITY = re.compile(f"{IPAM}/host/([^/]+)/ipv[46]/block/([^/]+)$")
HANDLE = re.compile(f"{IPAM}/handle/(.+)$")
END = "/end-of-the-history"


class Event(NamedTuple):
    """A change of one key; value None means that it was removed."""

    revision: int
    key: str
    value: Json | None


def history(url: str, since: int = 1, seconds: float = 60.0) -> list[Event]:
    """Return every change of every key of an etcd from a revision on, up to now.

    Raises AssertionError where etcd has forgotten the beginning.
    """
    last = end(url)
    found: list[Event] = []
    for event in watch(url, since, seconds):
        if event.revision == last:
            break
        found.append(event)
    return found


def end(url: str) -> int:
    """Write a key of our own that tells where a history ends; return its revision."""
    return int(post(url, "/v3/kv/put", {"key": b64encode(END.encode()).decode()})["header"]["revision"])


def record(url: str, since: int, file: Path) -> None:
    """Write every change from a revision on to a file, as it comes, for ever."""
    with file.open("w") as out:
        for event in watch(url, since, 3600.0):
            print(json.dumps(event), file=out, flush=True)


def recorded(file: Path, last: int) -> list[Event]:
    """Return what `record` has written, as soon as that goes to the last revision, which is an `end`."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = [Event(*json.loads(line)) for line in file.read_text().rpartition("\n")[0].splitlines()]
        if found and found[-1].revision >= last:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"nobody has recorded revision {last}")


def watch(url: str, since: int, seconds: float) -> Iterator[Event]:
    """Yield every change of every key from a revision on, for ever; silence of so many seconds is an OSError."""
    asked = json.dumps({"create_request": {"key": "AA==", "range_end": "AA==", "start_revision": str(since)}})
    request = urllib.request.Request(f"{url}/v3/watch", asked.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=seconds) as lines:
        for line in lines:
            result = json.loads(line)["result"]
            assert not result.get("canceled"), f"the history is not whole: {result}"
            for event in result.get("events") or ():
                item = event["kv"]
                key, removed = b64decode(item["key"]).decode(), event.get("type") == "DELETE"
                data = b64decode(item.get("value", "")) if key.startswith("/calico/") else b""
                yield Event(int(item["mod_revision"]), key, None if removed else json.loads(data or b"{}"))


def post(url: str, path: str, body: Json) -> Json:
    """Return the answer to a call of the JSON gateway."""
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: Json = json.load(answer)
        return found


class Held(NamedTuple):
    """An address in use: whose, and the number that tells this giving from any other."""

    handle: str
    sequence: int


@dataclass
class Tenure:
    """A time in which one handle had an address, in revisions: from the one that gave it to the one that took it."""

    address: str
    handle: str
    given: int
    taken: int | None = None


@dataclass
class World:
    """All records as they are after a revision, and who had which address until then."""

    blocks: dict[str, dict[str, Held]] = field(default_factory=dict)
    owners: dict[str, str | None] = field(default_factory=dict)
    handles: dict[str, Counter[str]] = field(default_factory=dict)
    affinities: dict[tuple[str, str], str] = field(default_factory=dict)
    tenures: list[Tenure] = field(default_factory=list)
    now: dict[str, Tenure] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    revision: int = 0
    changes: int = 0

    def follow(self, events: Iterable[Event]) -> None:
        """Take in all changes, revision by revision, and judge the records after each."""
        for revision, group in groupby(events, lambda event: event.revision):
            assert revision > self.revision, f"revision {revision} comes after {self.revision}"
            self.revision = revision
            self._take_in(list(group))

    def _take_in(self, events: list[Event]) -> None:
        handles: set[str] = set()
        for event in events:
            self.changes += 1
            if match := BLOCK.match(event.key):
                handles |= self._block(match[1].replace("-", "/"), event.value)
            elif match := HANDLE.match(event.key):
                handles.add(match[1])
                self._handle(match[1], event.value)
            elif match := AFFINITY.match(event.key):
                self._affinity((match[1], match[2].replace("-", "/")), event.value)
        for handle in handles:
            self._agree(handle)

    def _block(self, cidr: str, value: Json | None) -> set[str]:
        """Judge a block's change by itself; return the handles that have gained or lost by it."""
        before = self.blocks.get(cidr, {})
        if value is None:
            assert not before, f"revision {self.revision} removes block {cidr}, of which {before} are in use"
            self.blocks.pop(cidr, None)
            self.owners.pop(cidr, None)
            return set()
        self._apart(cidr)
        after = held(cidr, value)
        told = int(value["sequenceNumber"])
        assert told > self.sequences.get(cidr, -1) or after == before, f"revision {self.revision}: {cidr} counts {told}"
        self.sequences[cidr] = max(told, self.sequences.get(cidr, -1))
        self.blocks[cidr], self.owners[cidr] = after, (value["affinity"] or "").removeprefix("host:") or None
        changed = {address for address in before.keys() | after.keys() if before.get(address) != after.get(address)}
        for address in changed:
            self._passed_on(address, before.get(address), after.get(address))
        return {item.handle for address in changed for item in (before.get(address), after.get(address)) if item}

    def _apart(self, cidr: str) -> None:
        """Assert that a block shares no address with another."""
        if cidr not in self.blocks:
            mine = ipaddress.ip_network(cidr)
            for other in self.blocks:
                assert not mine.overlaps(ipaddress.ip_network(other)), f"revision {self.revision}: {cidr} and {other}"

    def _passed_on(self, address: str, before: Held | None, after: Held | None) -> None:
        """Note that an address was given or taken; nobody gets what somebody has."""
        assert not (before and after), f"revision {self.revision}: {address} goes from {before} straight to {after}"
        if after:
            self.now[address] = Tenure(address, after.handle, self.revision)
            self.tenures.append(self.now[address])
        else:
            self.now.pop(address).taken = self.revision

    def _handle(self, name: str, value: Json | None) -> None:
        self.handles.pop(name, None)
        if value is not None:
            assert value["handleID"] == name
            assert value["block"], f"revision {self.revision}: handle {name} holds nothing"
            self.handles[name] = Counter(value["block"])

    def _affinity(self, key: tuple[str, str], value: Json | None) -> None:
        self.affinities.pop(key, None)
        if value is not None:
            self.affinities[key] = value["state"]

    def _agree(self, handle: str) -> None:
        """Assert that a handle counts what the blocks hold for it, after this revision as after any."""
        says = self.handles.get(handle, Counter())
        has = Counter(cidr for cidr, inside in self.blocks.items() for item in inside.values() if item.handle == handle)
        assert says == has, f"revision {self.revision}: handle {handle} counts {says}, the blocks hold {has}"

    def check_affinities(self, unfinished: bool = False) -> None:
        """Assert that blocks and affinities agree. unfinished: nodes died, and may have left claims half-way."""
        for cidr, node in self.owners.items():
            assert node is None or (node, cidr) in self.affinities, f"block {cidr} of {node} has no affinity"
            assert node is not None or self.blocks[cidr], f"block {cidr} is empty and nobody's"
        for (node, cidr), state in self.affinities.items():
            agrees = state == "confirmed" and self.owners.get(cidr) == node
            pending = unfinished and state in ("pending", "pendingDeletion")
            assert agrees or pending, f"affinity of {node} to {cidr} is {state}, the block is {self.owners.get(cidr)}'s"

    def held(self) -> dict[str, str]:
        """Return who has each address now."""
        return {address: tenure.handle for address, tenure in self.now.items()}

    def of_addresses(self) -> dict[str, list[Tenure]]:
        """Return who had each address, one after the other."""
        found: dict[str, list[Tenure]] = defaultdict(list)
        for tenure in self.tenures:
            found[tenure.address].append(tenure)
        return found


def held(cidr: str, value: Json) -> dict[str, Held]:
    """Return who has which address of a block, which must be sound."""
    network = ipaddress.ip_network(cidr)
    allocations, attributes = value["allocations"], value["attributes"]
    taken = [at for at, index in enumerate(allocations) if index is not None]
    assert value["cidr"] == cidr
    assert len(allocations) == network.num_addresses
    assert sorted([*taken, *value["unallocated"]]) == list(range(len(allocations))), f"{cidr} has not each ordinal once"
    assert {allocations[at] for at in taken} == set(range(len(attributes))), f"{cidr} has owners of nothing"
    sequences = {int(at): number for at, number in value["sequenceNumberForAllocation"].items()}
    assert sequences.keys() == set(taken), f"{cidr} has sequence numbers of {sequences.keys()}"
    return {str(network[at]): Held(attributes[allocations[at]]["handle_id"], sequences[at]) for at in taken}
