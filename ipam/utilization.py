"""How full pools and blocks are: totals and reservations over a pool's CIDR, use over its blocks.

Calico: GetUtilization (libcalico-go lib/ipam/ipam.go). Blocks are read one at a time and only their counts are kept, so
any number of them can be looked at.
"""

from __future__ import annotations

from datastore import keys
from datastore.frozen import frozen
from datastore.model import block_of
from ipam import configuration
from ipam.affinity import own_blocks, read_block
from ipam.block import check
from ipam.cidr import block_at, parse_cidr
from ipam.cooldown import settled
from ipam.reservation import reserved_count, reserved_ordinals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from datastore.api import Store
    from datastore.model import Attribute, Block
    from datastore.resources import Pool
    from ipam.cidr import Cidr


@frozen
class BlockUsage:
    """A block, whose it is, and counts of its addresses.

    in_use: allocated, also those that cool down after a release (`cooling`) and those that other nodes hold
    (`borrowed`). reserved: of these, too, some may be in use. free: neither in use nor reserved.
    """

    cidr: str
    affinity: str | None
    total: int
    in_use: int
    reserved: int
    free: int
    cooling: int
    borrowed: int


@frozen
class PoolUsage:
    """A pool, counts of its addresses (as BlockUsage), how many blocks it can have, and its present ones in order."""

    name: str
    cidr: str
    total: int
    in_use: int
    reserved: int
    free: int
    block_limit: int
    blocks: tuple[BlockUsage, ...]


@frozen
class Utilization:
    """Every pool, in the order given, and the blocks that lie in none, in the order of their addresses."""

    pools: tuple[PoolUsage, ...]
    without_pool: tuple[BlockUsage, ...]


def all_blocks(store: Store, family: int) -> Iterator[Block]:
    """Yield every block of the family as it is by now, one at a time in memory. Raises Corrupt."""
    seconds = configuration.load(store).cooldown_seconds
    for record in store.records(keys.blocks(family)):
        yield settled(check(block_of(record)), seconds)


def blocks_of(store: Store, node: str) -> Iterator[Block]:
    """Yield the blocks of one node, of both families, as they are by now. Raises Corrupt."""
    seconds = configuration.load(store).cooldown_seconds
    for family in (4, 6):
        for cidr in own_blocks(store, node, family):
            stored = read_block(store, cidr)
            if stored:
                yield settled(stored[0], seconds)


def utilization(pools: Sequence[Pool], reserved: Sequence[Cidr], blocks: Iterable[Block]) -> Utilization:
    """Return how full these pools are; a block counts for the first that it lies in. Raises what reading blocks does.

    reserved: ranges that share no address (ipam/reservation.py), of any family.
    """
    found: list[list[BlockUsage]] = [[] for _ in pools]
    without: list[BlockUsage] = []
    place = Places(pools)
    for block in blocks:
        at = place.of(parse_cidr(block.cidr))
        (without if at is None else found[at]).append(block_usage(block, reserved))
    return Utilization(
        tuple(_pool_usage(pool, reserved, inside) for pool, inside in zip(pools, found, strict=True)),
        _in_order(without),
    )


def block_usage(block: Block, reserved: Iterable[Cidr]) -> BlockUsage:
    """Return the counts of one block; its addresses in `reserved` are the reserved ones."""
    kept = reserved_ordinals(_of_family(reserved, block), parse_cidr(block.cidr))
    holders = [block.attributes[index] for index in block.allocations if index is not None]
    return BlockUsage(
        block.cidr,
        block.affinity,
        total=len(block.allocations),
        in_use=len(holders),
        reserved=len(kept),
        free=sum(ordinal not in kept for ordinal in block.unallocated),
        cooling=sum(bool(holder.released_at) for holder in holders),
        borrowed=sum(is_borrowed(block, holder) for holder in holders),
    )


def is_borrowed(block: Block, holder: Attribute) -> bool:
    """Tell whether a node that is not the block's holds an address of it (Calico: getBorrowedIPs).

    Of nobody's address, one that cools down, and of one that says no node, it is not known.
    """
    return not holder.released_at and holder.owner.get("node", node_of(block.affinity)) != node_of(block.affinity)


def node_of(affinity: str | None) -> str | None:
    """Return the node in a block's affinity (`host:node-1`), None when the block has lost its node."""
    return None if affinity is None else affinity.partition(":")[2] or affinity


class Places:
    """Which of some pools a range lies in, without a look at each of them."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._at: dict[Cidr, int] = {}
        for at, pool in enumerate(pools):
            self._at.setdefault(parse_cidr(pool.cidr), at)
        self._prefixes = sorted({cidr.prefix for cidr in self._at})

    def of(self, cidr: Cidr) -> int | None:
        """Return the index of the first pool that holds the whole range, or None."""
        around = (block_at(cidr.address(0), prefix) for prefix in self._prefixes if prefix <= cidr.prefix)
        return min((self._at[whole] for whole in around if whole in self._at), default=None)


def _pool_usage(pool: Pool, reserved: Iterable[Cidr], blocks: Iterable[BlockUsage]) -> PoolUsage:
    """Count a pool: what is reserved but in use as well is taken off the free ones once, not twice."""
    whole = parse_cidr(pool.cidr)
    inside = _in_order(blocks)
    in_use = sum(block.in_use for block in inside)
    kept = reserved_count(reserved, whole)
    both = sum(block.in_use + block.reserved + block.free - block.total for block in inside)
    return PoolUsage(pool.name, pool.cidr, whole.size, in_use, kept, whole.size - in_use - kept + both,
                     1 << (pool.block_size - whole.prefix), inside)


def _in_order(blocks: Iterable[BlockUsage]) -> tuple[BlockUsage, ...]:
    """Return blocks in the order of their families and addresses."""
    def place(block: BlockUsage) -> tuple[int, int]:
        cidr = parse_cidr(block.cidr)
        return cidr.family, cidr.first

    return tuple(sorted(blocks, key=place))


def _of_family(reserved: Iterable[Cidr], block: Block) -> list[Cidr]:
    family = 6 if ":" in block.cidr else 4
    return [cidr for cidr in reserved if cidr.family == family]
