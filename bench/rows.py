"""Figures of one series of runs beside another, and the table they are printed in."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def row(
    what: str, values: Sequence[float], base: Sequence[float] = (), bar: float | None = None, unit: str = "ms"
) -> Json:
    """Return median, 99th percentile and minimum, and the ratio of the median to that of the base."""
    ratio = round(statistics.median(values) / statistics.median(base), 2) if base else None
    return {"what": what, "unit": unit, **figures(values), "ratio": ratio, "bar": bar}


def absolute(what: str, values: Sequence[float], bar: float, of: str = "p99") -> Json:
    """Return a row that is beside no other: its bar is one of a figure itself, in its unit."""
    return {**row(what, values, bar=bar), "bar_of": of}


def figures(values: Sequence[float]) -> Json:
    """Return median, 99th percentile and minimum."""
    ordered = sorted(values)
    late = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"median": round(statistics.median(ordered), 2), "p99": round(late, 2), "min": round(ordered[0], 2)}


def table(rows: Sequence[Json]) -> str:
    """Return the rows for people."""
    labels = [f"{found['what']}, {found['unit']}" for found in rows]
    width = max(map(len, labels), default=0)
    header = f"{'':{width}}{'median':>10}{'p99':>10}{'min':>10}  ratio"
    lines = (f"{label:{width}}{_numbers(found)}" for label, found in zip(labels, rows, strict=True))
    return "\n".join([header, *lines])


def markdown(what: str, rows: Sequence[Json]) -> str:
    """Return the rows as a table of a document."""
    lines = [f"| {what} | median | p99 | min | ratio | bar |", "|---|--:|--:|--:|--:|--:|"]
    for found in rows:
        numbers = [f"{found[name]:,.2f}" for name in ("median", "p99", "min")]
        ratio = "" if found["ratio"] is None else f"{found['ratio']:.2f}"
        cells = [f"{found['what']}, {found['unit']}", *numbers, ratio, _bar(found)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _numbers(found: Json) -> str:
    numbers = "".join(f"{found[name]:10.2f}" for name in ("median", "p99", "min"))
    ratio = f"{found['ratio']:7.2f}" if found["ratio"] is not None else " " * 7 if found["bar"] else ""
    bar = f"  {'' if 'bar_of' in found else '<= '}{_bar(found)}" if found["bar"] else ""
    return f"{numbers}{ratio}{bar}"


def _bar(found: Json) -> str:
    return f"{found['bar_of']} <= {found['bar']} {found['unit']}" if "bar_of" in found else str(found["bar"] or "")
