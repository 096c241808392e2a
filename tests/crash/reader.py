"""What a datastore's files say, read without the product's code: who holds what, and what is wrong with it.

The formats are Calico's (libcalico-go lib/backend/model), in files as docs/design.md lays them out. Each finding is one
sentence, whose second word is what it is about.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
IPAM = "/calico/ipam/v2"
AFFINITY = re.compile(f"{IPAM}/host/([^/]+)/ipv[46]/block/([^/]+)$")
UNFINISHED = "is a claim that was never finished"  # of a node that died meanwhile; the next one carries on with it

TOO_MANY = "too many"  # after a verb that was cut off; the next one of the same owner sets it right


class Reading:
    """One look at all records of a datastore directory."""

    def __init__(self, directory: Path) -> None:
        self.findings: list[str] = []
        self.records: Json = dict(self._records(directory))
        self.counts: Counter[tuple[str, str]] = Counter()
        self.addresses: dict[str, Json] = {}
        self.blocks: dict[str, Json] = {}
        for key, value in self._below(f"{IPAM}/assignment/"):
            self._block(key, value)
        self._handles()
        self._affinities()

    def _records(self, directory: Path) -> Iterator[tuple[str, Json]]:
        for path in sorted(directory.rglob("*.json")):
            if path.parent.name == ".damaged":
                continue  # put aside, for a person to look at
            key = "/" + str(path.relative_to(directory)).removesuffix(".json")
            try:
                body = json.loads(path.read_bytes())
                if body["key"] != key:
                    raise ValueError(f"it holds {body['key']}")
                if type(body["revision"]) is not int or not isinstance(body["value"], dict):
                    raise ValueError("it has no revision and value")
                yield key, body["value"]
            except (ValueError, KeyError, TypeError) as error:
                self.findings.append(f"record {key} is damaged: {error}")

    def _below(self, prefix: str) -> list[tuple[str, Json]]:
        return [(key, value) for key, value in self.records.items() if key.startswith(prefix)]

    def _block(self, key: str, block: Json) -> None:
        cidr = key.rpartition("/")[2].replace("-", "/")
        network = ipaddress.ip_network(cidr)
        self.blocks[cidr] = block
        if block["cidr"] != cidr:
            self.findings.append(f"block {cidr} says it is {block['cidr']}")
        taken = [at for at, owner in enumerate(block["allocations"]) if owner is not None]
        if sorted([*taken, *block["unallocated"]]) != list(range(network.num_addresses)):
            self.findings.append(f"block {cidr} does not have each ordinal once, allocated or free")
        for at in taken:
            self._allocation(cidr, str(network[at]), block, block["allocations"][at])

    def _allocation(self, cidr: str, address: str, block: Json, index: int) -> None:
        if not 0 <= index < len(block["attributes"]):
            self.findings.append(f"address {address} belongs to an owner that block {cidr} does not have")
            return
        owner = block["attributes"][index]
        if owner.get("releasedAt"):
            return  # it cools down: nobody's, and not to be had yet
        if address in self.addresses:
            self.findings.append(f"address {address} is in two blocks")
        self.addresses[address] = owner
        self.counts[owner["handle_id"], cidr] += 1

    def _handles(self) -> None:
        told: Counter[tuple[str, str]] = Counter()
        for key, value in self._below(f"{IPAM}/handle/"):
            name = key.rpartition("/")[2]
            if value["handleID"] != name:
                self.findings.append(f"handle {name} says it is {value['handleID']}")
            told.update({(name, cidr): count for cidr, count in value["block"].items()})
        for handle, cidr in sorted(told.keys() | self.counts.keys()):
            extra = told[handle, cidr] - self.counts[handle, cidr]
            if extra:
                much = TOO_MANY if extra > 0 else "too few"
                self.findings.append(f"handle {handle} counts {abs(extra)} {much} of block {cidr}")

    def _affinities(self) -> None:
        owned = set()
        for key, value in self._below(f"{IPAM}/host/"):
            match = AFFINITY.match(key)
            if not match:
                continue  # what a node remembers
            node, cidr = match[1], match[2].replace("-", "/")
            block = self.blocks.get(cidr)
            if value["state"] != "confirmed":
                self.findings.append(f"affinity {key} {UNFINISHED}")
            elif block is None:
                self.findings.append(f"affinity {key} has no block")
            elif block["affinity"] != f"host:{node}":
                self.findings.append(f"affinity {key} of a block of {block['affinity']} {UNFINISHED}")
            if block is not None and block["affinity"] == f"host:{node}":
                owned.add(cidr)
        for cidr, block in sorted(self.blocks.items()):
            if block["affinity"] and cidr not in owned:
                self.findings.append(f"block {cidr} of {block['affinity']} has no affinity")


def findings(directory: Path) -> list[str]:
    """Return everything that is wrong with a datastore; nothing for one that is sound, or not there."""
    return Reading(directory).findings


def held(directory: Path) -> dict[str, str]:
    """Return address -> container, or the handle of who is none, for every address in use."""
    return {address: owner["secondary"].get("container", owner["handle_id"])
            for address, owner in Reading(directory).addresses.items()}
