"""What a map says in words and numbers, whatever it is drawn with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calicoctl.ipam.chart import BORROWED, COOLING, FREE, LOST, MIXED, OTHER, OURS, RESERVED
from calicoctl.table import amount, percent
from ipam.cidr import BITS, parse_cidr
from ipam.utilization import node_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calicoctl.ipam.chart import Chart, Gap
    from ipam.utilization import BlockUsage

LEVELS = ("empty", "less than a third in use", "less than two thirds", "more", "full")


def meanings(node: str) -> dict[str, str]:
    """Return what each kind of cell means, with the name of the node whose blocks are shown as its own."""
    return {
        OURS: f"this node's ({node})", OTHER: "another node's", BORROWED: "borrowed by other nodes",
        LOST: "no node's", COOLING: "cooling down", MIXED: "of several kinds", RESERVED: "reserved", FREE: "free",
    }


def kind_of(owner: str | None, node: str) -> str:
    """Return the kind of a block of this owner, None for no node."""
    if owner is None:
        return LOST
    return OURS if owner == node else OTHER


def facts(drawn: Chart) -> tuple[str, str]:
    """Return two lines: a pool's counts, and what a cell of its map stands for."""
    usage = drawn.usage
    counts = (f"{amount(usage.in_use)} of {amount(usage.total)} addresses in use ({percent(usage.in_use, usage.total)})"
              f", {amount(usage.free)} free" + (f", {amount(usage.reserved)} reserved" if usage.reserved else ""))
    cut = f"{amount(len(usage.blocks))} of {amount(usage.block_limit)} blocks cut"
    return counts, f"{cut}; one cell is {_cell(drawn)}"


def left_out(gap: Gap, drawn: Chart) -> str:
    """Return what a gap in the rows stands for."""
    return f"{amount(gap.units)} {'addresses' if _by_address(drawn) else 'blocks'} not cut"


def block_count(count: int) -> str:
    """Return a number of blocks in words."""
    return "1 block" if count == 1 else f"{amount(count)} blocks"


def in_use_by_kind(blocks: Iterable[BlockUsage], node: str) -> dict[str, int]:
    """Return how many addresses are in use in blocks of this node, of others and of none."""
    found = {OURS: 0, OTHER: 0, LOST: 0}
    for block in blocks:
        found[kind_of(node_of(block.affinity), node)] += block.in_use
    return found


def nodes_of(blocks: Iterable[BlockUsage]) -> list[tuple[str | None, int, int]]:
    """Return nodes with how many blocks they have and addresses in use in them, most addresses first."""
    counts: dict[str | None, tuple[int, int]] = {}
    for block in blocks:
        owner = node_of(block.affinity)
        many, in_use = counts.get(owner, (0, 0))
        counts[owner] = many + 1, in_use + block.in_use
    return sorted(((name, *count) for name, count in counts.items()), key=lambda item: (-item[2], item[0] or ""))


def _cell(drawn: Chart) -> str:
    if _by_address(drawn) and drawn.per_cell == 1:
        return "one address"
    size = f"{amount(1 << BITS[parse_cidr(drawn.usage.cidr).family] - drawn.unit)} addresses"
    return f"one block of {size}" if drawn.per_cell == 1 else f"{amount(drawn.per_cell)} blocks of {size} each"


def _by_address(drawn: Chart) -> bool:
    return drawn.unit == BITS[parse_cidr(drawn.usage.cidr).family]
