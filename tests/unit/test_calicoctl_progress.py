"""Looking at thousands of blocks: one at a time in memory, and a bar for whoever waits at a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from calicoctl.ipam.borrowed import borrowed
from calicoctl.progress import watched
from datastore.model import Attribute, Block
from datastore.resources import Pool
from ipam.block import give, new_block
from ipam.cidr import Cidr, parse_cidr
from ipam.utilization import utilization

from .calicoctl_kit import Place


def with_terminal(*command: str) -> tuple[str, str]:
    """Run a Python program whose stderr is a terminal; return its stdout, and what the terminal shows."""
    leader, follower = pty.openpty()
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=follower, text=True, check=True,
                          env={"PATH": os.environ["PATH"], "TERM": "xterm"})
    os.close(follower)
    try:
        shown = os.read(leader, 65536).decode()
    except OSError:
        shown = ""  # nobody wrote to it
    os.close(leader)
    return done.stdout, shown


def test_a_bar_for_what_takes_long() -> None:
    program = "from calicoctl.progress import watched; print(list(watched(iter(range(7)), 7, {})))"
    assert with_terminal("-c", program.format(60)) == ("[0, 1, 2, 3, 4, 5, 6]\n", "")
    stdout, shown = with_terminal("-c", program.format(-1))
    assert stdout == "[0, 1, 2, 3, 4, 5, 6]\n"
    assert "Reading blocks" in shown
    assert "100%" in shown


def test_what_is_quick_shows_no_bar(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.pool("p", "10.0.0.0/24")
    place.block("10.0.0.0/26", held=[1])
    command = ("-m", "calicoctl", "-c", str(place.config), "ipam", "show", "-o", "json")
    stdout, shown = with_terminal(*command)
    assert '"inUse": 1' in stdout
    assert shown == ""


def test_where_there_is_no_terminal_there_is_no_bar(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.pool("p", "10.0.0.0/24")
    assert list(watched([1, 2], 2, 60)) == [1, 2]
    assert '"inUse": 0' in place.ok("ipam", "show", "-o", "json")
    assert capfd.readouterr() == ("", "")


class Living:
    """A stream of blocks that are counted as long as somebody keeps them."""

    def __init__(self) -> None:
        self.most = 0
        self._made: list[weakref.ref[Block]] = []

    def blocks(self, count: int) -> Iterator[Block]:
        """Yield so many blocks of 64 addresses, of which one is borrowed."""
        first = parse_cidr("10.0.0.0/8").first
        for at in range(count):
            block = give(new_block(Cidr(4, first + 64 * at, 26), "n1", 1, ""), [3], Attribute("h", {"node": "n2"}))
            self._made.append(weakref.ref(block))
            self.most = max(self.most, sum(ref() is not None for ref in self._made))
            yield block
            del block


def test_blocks_are_counted_and_let_go() -> None:
    living = Living()
    found = utilization([Pool("p", "10.0.0.0/8", 26)], [], living.blocks(200))
    assert (found.pools[0].in_use, len(found.pools[0].blocks)) == (200, 200)
    assert living.most <= 2


def test_borrowed_addresses_are_written_down_and_let_go() -> None:
    living = Living()
    with tempfile.TemporaryFile("w+") as file:
        found = borrowed(living.blocks(200), file)
        assert sum(row[1] == "n2" for row in found) == 200
    assert living.most <= 2
