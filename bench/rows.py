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
    ordered = sorted(values)
    late = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    median = statistics.median(ordered)
    ratio = round(median / statistics.median(base), 2) if base else None
    return {"what": what, "unit": unit, "median": round(median, 2), "p99": round(late, 2), "min": round(ordered[0], 2),
            "ratio": ratio, "bar": bar}  # fmt: skip


def table(rows: Sequence[Json]) -> str:
    """Return the rows for people."""
    labels = [f"{found['what']}, {found['unit']}" for found in rows]
    width = max(map(len, labels), default=0)
    header = f"{'':{width}}{'median':>10}{'p99':>10}{'min':>10}  ratio"
    lines = (f"{label:{width}}{_numbers(found)}" for label, found in zip(labels, rows, strict=True))
    return "\n".join([header, *lines])


def _numbers(found: Json) -> str:
    numbers = "".join(f"{found[name]:10.2f}" for name in ("median", "p99", "min"))
    ratio = "" if found["ratio"] is None else f"{found['ratio']:7.2f}"
    bar = f"  <= {found['bar']}" if found["bar"] else ""
    return f"{numbers}{ratio}{bar}"
