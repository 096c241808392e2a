"""`calicoctl ipam show --show-borrowed`: addresses that a node holds in a block of another node, or of none.

Calico: getBorrowedIPs (calicoctl commands/ipam/show.go).
"""

from __future__ import annotations

import json
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

import click

from calicoctl.output import TEXT, echo_long
from calicoctl.table import lines, printable
from datastore.frozen import frozen
from ipam.block import owner_of
from ipam.cidr import parse_cidr
from ipam.utilization import is_borrowed, node_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from datastore.model import Attribute, Block

HEADER = ("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO")
KEYS = ("ip", "borrowingNode", "block", "blockOwner", "type", "allocatedTo")


@frozen
class Borrowed:
    """One such address; `kind` is pod, vmi, container or the type of a tunnel's address, and empty when not known."""

    address: str
    node: str
    block: str
    block_owner: str
    kind: str
    allocated_to: str


class Findings:
    """Rows put aside in a file, for there may be more than fit into memory.

    widths: of the columns, as printed. without_node: allocations of which it cannot be told who holds them.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.widths = list(map(len, HEADER))
        self.without_node = 0

    def add(self, row: Borrowed) -> None:
        """Put a row at the end; raises OSError."""
        cells = list(vars(row).values())
        self._file.write(json.dumps(cells) + "\n")
        self.widths = [max(width, len(printable(cell))) for width, cell in zip(self.widths, cells, strict=True)]

    def __iter__(self) -> Iterator[list[str]]:
        """Yield the rows as lists of text, in the order of HEADER. Raises OSError."""
        self._file.seek(0)
        yield from map(json.loads, self._file)


def borrowed(blocks: Iterable[Block], file: IO[str]) -> Findings:
    """Put into the file what is borrowed in these blocks, in their order. Raises what reading them does, OSError."""
    findings = Findings(file)
    for block in blocks:
        for ordinal in range(len(block.allocations)):
            holder = owner_of(block, ordinal)
            if holder is None or holder.released_at:
                continue
            findings.without_node += "node" not in holder.owner
            if is_borrowed(block, holder):
                findings.add(_row(block, ordinal, holder))
    return findings


def show_borrowed(blocks: Iterable[Block], form: str) -> None:
    """Print what is borrowed in these blocks. Raises what reading them does, OSError."""
    with TemporaryFile("w+", encoding="ascii") as file:
        _print(borrowed(blocks, file), form)


def _print(findings: Findings, form: str) -> None:
    """Print Calico's table and note, or JSON or YAML."""
    if form != TEXT:
        rows = (dict(zip(KEYS, row, strict=True)) for row in findings)
        echo_long("borrowed", rows, {"withoutNode": findings.without_node}, form)
        return
    for line in lines(HEADER, (list(map(printable, row)) for row in findings), findings.widths):
        click.echo(line)
    if findings.without_node:
        click.echo(f"\nNote: found {findings.without_node} IP allocations without an explicit node association. "
                   "Unable to determine if they are borrowed.")


def _row(block: Block, ordinal: int, holder: Attribute) -> Borrowed:
    address = parse_cidr(block.cidr).address(ordinal)
    return Borrowed(str(address), holder.owner["node"], block.cidr, node_of(block.affinity) or "",
                    *allocated_to(holder))


def allocated_to(holder: Attribute) -> tuple[str, str]:
    """Return the kind of an address's holder, and its name: `pod`, `default/web`. Both are empty when not known."""
    owner = holder.owner
    for key, kind in (("vmi-name", "vmi"), ("pod", "pod"), ("container", "container")):
        if owner.get(key):
            inside = owner.get("namespace") if kind != "container" else ""
            return kind, f"{inside}/{owner[key]}" if inside else owner[key]
    return owner.get("type", ""), ""
