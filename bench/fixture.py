"""A datastore directory of any size, in exactly the form that datastore/file.py writes, but not synced; see README.md.

What it holds follows from its size and the seed alone: nodes with their blocks, somewhere in one pool, and addresses in
use, spread over the blocks of each node, every one with a handle of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datastore import keys
from datastore.file import FileStore
from datastore.jsontext import dumps
from datastore.model import (
    CONFIRMED,
    Affinity,
    Attribute,
    Block,
    Handle,
    Host,
    IpamConfig,
    affinity_json,
    block_json,
    config_json,
    handle_json,
    host_json,
)
from ipam.block import new_block
from ipam.cidr import Cidr, parse_cidr

Json = dict[str, Any]
Tell = Callable[[int, int], object]

NETWORK = "k8s-pod-network"
POOL = "default-ipv4-ippool"
NOW = 1_785_578_400 * 10**9  # nanoseconds since 1970: 2026-08-01, when everything was written
STAMP = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW // 10**9))
BYTES_EACH = 5 * 1024  # a handle's file takes a disk block, its part of a block's file the rest
EXAMPLES = """\
examples:
  bench/fixture /tmp/store                             5,000 nodes, 550,000 addresses in use
  bench/fixture /tmp/store --nodes 3 --allocations 150
  calicoctl ipam show                                  with CALICO_DATASTORE_DIR=/tmp/store
"""


class FixtureError(Exception):
    """The datastore asked for cannot be made."""


@dataclass(frozen=True)
class Size:
    """How much there is. blocks 0: as few as hold the addresses; pool: where they lie, cut into blocks of a prefix."""

    nodes: int = 5000
    allocations: int = 550_000
    blocks: int = 0
    pool: str = "10.0.0.0/8"
    block_size: int = 26
    seed: int = 1
    config: IpamConfig | None = None
    boot: str = "6b1c3a52-1f0e-4c59-9d8e-0d3f4a5b6c7d"

    @property
    def per_block(self) -> int:
        """Addresses in a block."""
        return int(1 << (32 - self.block_size))

    def shares(self) -> list[tuple[int, int]]:
        """Return how many blocks each node has, and how many addresses of them are in use.

        Raises FixtureError.
        """
        used = [_share(self.allocations, self.nodes, node) for node in range(self.nodes)]
        if self.blocks:
            blocks = [_share(self.blocks, self.nodes, node) for node in range(self.nodes)]
        else:
            blocks = [max(1, -(-count // self.per_block)) for count in used]
        if any(count > have * self.per_block for count, have in zip(used, blocks, strict=True)):
            raise FixtureError(f"{sum(blocks)} blocks of {self.per_block} addresses do not hold {self.allocations}")
        return list(zip(blocks, used, strict=True))


def _share(total: int, parts: int, index: int) -> int:
    return total * (index + 1) // parts - total * index // parts


class Bulk:
    """Writes new records as FileStore does, but for the sync, the lock and the rename: nobody else is there yet."""

    def __init__(self, root: Path) -> None:
        self._store = FileStore(str(root))
        self._made: set[str] = set()

    def write(self, key: str, value: Json) -> None:
        """Write one record. Raises OSError."""
        path = self._store.path(key)
        folder = os.path.dirname(path)
        if folder not in self._made:
            os.makedirs(folder, 0o700, exist_ok=True)
            self._made.add(folder)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, dumps({"key": key, "revision": NOW, "value": value}))
        finally:
            os.close(fd)


def make(root: Path, size: Size, tell: Tell = lambda done, total: None) -> None:
    """Write a new datastore, or nothing; `tell` hears how many addresses are done, and of how many.

    Raises FixtureError, OSError.
    """
    places = _places(size, sum(blocks for blocks, _ in size.shares()))
    _room_on_disk(root, size)
    root.mkdir(mode=0o700)
    try:
        _write(Bulk(root), size, places, tell)
    except BaseException:  # also a Ctrl-C
        shutil.rmtree(root)
        raise


def _write(bulk: Bulk, size: Size, places: Iterator[Cidr], tell: Tell) -> None:
    rng, done = random.Random(size.seed), 0
    bulk.write(keys.ippool(POOL), pool_json(size.pool, size.block_size))
    if size.config:
        bulk.write(keys.IPAM_CONFIG, config_json(size.config))
    for index, (blocks, used) in enumerate(size.shares()):
        node = node_name(index)
        counts = spread(rng, used, blocks, size.per_block)
        for count, cidr in zip(counts, places, strict=False):  # in this order: none of the places is lost
            write_block(bulk, new_block(cidr, node, NOW, STAMP), owners(rng, node, size.boot, count), rng)
            done += count
            tell(done, size.allocations)
        bulk.write(keys.host(node), host_json(Host()))


def node_name(index: int) -> str:
    """Return the name of the node of this number."""
    return f"node-{index:05}"


def pool_json(cidr: str, block_size: int) -> Json:
    """Return the one pool, as the plugin would make it."""
    return {
        "kind": "IPPool",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": POOL, "creationTimestamp": STAMP},
        "spec": {
            "cidr": cidr, "blockSize": block_size, "ipipMode": "Never", "vxlanMode": "Never", "natOutgoing": True,
            "nodeSelector": "all()", "disableBGPExport": False, "allowedUses": ["Workload", "Tunnel"],
            "assignmentMode": "Automatic",
        },
    }  # fmt: skip


def spread(rng: random.Random, used: int, blocks: int, per_block: int) -> list[int]:
    """Return how many addresses are in use in each block: as evenly as after a long life, one more here and there."""
    counts = [used // blocks] * blocks
    for index in rng.sample(range(blocks), used % blocks):
        counts[index] += 1
    for _ in range(blocks // 2):  # some pods moved
        one, other = rng.randrange(blocks), rng.randrange(blocks)
        moved = rng.randint(0, min(counts[one], per_block - counts[other], 4)) if one != other else 0
        counts[one] -= moved
        counts[other] += moved
    return counts


def write_block(bulk: Bulk, empty: Block, held_by: list[Attribute], rng: random.Random) -> None:
    """Write a block with an address for each owner, the handles of these, and the affinity."""
    block = _filled(rng, empty, held_by)
    for owner in held_by:
        bulk.write(keys.handle(str(owner.handle)), handle_json(Handle(str(owner.handle), {block.cidr: 1})))
    bulk.write(keys.block(4, block.cidr), block_json(block))
    node = str(block.affinity).partition(":")[2]
    bulk.write(keys.affinity(node, 4, block.cidr), affinity_json(Affinity(CONFIRMED)))


def _filled(rng: random.Random, block: Block, held_by: list[Attribute]) -> Block:
    """Return the block as it is after these owners came, each to an ordinal of its own."""
    order = rng.sample(range(len(block.allocations)), len(block.allocations))
    given = dict(zip(order, range(len(held_by)), strict=False))
    return Block(
        cidr=block.cidr,
        affinity=block.affinity,
        allocations=tuple(given.get(ordinal) for ordinal in range(len(order))),
        unallocated=tuple(order[len(held_by):]),
        attributes=tuple(held_by),
        sequence=block.sequence + len(held_by),
        allocation_sequence={ordinal: block.sequence + index for ordinal, index in given.items()},
        extra=block.extra,
    )


def owners(rng: random.Random, node: str, boot: str, count: int) -> list[Attribute]:
    """Return so many pods' attributes as the plugin stores them; container ids are as containerd makes them."""
    found = []
    for _ in range(count):
        container = f"{rng.getrandbits(256):064x}"
        found.append(Attribute(f"{NETWORK}.{container}", {
            "node": node, "timestamp": "2026-08-01 10:00:00.000000000 +0000 UTC", "boot": boot,
            "pod": f"web-{container[:10]}-{container[10:15]}", "namespace": "default",
            "network": NETWORK, "container": container, "interface": "eth0",
        }))  # fmt: skip
    return found


def _places(size: Size, count: int) -> Iterator[Cidr]:
    """Return where the blocks lie: anywhere in the pool, as nodes start to look from anywhere."""
    whole = parse_cidr(size.pool)
    possible = 1 << (size.block_size - whole.prefix)
    if count > possible:
        raise FixtureError(f"pool {size.pool} has {possible} blocks, but {count} are needed")
    places = random.Random(size.seed).sample(range(possible), count)
    return (Cidr(4, whole.first + place * size.per_block, size.block_size) for place in places)


def _room_on_disk(root: Path, size: Size) -> None:
    """Raise FixtureError when the disk would be full."""
    disk = os.statvfs(root.parent)
    if disk.f_files and disk.f_favail < size.allocations * 1.1 + 2 * size.blocks:
        raise FixtureError(f"{root.parent} has {disk.f_favail} inodes left; each address in use takes one")
    if disk.f_bavail * disk.f_frsize < size.allocations * BYTES_EACH:
        raise FixtureError(f"{root.parent} has not {size.allocations * BYTES_EACH >> 20} MB left")


class Bar:
    """A progress bar on stderr, if that is a terminal."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._share = -1

    def __call__(self, done: int, total: int) -> None:
        """Show how much is done."""
        share = 100 * done // total if total else 100
        if share != self._share and sys.stderr.isatty():
            end = "\n" if share == 100 else ""
            sys.stderr.write(f"\r{self._label} {'#' * (share // 5):.<20} {share:3}%{end}")
            sys.stderr.flush()
        self._share = share


def main(arguments: list[str]) -> int:
    """Make what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="bench/fixture", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make a datastore directory with many nodes and addresses in use.",
    )  # fmt: skip
    parser.add_argument("directory", type=Path, metavar="DIR", help="what to make; must not be there yet")
    parser.add_argument("--nodes", type=int, default=5000, metavar="N", help="how many nodes (default 5000)")
    parser.add_argument("--allocations", type=int, default=550_000, metavar="N",
                        help="how many addresses in use (default 550000)")  # fmt: skip
    parser.add_argument("--blocks", type=int, default=0, metavar="N",
                        help="how many blocks (default: as few as hold the addresses)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another seed makes others (default 1)")
    options = parser.parse_args(arguments)
    size = Size(options.nodes, options.allocations, options.blocks, seed=options.seed)
    try:
        began = time.monotonic()
        make(options.directory, size, Bar("writing"))
    except (FixtureError, OSError) as error:
        print(f"fixture: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{options.directory}: {size.nodes} nodes, {size.allocations} addresses in use, "
          f"made in {time.monotonic() - began:.0f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
