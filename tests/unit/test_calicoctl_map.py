"""`calicoctl ipam show --map`: what is drawn for small, large and vast pools, with and without colour."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calicoctl.ipam.blockmap import cells_per_row, pen
from calicoctl.ipam.chart import FULL, Cell, Gap, Item, Line, Shape, chart
from calicoctl.node import this_node
from datastore.resources import Pool
from ipam.cidr import Cidr, parse_cidr
from ipam.utilization import utilization

from .calicoctl_kit import Place, cooling, pod

MANY = Shape(per_row=8, most_rows=4)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A datastore with nothing in it."""
    return Place(tmp_path)


def drawn(place: Place, columns: int = 80, **env: str) -> list[str]:
    return place.ok("ipam", "show", "--map", "--node=n1", COLUMNS=str(columns), **env).splitlines()


def test_a_pool_block_by_block(place: Place) -> None:
    """One story: this node's block that is a third full, others', a borrowed one, a lost one, free and reserved."""
    place.pool("p", "10.0.0.0/22", blockSize=26)
    place.block("10.0.0.0/26", "n1", range(22))
    place.block("10.0.0.64/26", "n2", {at: pod("a", "n2") for at in range(64)})
    place.block("10.0.0.128/26", "n2", {at: pod("a", "n3") for at in range(63)})
    place.block("10.0.1.0/26", None, [1])
    place.block("10.0.1.64/26", "n2")
    place.reserve("r", "10.0.3.128/25", "10.0.2.0/32")
    assert drawn(place) == [
        "p  10.0.0.0/22",
        "██████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░",
        "150 of 1,024 addresses in use (15%), 745 free, 129 reserved",
        "5 of 16 blocks cut; one cell is one block of 64 addresses",
        "",
        "10.0.0.0 ▒▒o█b▓ ·?░o▁ · · · · · · · ·////",
        "",
        "n2       127 in use in 3 blocks",
        "n1       22 in use in 1 block, this node",
        "no node  1 in use in 1 block",
        "",
        "▒▒ this node's (n1)   o▒ another node's   b▒ borrowed by other nodes",
        "?▒ no node's   // reserved    · free",
        "▁▁ empty   ░░ less than a third in use   ▒▒ less than two thirds   ▓▓ more",
        "██ full",
    ]


def test_a_small_pool_address_by_address(place: Place) -> None:
    place.pool("p", "10.0.0.0/28", blockSize=30)
    place.block("10.0.0.0/30", "n1", {0: pod("a", "n1"), 2: pod("b", "n2"), 3: cooling()})
    place.block("10.0.0.4/30", "n2", {1: pod("c", "n2")})
    place.reserve("r", "10.0.0.6/31", "10.0.0.12/31", "10.0.0.5")
    lines = drawn(place)
    assert lines[3] == "2 of 4 blocks cut; one cell is one address"
    assert lines[5] == "10.0.0.0 ██▁▁b█c█o▁o█//// · · · ·//// · ·"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200, 1000])
def test_no_line_of_a_map_is_wider_than_the_terminal(place: Place, width: int) -> None:
    """From 40 columns on; below that a row has eight cells all the same."""
    place.pool("p", "10.0.0.0/16")
    place.pool("six", "fd00:1:2::/64")
    place.block("10.0.0.0/26", "n1", [1])
    lines = drawn(place, width)
    rows = [line for line in lines if line.startswith("10.0.") and "·" in line]
    assert rows
    assert all(len(line) <= max(width, 27) for line in rows)
    assert {parse_cidr(f"{row.split()[0]}/32").first % (8 * 64) for row in rows} == {0}


def test_a_vast_pool_around_what_exists(place: Place) -> None:
    """2^74 blocks: two rows are shown, and what lies between them is counted."""
    place.pool("p", "fd00::/48")
    place.block("fd00::40/122", "n1", range(64))
    place.block("fd00:0:0:8000::/122", "n2", [1])
    rows = drawn(place)[5:9]
    assert [row.split() for row in rows] == [
        ["fd00::", "·██", *["·"] * 14],
        ["fd00::400", "…", "9.4447e+21", "blocks", "not", "cut"],
        ["fd00:0:0:8000::", "o░", *["·"] * 15],
        ["fd00:0:0:8000::400", "…", "9.4447e+21", "blocks", "not", "cut"],
    ]


def test_a_large_pool_with_blocks_all_over(place: Place) -> None:
    """16,384 blocks, one in each 64: cells of 16 blocks, of which those that hold a block are drawn as its kind."""
    place.pool("p", "10.0.0.0/12", blockSize=26)
    for at in range(256):
        place.block(str(Cidr(4, parse_cidr("10.0.0.0/12").first + at * 64 * 64, 26)), "n1" if at else "n2", range(64))
    lines = drawn(place)
    assert lines[3] == "256 of 16,384 blocks cut; one cell is 16 blocks of 64 addresses each"
    rows = [line for line in lines if line.startswith("10.")]
    assert len(rows) == 32
    assert rows[0].split() == ["10.0.0.0", "o░", "·", "·", *["·░░", "·", "·"] * 7, "·"]


def test_no_pool_no_map(place: Place) -> None:
    place.directory.mkdir()
    assert place.ok("ipam", "show", "--map") == "\n"


def test_blocks_without_a_pool_are_told(place: Place) -> None:
    for at in range(7):
        place.block(f"10.0.0.{64 * at // 16}/32", "n1" if at else None, [0])
    lines = drawn(place)
    assert lines[:2] == ["In no pool: 7 blocks", "10.0.0.0/32  1 in use, no node"]
    assert "and 2 blocks more" in lines


def test_the_bar_of_a_full_pool_is_as_long_as_that_of_an_empty_one(place: Place) -> None:
    """Also where a node and nobody have one address each, which is less than a character and drawn as one."""
    place.pool("empty", "10.1.0.0/20", blockSize=26)
    place.pool("full", "10.0.0.0/20", blockSize=26)
    first = parse_cidr("10.0.0.0/20").first
    for prefix, node in [*((prefix, "n1") for prefix in range(21, 32)), (32, "n2"), (32, None)]:
        cidr = Cidr(4, first, prefix)
        place.block(str(cidr), node, range(cidr.size))
        first = cidr.last + 1
    lines = drawn(place)
    empty, full = (lines[lines.index(title) + 1] for title in ("empty  10.1.0.0/20", "full  10.0.0.0/20"))
    assert set(full) == {"█"}
    assert set(empty) == {"░"}
    assert len(full) == len(empty)


def test_more_nodes_than_are_named(place: Place) -> None:
    place.pool("p", "10.0.0.0/16")
    for at in range(8):
        place.block(f"10.0.{at}.0/26", f"n{at}", range(at))
    lines = drawn(place)
    at = lines.index("n7  7 in use in 1 block")
    assert lines[at + 4 : at + 6] == ["n3  3 in use in 1 block", "and 3 nodes more"]


def test_text_of_records_cannot_move_the_cursor(place: Place) -> None:
    place.pool("p\x1b[2J", "10.0.0.0/24", blockSize=32)
    place.block("10.0.0.0/32", "n\n1", [0])
    text = "\n".join(drawn(place))
    assert "\x1b" not in text
    assert r"n\n1" in text
    assert r"p\x1b[2J" in text


class Ascii(io.StringIO):
    """A stream that takes ASCII only."""

    encoding = "ascii"


def test_a_terminal_without_unicode() -> None:
    with_pen = pen(Ascii(), {})
    everything = with_pen.levels + with_pen.free + with_pen.reserved + with_pen.gap
    assert everything.isascii()
    assert len(with_pen.levels) == FULL + 1


def on_a_terminal(place: Place, **env: str) -> str:
    """Run the command with a terminal as its stdout; return what it shows."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "calicoctl", "-c", str(place.config), "ipam", "show", "--map", "--node=n1"]
    settings = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "80", "LANG": "C.UTF-8", **env}
    with subprocess.Popen(command, stdout=follower, env=settings) as process:
        os.close(follower)
        data = b""
        while chunk := read(leader):
            data += chunk
    os.close(leader)
    assert process.returncode == 0
    return data.decode()


def read(leader: int) -> bytes:
    """Return what a terminal shows next, nothing when nobody writes to it any more."""
    try:
        return os.read(leader, 65536)
    except OSError:
        return b""


def test_colour_on_a_terminal(place: Place) -> None:
    """A shade twice in the colour of the owner: green for this node, blue for another."""
    place.pool("p", "10.0.0.0/22", blockSize=26)
    place.block("10.0.0.0/26", "n1", range(64))
    place.block("10.0.0.64/26", "n2", range(64))
    text = on_a_terminal(place)
    assert "\x1b[32m██\x1b[0m\x1b[34m██\x1b[0m\x1b[90m · ·" in text
    assert "o█" not in text


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_no_colour(place: Place, env: dict[str, str]) -> None:
    place.pool("p", "10.0.0.0/22", blockSize=26)
    place.block("10.0.0.64/26", "n2", range(64))
    text = on_a_terminal(place, **env)
    assert "\x1b" not in text
    assert "10.0.0.0  ·o█ ·" in text


def test_which_node_is_this(tmp_path: Path) -> None:
    file = tmp_path / "nodename"
    assert this_node({}, str(file)) == os.uname().nodename.lower()
    file.write_text("from-file\n")
    assert this_node({}, str(file)) == "from-file"
    assert this_node({"NODENAME": "a"}, str(file)) == "a"
    assert this_node({"NODENAME": "a", "KUBERNETES_NODE_NAME": "b"}, str(file)) == "b"


def test_levels_of_fullness() -> None:
    cidr = parse_cidr("10.0.0.0/26")
    items = [Item(cidr, "ours", in_use, "n1", "") for in_use in (0, 1, 21, 22, 42, 43, 64)]
    assert [Cell(cidr, "ours", (item,)).level for item in items] == [0, 1, 1, 2, 2, 3, FULL]


def lay_out(cidr: str, block_size: int, blocks: list[Cidr], shape: Shape = MANY) -> tuple[list[Line | Gap], int]:
    """Return the rows of a pool's map with these blocks, each half full, and how many blocks a cell stands for."""
    pool = Pool("p", cidr, block_size)
    items = [Item(block, "ours", block.size // 2, "n1", "") for block in blocks]
    [usage] = utilization([pool], [], []).pools
    found = chart(pool, usage, items, [], shape)
    return list(found.lines), found.per_cell


def test_a_block_larger_than_a_cell_fills_all_its_cells() -> None:
    """The pool was remade with smaller blocks."""
    [line, _], per_cell = lay_out("10.0.0.0/20", 28, [parse_cidr("10.0.0.32/27")])
    assert isinstance(line, Line)
    assert per_cell == 1
    assert [(cell.kind, cell.in_use, cell.total) for cell in line.cells[:5]] == [
        ("free", 0, 16), ("free", 0, 16), ("ours", 16, 32), ("ours", 16, 32), ("free", 0, 16)]


def test_a_gap_of_one_row_is_drawn() -> None:
    """It would take as much room left out."""
    rows, _ = lay_out("10.0.0.0/16", 28, [parse_cidr("10.0.0.0/28"), parse_cidr("10.0.1.0/28")])
    assert [type(row).__name__ for row in rows] == ["Line", "Line", "Line", "Gap"]


@given(st.lists(st.integers(0, 2**20 - 1), max_size=12, unique=True), st.sampled_from([8, 16, 64]),
       st.integers(3, 32))
def test_every_block_is_in_the_map_once_and_nothing_is_left_unsaid(
    numbers: list[int], per_row: int, most_rows: int
) -> None:
    """Lines and gaps follow each other without a hole, are no more than fit, and hold every block."""
    first = parse_cidr("fd00::/102").first
    blocks = [Cidr(6, first + number * 64, 122) for number in numbers]
    rows, per_cell = lay_out("fd00::/102", 122, blocks, Shape(per_row, most_rows))
    assert len(rows) <= most_rows
    at = first
    seen = []
    for row in rows:
        if isinstance(row, Gap):
            assert row.cidr.first == at
            at += row.units * 64
        else:
            assert row.cells[0].cidr.first == at
            at += sum(cell.cidr.size for cell in row.cells)
            assert {cell.cidr.size for cell in row.cells} == {64 * per_cell}
            seen += [item.cidr for cell in row.cells for item in cell.items]
    assert at == first + 2**26
    assert sorted(seen, key=str) == sorted(blocks, key=str)


@given(st.integers(1, 1000), st.integers(7, 40))
def test_rows_begin_at_round_addresses(width: int, label: int) -> None:
    cells = cells_per_row(width, label)
    assert cells in (8, 16, 32, 64)
    assert cells == 8 or label + 1 + 2 * cells <= width
