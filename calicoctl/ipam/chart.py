"""What a map of a pool shows, whatever it is drawn with: rows of cells, a cell for each block or group of blocks.

A small pool has a cell for each address. A pool with more blocks than fit is shown only around the blocks that exist,
cell by block; where these are too many and too far apart, a cell stands for 2, 4, 8 … blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calicoctl.ipam.usage import every_pool, every_reservation
from calicoctl.progress import every_block
from datastore.frozen import frozen
from ipam.block import describe, owner_of
from ipam.cidr import BITS, Cidr, block_at, parse_cidr
from ipam.reservation import is_reserved, reserved_ordinals
from ipam.utilization import Places, is_borrowed, node_of, utilization

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from datastore.api import Store
    from datastore.model import Block
    from datastore.resources import Pool
    from ipam.utilization import BlockUsage, PoolUsage

SMALL = 256  # addresses: a pool of no more is drawn address by address

FREE, RESERVED, OURS, OTHER, BORROWED, LOST, COOLING, MIXED = (
    "free", "reserved", "ours", "other", "borrowed", "lost", "cooling", "mixed")
FULL = 4


@frozen
class Item:
    """A block, or an address of one: whose it is, and who holds it, empty for a block and a free address."""

    cidr: Cidr
    kind: str
    in_use: int
    node: str
    holder: str


@frozen
class Cell:
    """One square of the map, and what lies in it, or around it where a block is larger than a cell."""

    cidr: Cidr
    kind: str
    items: tuple[Item, ...]

    @property
    def in_use(self) -> int:
        """Number of addresses in use."""
        return sum(item.in_use for item in self.items)

    @property
    def total(self) -> int:
        """Number of addresses that `in_use` is a part of."""
        return max(self.cidr.size, *(item.cidr.size for item in self.items), 0)

    @property
    def level(self) -> int:
        """How full: 0 nothing in use, 1 to 3 for thirds, FULL when all is."""
        return 1 + 3 * self.in_use // self.total if self.in_use else 0


@frozen
class Line:
    """A row of cells side by side; the first one's address is a multiple of what a full row spans."""

    cells: tuple[Cell, ...]


@frozen
class Gap:
    """Rows that were left out because there is no block in them: from this address on, so many units."""

    cidr: Cidr
    units: int


@frozen
class Chart:
    """One pool's map. A unit is a block of the pool's size, or an address; a cell stands for `per_cell` of them."""

    usage: PoolUsage
    unit: int
    per_cell: int
    lines: tuple[Line | Gap, ...]

    def kinds(self) -> set[str]:
        """Return which kinds of cells are shown."""
        return {cell.kind for line in self.lines if isinstance(line, Line) for cell in line.cells}


@frozen
class Shape:
    """How much room there is: cells side by side, a power of two, and rows."""

    per_row: int
    most_rows: int


@frozen
class Grid:
    """A pool's CIDR in cells of one prefix length, numbered from 0, so many to a row."""

    whole: Cidr
    prefix: int
    per_row: int

    @property
    def count(self) -> int:
        """Number of cells."""
        return 1 << self.prefix - self.whole.prefix

    @property
    def rows(self) -> int:
        """Number of rows; the last one may be short."""
        return -(-self.count // self.per_row)

    def cell(self, number: int) -> Cidr:
        """Return the range of a cell."""
        return Cidr(self.whole.family, self.whole.first + number * (self.whole.size // self.count), self.prefix)

    def numbers(self, cidr: Cidr) -> range:
        """Return the numbers of the cells that a range in the pool lies in or spans."""
        shift = BITS[self.whole.family] - self.prefix
        return range((cidr.first - self.whole.first) >> shift, ((cidr.last - self.whole.first) >> shift) + 1)


@frozen
class Survey:
    """What every map is drawn from: each pool with its counts and items, the blocks of no pool, reserved ranges."""

    pools: tuple[tuple[Pool, PoolUsage, tuple[Item, ...]], ...]
    without_pool: tuple[BlockUsage, ...]
    reserved: tuple[Cidr, ...]
    node: str


def survey(store: Store, node: str) -> Survey:
    """Look at every block once, as this node's. Raises Corrupt."""
    pools, reserved = every_pool(store), every_reservation(store)
    items: list[list[Item]] = [[] for _ in pools]
    places = Places(pools)

    def noted() -> Iterator[Block]:
        for block in every_block(store):
            at = places.of(parse_cidr(block.cidr))
            if at is not None:
                small = parse_cidr(pools[at].cidr).size <= SMALL
                items[at] += _addresses(block, node, reserved) if small else [_whole(block, node)]
            yield block

    found = utilization(pools, reserved, noted())
    return Survey(tuple(zip(pools, found.pools, map(tuple, items), strict=True)), found.without_pool,
                  tuple(reserved), node)


def chart(pool: Pool, usage: PoolUsage, items: Sequence[Item], reserved: Iterable[Cidr], shape: Shape) -> Chart:
    """Lay out one pool's map, in the finest cells for which there is room."""
    whole = parse_cidr(pool.cidr)
    unit = BITS[whole.family] if whole.size <= SMALL else pool.block_size
    grid = Grid(whole, unit, shape.per_row)
    while (rows := _rows(grid, items, shape.most_rows)) is None:
        grid = Grid(whole, grid.prefix - 1, shape.per_row)
    near = [cidr for cidr in reserved if cidr.overlaps(whole)]
    per_cell = 1 << unit - grid.prefix
    return Chart(usage, unit, per_cell, tuple(_lines(grid, rows, _by_cell(grid, items), near, per_cell)))


def _rows(grid: Grid, items: Iterable[Item], most: int) -> list[int] | None:
    """Return the numbers of the rows to show: all if they fit, else those with items, or None when these do not."""
    if grid.rows <= most:
        return list(range(grid.rows))
    taken = {at // grid.per_row for item in items for at in grid.numbers(item.cidr)}
    rows = sorted(taken | {row + 1 for row in taken if row + 2 in taken})  # what is left out takes a line, too
    gaps = sum(after - before > 1 for before, after in zip([-1, *rows], [*rows, grid.rows], strict=True))
    return rows if len(rows) + gaps <= most else None


def _by_cell(grid: Grid, items: Iterable[Item]) -> dict[int, list[Item]]:
    """Return the items by the number of the cell that they lie in, or the cells that they span."""
    found: dict[int, list[Item]] = {}
    for item in items:
        for at in grid.numbers(item.cidr):
            found.setdefault(at, []).append(item)
    return found


def _lines(
    grid: Grid, rows: Iterable[int], cells: Mapping[int, Sequence[Item]], reserved: Sequence[Cidr], per_cell: int
) -> Iterator[Line | Gap]:
    """Yield the rows, and a gap wherever some are left out."""
    done = 0
    for first in [*(row * grid.per_row for row in rows), grid.count]:
        if first > done:
            yield Gap(grid.cell(done), (first - done) * per_cell)
        if first < grid.count:
            done = min(first + grid.per_row, grid.count)
            yield Line(tuple(_cell(grid.cell(at), cells.get(at, ()), reserved) for at in range(first, done)))


def _cell(cidr: Cidr, items: Sequence[Item], reserved: Sequence[Cidr]) -> Cell:
    kinds = {item.kind for item in items}
    if not kinds:
        kinds = {RESERVED if is_reserved(reserved, cidr) else FREE}
    return Cell(cidr, kinds.pop() if len(kinds) == 1 else MIXED, tuple(items))


def _whole(block: Block, node: str) -> Item:
    """Return a block as one item."""
    held = [block.attributes[index] for index in block.allocations if index is not None]
    lent = any(is_borrowed(block, holder) for holder in held)
    kind = BORROWED if lent and block.affinity is not None else _home(block, node)
    return Item(parse_cidr(block.cidr), kind, len(held), node_of(block.affinity) or "", "")


def _addresses(block: Block, node: str, reserved: Iterable[Cidr]) -> Iterator[Item]:
    """Yield each address of a block as an item."""
    cidr, home = parse_cidr(block.cidr), _home(block, node)
    kept = reserved_ordinals([near for near in reserved if near.overlaps(cidr)], cidr)
    for ordinal in range(cidr.size):
        holder = owner_of(block, ordinal)
        if holder is None:
            kind, name = (RESERVED if ordinal in kept else home), ""
        elif holder.released_at:
            kind, name = COOLING, f"released at {holder.released_at}"
        else:
            kind, name = (BORROWED if is_borrowed(block, holder) else home), describe(holder)
        yield Item(block_at(cidr.address(ordinal), BITS[cidr.family]), kind, int(holder is not None),
                   node_of(block.affinity) or "", name)


def _home(block: Block, node: str) -> str:
    """Return whose a block is."""
    owner = node_of(block.affinity)
    if owner is None:
        return LOST
    return OURS if owner == node else OTHER
