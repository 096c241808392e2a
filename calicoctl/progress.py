"""Reading all blocks, and other things of which there may be thousands, with a bar on stderr for whoever waits."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from datastore import keys
from ipam.utilization import all_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from datastore.api import Store
    from datastore.model import Block

T = TypeVar("T")

FAMILIES = (4, 6)
PATIENCE = 1.0  # seconds


def every_block(store: Store) -> Iterator[Block]:
    """Yield every block of both families, one at a time in memory. Raises Corrupt."""
    blocks = (block for family in FAMILIES for block in all_blocks(store, family))
    if not sys.stderr.isatty():
        return blocks
    return watched(blocks, sum(len(store.keys(keys.blocks(family))) for family in FAMILIES), PATIENCE)


def watched(items: Iterable[T], count: int, patience: float) -> Iterator[T]:
    """Yield the items; when that takes longer than `patience` seconds, show on stderr how many of `count` are done."""
    rest, done, begun = iter(items), 0, time.monotonic()
    for item in rest:
        yield item
        done += 1
        if time.monotonic() - begun > patience:
            break
    else:
        return
    with click.progressbar(rest, length=count, label="Reading blocks", file=sys.stderr) as bar:
        bar.update(done)
        yield from bar


def counted(items: Iterable[Any], label: str, count: int) -> Iterable[Any]:
    """Return the items, with a bar on stderr where somebody watches."""
    return _with_bar(items, label, count) if count and sys.stderr.isatty() else items


def _with_bar(items: Iterable[Any], label: str, count: int) -> Iterator[Any]:
    with click.progressbar(items, length=count, label=label, file=sys.stderr) as bar:
        yield from bar
