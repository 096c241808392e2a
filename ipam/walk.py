"""In which order a node looks at the blocks of a pool: from a start of its own, so that nodes meet rarely.

Calico seeds a generator with the FNV-1 hash of the node's name (libcalico-go lib/ipam/ipam_block_reader_writer.go,
randomBlockGenerator). Only the spread matters, not which block it is, so the hash is spread by a multiplication here.
"""

from __future__ import annotations

import time

from ipam.cidr import BITS, Cidr, parse_cidr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from datastore.resources import Pool

FNV_OFFSET = 2166136261  # FNV-1, 32 bits (RFC 9923)
FNV_PRIME = 16777619
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: spreads the hashes of node-1, node-2 …, which are neighbours


def blocks_from(pool: Pool, node: str, without: Sequence[Cidr] = ()) -> Iterator[Cidr]:
    """Yield the CIDRs of all blocks the pool can be cut into, once each, from the node's start and around.

    Blocks within one of the ranges `without` are left out in one step: half an IPv6 pool may be 2**73 of them.
    """
    whole = parse_cidr(pool.cidr)
    size, total = 1 << (BITS[whole.family] - pool.block_size), block_count(pool)
    start = start_of(node, total, single=size == 1)
    index = start
    while index < start + total:
        cidr = Cidr(whole.family, whole.first + index % total * size, pool.block_size)
        hole = next((hole for hole in without if cidr in hole), None)
        if hole is None:
            yield cidr
        index += 1 if hole is None else (min(hole.last, whole.last) + 1 - cidr.first) // size


def block_count(pool: Pool) -> int:
    """Return how many blocks the pool can be cut into."""
    return 1 << (pool.block_size - parse_cidr(pool.cidr).prefix)


def start_of(node: str, total: int, single: bool = False) -> int:
    """Return which of `total` blocks the node looks at first. Blocks of one address are looked at from anywhere."""
    seed = time.time_ns() if single else fnv1(node.encode())
    return (seed * GOLDEN % 2**64) * total >> 64


def fnv1(data: bytes) -> int:
    """Return the 32-bit FNV-1 hash."""
    value = FNV_OFFSET
    for byte in data:
        value = value * FNV_PRIME % 2**32 ^ byte
    return value
