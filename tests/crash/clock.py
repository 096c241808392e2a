"""Runs calico-ipam under a clock of its own: SECONDS off the real one, and SPEED times as fast where it measures waits.

Linux has no namespace for the time of day, so it is Python's own clock that is off, in this process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def run(seconds: float, speed: float) -> int:
    wall, wall_ns, parts, monotonic = time.time, time.time_ns, time.gmtime, time.monotonic
    ours: dict[str, Callable[..., object]] = {
        "time": lambda: wall() + seconds,
        "time_ns": lambda: wall_ns() + int(seconds * 10**9),
        "gmtime": lambda at=None: parts(wall() + seconds if at is None else at),
        "monotonic": lambda: monotonic() * speed,
    }
    vars(time).update(ours)
    from ipam.__main__ import main

    del sys.argv[1:]
    return main()


if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1]), float(sys.argv[2])))
