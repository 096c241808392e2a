"""What calicoctl prints, without a datastore: box tables, numbers, shares, text from records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from calicoctl.ipam.usage import table
from calicoctl.table import amount, number, printable, render, share
from ipam.utilization import BlockUsage

COUNTS = st.integers(0, 2**128)


def counts(cidr: str, total: int, in_use: int, reserved: int = 0) -> BlockUsage:
    return BlockUsage(cidr, None, total, in_use, reserved, total - in_use - reserved, cooling=0, borrowed=0)


def test_the_example_of_the_reference() -> None:
    """Numbers in the columns and with the spaces of Calico (commands/ipam/show.go)."""
    rows = [("IP Pool", counts("10.244.0.0/16", 65536, 17)), ("Block", counts("10.244.64.0/26", 64, 9))]
    assert table(rows) == """\
+----------+----------------+-----------+------------+--------------+--------------+
| GROUPING |      CIDR      | IPS TOTAL | IPS IN USE | IPS RESERVED |   IPS FREE   |
+----------+----------------+-----------+------------+--------------+--------------+
| IP Pool  | 10.244.0.0/16  |     65536 |    17 (0%) |       0 (0%) | 65519 (100%) |
| Block    | 10.244.64.0/26 |        64 |    9 (14%) |       0 (0%) |     55 (86%) |
+----------+----------------+-----------+------------+--------------+--------------+"""


def test_a_table_without_rows_is_its_header() -> None:
    assert render(("A", "BC"), []) == "+---+----+\n| A | BC |\n+---+----+\n+---+----+"


def test_an_odd_space_of_the_header_is_on_the_right() -> None:
    for width in range(1, 8):
        header = render(("A",), [("x" * width,)]).splitlines()[1][2:-2]
        left, right = (len(part) for part in header.split("A"))
        assert right - left in (0, 1)


def test_reserved_addresses_are_not_free() -> None:
    cells = table([("Block", counts("10.0.0.0/26", 64, 12, 2))]).splitlines()[3].split("|")
    assert [cell.strip() for cell in cells[3:-1]] == ["64", "12 (19%)", "2 (3%)", "50 (78%)"]


def test_numbers_as_go_prints_them() -> None:
    """Expected values are those of Go's fmt: "%.5g" and "%.f%%", which rounds half to even."""
    assert [number(count) for count in (0, 9, 99999, 100000, 1048576, 2**64, 2**80, 2**128)] == [
        "0", "9", "99999", "1e+05", "1.0486e+06", "1.8447e+19", "1.2089e+24", "3.4028e+38",
    ]
    assert [share(count, 8) for count in (0, 1, 3, 8)] == ["0 (0%)", "1 (12%)", "3 (38%)", "8 (100%)"]


def test_numbers_in_a_sentence() -> None:
    assert [amount(count) for count in (0, 999, 1000, 999_999_999, 10**9, 2**80)] == [
        "0", "999", "1,000", "999,999,999", "1e+09", "1.2089e+24"]


@given(COUNTS)
def test_numbers_keep_five_significant_digits(count: int) -> None:
    assert abs(int(float(number(count))) - count) <= count * 5.0001e-5
    if count < 100_000:
        assert number(count) == str(count)


@given(COUNTS, st.integers(1, 2**128))
def test_shares_are_rounded_percentages(count: int, total: int) -> None:
    percent = int(share(min(count, total), total).partition("(")[2].removesuffix("%)"))
    assert 0 <= percent <= 100
    assert abs(percent - 100 * min(count, total) / total) <= 0.5000001


@given(st.lists(st.tuples(st.text(), st.text()), max_size=4))
def test_every_line_of_a_table_is_as_long(rows: list[tuple[str, str]]) -> None:
    lines = render(("ONE", "TWO"), [tuple(map(printable, row)) for row in rows], right=(1,)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 4 + len(rows)


@given(st.text())
def test_text_cannot_move_the_cursor(text: str) -> None:
    assert printable(text).isprintable()


def test_plain_text_stays() -> None:
    assert printable("pod-1 größe") == "pod-1 größe"
    assert printable("a\x1b[2J\nb\ud800") == r"a\x1b[2J\nb\ud800"
