"""What people see: Calico's ASCII box table, its numbers, and text from records made safe for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

LONGEST_VALUE = 200  # characters in a message


def render(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return a box table: header centred, cells on the left, or on the right in the columns given by index."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(lines(header, rows, widths, right))


def lines(
    header: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int], right: Sequence[int] = ()
) -> Iterator[str]:
    """Yield a box table line by line, for rows of which only the widths of the columns are known beforehand."""
    rule = "+".join(["", *("-" * (width + 2) for width in widths), ""])
    yield from (rule, _line(map(_centre, header, widths)), rule)
    for row in rows:
        yield _line(_cell(text, width, at in right) for at, (text, width) in enumerate(zip(row, widths, strict=True)))
    yield rule


def number(count: int) -> str:
    """Return a count to five significant digits, as C's and Go's %.5g: 65536, 1.8447e+19."""
    return f"{float(count):.5g}"


def amount(count: int) -> str:
    """Return a count for a sentence: 65,536 in full, with five significant digits from a billion on."""
    return f"{count:,}" if count < 10**9 else number(count)


def share(count: int, total: int) -> str:
    """Return a count and how many percent of the total it is, rounded: `12 (19%)`. The total must not be 0."""
    return f"{number(count)} ({percent(count, total)})"


def percent(count: int, total: int) -> str:
    """Return how many percent of the total a count is, rounded: `19%`. The total must not be 0."""
    return f"{100 * float(count) / float(total):.0f}%"


def printable(text: str) -> str:
    """Return text with everything escaped that could move a terminal's cursor or start a new line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def brief(value: object) -> str:
    """Return a value as Python writes it, cut off where it gets long, for a message."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str, width: int, to_the_right: bool) -> str:
    return text.rjust(width) if to_the_right else text.ljust(width)


def _centre(text: str, width: int) -> str:
    """Centre as Calico's tables do: an odd space goes to the right (str.center puts it left at times)."""
    return (" " * ((width - len(text)) // 2) + text).ljust(width)
