"""`calicoctl ipam show --map`: each pool as a map of its blocks, for a terminal, with and without colour.

A cell is two characters wide, which makes it about square. In colour it is a shade twice, and its colour says whose it
is; without colour a mark in front of the shade says so, unless it is this node's.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import click

from calicoctl.ipam.chart import (
    BORROWED,
    COOLING,
    FREE,
    FULL,
    LOST,
    MIXED,
    OTHER,
    OURS,
    RESERVED,
    Gap,
    Line,
    Shape,
    chart,
)
from calicoctl.ipam.facts import LEVELS, block_count, facts, in_use_by_kind, kind_of, left_out, meanings, nodes_of
from calicoctl.table import amount, printable
from datastore.frozen import frozen
from ipam.cidr import Address, parse_cidr
from ipam.utilization import node_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TextIO

    from calicoctl.ipam.chart import Cell, Chart, Survey
    from ipam.cidr import Cidr
    from ipam.utilization import BlockUsage, PoolUsage

MOST_ROWS = 32
WIDEST_ROW = 64  # cells
NARROWEST_GAUGE = 40  # columns
NODES = 5  # named below a map

COLORS = {OURS: "green", OTHER: "blue", BORROWED: "yellow", LOST: "red", COOLING: "cyan", MIXED: "white",
          RESERVED: "magenta", FREE: "bright_black"}
MARKS = {OTHER: "o", BORROWED: "b", LOST: "?", COOLING: "c", MIXED: "*"}


@frozen
class Pen:
    """How to draw: with colour or not, and the characters for levels of fullness, free, reserved and left out."""

    color: bool
    levels: str
    free: str
    reserved: str
    gap: str

    def cell(self, cell: Cell) -> str:
        """Return the two characters of a cell, uncoloured."""
        return self.square(cell.kind, cell.level)

    def square(self, kind: str, level: int) -> str:
        """Return the two characters for a kind and a level of fullness, uncoloured."""
        if kind in (FREE, RESERVED):
            return self.free if kind == FREE else self.reserved
        shade = self.levels[level]
        return (shade if self.color else MARKS.get(kind, shade)) + shade

    def title(self, text: str) -> str:
        """Return text as the title of what follows."""
        return click.style(text, bold=True) if self.color else text

    def paint(self, text: str, kind: str) -> str:
        """Return text in the colour of a kind."""
        return click.style(text, fg=COLORS[kind]) if self.color and text else text


def pen(stream: TextIO, env: Mapping[str, str]) -> Pen:
    """Return how to draw on a stream: in colour on a terminal, unless NO_COLOR is set (no-color.org)."""
    color = stream.isatty() and not env.get("NO_COLOR") and env.get("TERM") != "dumb"
    try:
        "▁░▒▓█·…".encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return Pen(color, "_-=%#", " .", "//", "...")
    return Pen(color, "▁░▒▓█", " ·", "//", "…")


def draw(found: Survey, width: int, with_pen: Pen) -> Iterator[str]:
    """Yield the lines of the whole map for a terminal of this many columns."""
    kinds: set[str] = set()
    for pool, usage, items in found.pools:
        label = len(str(Address(parse_cidr(pool.cidr).family, parse_cidr(pool.cidr).last)))
        shape = Shape(cells_per_row(width, label), MOST_ROWS)
        drawn = chart(pool, usage, items, found.reserved, shape)
        kinds |= drawn.kinds()
        yield from _pool(drawn, shape.per_row, found.node, with_pen)
        yield ""
    yield from _without_pool(found.without_pool)
    yield from _legend(kinds, found.node, with_pen, width)


def cells_per_row(width: int, label: int) -> int:
    """Return how many cells fit beside a label, as a power of two, so that rows begin at round addresses."""
    room = max((width - label - 1) // 2, 8)
    return min(1 << room.bit_length() - 1, WIDEST_ROW)


def _pool(drawn: Chart, per_row: int, node: str, with_pen: Pen) -> Iterator[str]:
    usage = drawn.usage
    lines = [(str(Address(cidr.family, cidr.first)), text) for cidr, text in _rows(drawn, with_pen)]
    label = max((len(start) for start, _ in lines), default=0)
    yield f"{with_pen.title(printable(usage.name))}  {usage.cidr}"
    cells = max((len(line.cells) for line in drawn.lines if isinstance(line, Line)), default=per_row)
    yield _gauge(usage, max(label + 1 + 2 * cells, NARROWEST_GAUGE), node, with_pen)
    yield from (*facts(drawn), "")
    yield from (f"{start:<{label}} {text}" for start, text in lines)
    yield from ("", *_nodes(usage, node, with_pen))


def _rows(drawn: Chart, with_pen: Pen) -> Iterator[tuple[Cidr, str]]:
    """Yield where each line of the map begins, and its text."""
    for line in drawn.lines:
        if isinstance(line, Gap):
            yield line.cidr, with_pen.paint(f" {with_pen.gap} {left_out(line, drawn)}", FREE)
        else:
            yield line.cells[0].cidr, _cells(line, with_pen)


def _cells(line: Line, with_pen: Pen) -> str:
    """Return a row's cells, with one change of colour where the kind changes."""
    runs = groupby(line.cells, key=lambda cell: cell.kind)
    return "".join(with_pen.paint("".join(map(with_pen.cell, run)), kind) for kind, run in runs).rstrip()


def _gauge(usage: PoolUsage, width: int, node: str, with_pen: Pen) -> str:
    """Return a bar of a pool's use: this node's blocks' part, that of other nodes', and that of no node's."""
    bar, done, sofar = "", 0, 0
    for kind, count in in_use_by_kind(usage.blocks, node).items():
        sofar += count
        upto = min(max(width * sofar // usage.total, done + (count > 0)), width)
        bar += with_pen.paint(with_pen.levels[FULL] * (upto - done), kind)
        done = upto
    return bar + with_pen.paint(with_pen.levels[1] * (width - done), FREE)


def _nodes(usage: PoolUsage, node: str, with_pen: Pen) -> Iterator[str]:
    """Yield a line for each of the nodes that have most addresses in use."""
    found = nodes_of(usage.blocks)
    width = max((len(printable(name or "no node")) for name, _, _ in found[:NODES]), default=0)
    for name, blocks, in_use in found[:NODES]:
        kind = kind_of(name, node)
        text = f"{printable(name or 'no node'):<{width}}  {amount(in_use)} in use in {block_count(blocks)}"
        yield with_pen.paint(text, kind) + (", this node" if kind == OURS else "")
    if len(found) > NODES:
        yield with_pen.paint(f"and {amount(len(found) - NODES)} nodes more", FREE)


def _without_pool(blocks: tuple[BlockUsage, ...]) -> Iterator[str]:
    """Yield a line for each of the first blocks that lie in no pool."""
    if not blocks:
        return
    yield f"In no pool: {block_count(len(blocks))}"
    for block in blocks[:NODES]:
        yield f"{block.cidr}  {block.in_use} in use, {printable(node_of(block.affinity) or 'no node')}"
    if len(blocks) > NODES:
        yield f"and {amount(len(blocks) - NODES)} blocks more"
    yield ""


def _legend(kinds: set[str], node: str, with_pen: Pen, width: int) -> Iterator[str]:
    """Yield what the kinds of cells that were drawn mean, and the shades."""
    yield from _wrapped([(with_pen.paint(with_pen.square(kind, 2), kind), printable(words))
                         for kind, words in meanings(node).items() if kind in kinds], width)
    if kinds - {FREE, RESERVED}:
        yield from _wrapped([(2 * with_pen.levels[level], words) for level, words in enumerate(LEVELS)], width)


def _wrapped(entries: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield samples of two characters, each with its meaning, as many to a line as fit."""
    line, used = "", 0
    for sample, words in entries:
        if line and used + len(words) + 6 > width:
            yield line
            line, used = "", 0
        line += f"{'   ' if line else ''}{sample} {words}"
        used += len(words) + 6
    if line:
        yield line
