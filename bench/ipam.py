"""The allocator with up to a million addresses in use, beside an empty store and host-local; read it with README.md."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import ipam_assign, ipam_processes, ipam_scale
from bench.fixture import Bar, FixtureError, Size, make, node_name
from bench.ground import BenchError, machine, machine_line, say
from bench.ipam_assign import BAR, Series
from bench.rows import Json, table
from cni_calico.node import boot_id
from datastore.model import IpamConfig

PARTS = ("assign", "processes", "scale")
ALL_MINE = node_name(0)  # the node that has all the blocks of a made store
FEW = "one-block"  # a node that claims one for itself
LARGEST = Size(1, 4095, 1, block_size=20)  # the largest block there is has 4,096 addresses; one is left to assign
EXAMPLES = """\
examples:
  bench/ipam                                            everything; takes 8 GB of disk for a while
  bench/ipam --only assign --sizes 0,10000 --runs 50    quick
  bench/ipam --only processes --parallel 0
  bench/ipam --only scale --nodes 100 --allocations 11000
  bench/ipam -o json > today.json

The bar (with a million in use at most 1.2 times the empty store's cost) is shown beside the ratios; the exit code does
not depend on it.
"""


class Stores:
    """The datastores that parts have asked for, each made once, below one scratch folder."""

    def __init__(self, scratch: Path, blocks: int) -> None:
        self._scratch = scratch
        # Calico wants strict affinity for a limit other than 20 blocks; it is the same for every store.
        config = IpamConfig(strict_affinity=True, max_blocks_per_host=blocks + 1000)
        self._fixed: dict[str, Any] = {"config": config, "boot": boot_id()}
        self._blocks = blocks
        self._made: dict[Size, Path] = {}

    def get(self, size: Size) -> Path:
        """Return a store of this size."""
        if size not in self._made:
            root = self._scratch / f"store-{len(self._made)}"
            make(root, replace(size, **self._fixed), Bar(f"{size.nodes:5,} nodes {size.allocations:9,} addresses"))
            self._made[size] = root
        return self._made[size]

    def empty(self) -> Path:
        """Return a store with one node and one block, and nothing in use."""
        return self.get(Size(1, 0, 1))

    def of(self, in_use: int) -> Path:
        """Return a store with all the blocks and so many addresses in use."""
        return self.get(Size(1, in_use, self._blocks))


def assign_part(stores: Stores, options: argparse.Namespace) -> list[Json]:
    """Measure assign and release."""
    empty = Series("empty store", stores.empty(), ALL_MINE, bar=BAR, claims=True)
    most = -(-max(options.sizes) // options.blocks)
    full = Series(f"only a block with {most} of 64 in use", stores.get(Size(1, most, 1)), ALL_MINE, empty)
    largest = Series("only a /20 block", stores.get(replace(LARGEST, allocations=0)), ALL_MINE)
    series = [empty, full]
    for in_use in options.sizes:
        store = stores.of(in_use)
        series.append(Series(f"{in_use:,} in use, 1 of {options.blocks:,} blocks mine", store, FEW, empty, BAR, True))
        series.append(Series(f"{in_use:,} in use, {options.blocks:,} blocks mine", store, ALL_MINE, empty, BAR))
    large = [largest, Series("4,095 in use in a /20 block", stores.get(LARGEST), ALL_MINE, largest)]
    os.sync()
    say(f"assign and release: {options.runs} runs of {len(series)} stores in turn")
    ipam_assign.measure(series, options.runs, options.claims, options.row)
    ipam_assign.measure(large, options.runs // 4 + 1, 0, 0)
    return ipam_assign.rows([*series, *large], options.row)


def processes_part(stores: Stores, options: argparse.Namespace, scratch: Path) -> list[Json]:
    """Measure processes."""
    executable = ipam_processes.install(scratch / "installed")
    none = ipam_processes.ours("calico-ipam, empty store", executable, stores.empty(), FEW, None)
    sides = [none, *(
        ipam_processes.ours(f"calico-ipam, {in_use:,} in use", executable, stores.of(in_use), FEW, none)
        for in_use in options.in_use
    )]  # fmt: skip
    theirs = ipam_processes.host_local(scratch, 0, None)
    sides += [theirs, *(ipam_processes.host_local(scratch, count, theirs) for count in options.reservations)]
    os.sync()
    say(f"processes: {options.process_runs} ADDs and DELs, {options.rounds} rounds of {options.parallel} at once")
    ipam_processes.measure(sides, options.process_runs, options.parallel, options.rounds)
    return ipam_processes.rows(sides, options.parallel)


def scale_part(stores: Stores, options: argparse.Namespace) -> list[Json]:
    """Measure calicoctl on a large datastore."""
    large = stores.get(Size(options.nodes, options.allocations))
    say(f"ipam show and ipam check of {options.nodes:,} nodes and {options.allocations:,} addresses in use")
    return ipam_scale.rows(large, stores.empty(), options.scale_runs)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="bench/ipam", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure the allocator with many addresses in use. The processes part needs root.",
    )  # fmt: skip
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PARTS",
                        help=f"which of {', '.join(PARTS)} (default: all)")  # fmt: skip
    parser.add_argument("--directory", type=Path, metavar="DIR",
                        help="where to make the datastores, which are removed again (default: $TMPDIR or /tmp)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form of the report")
    numbers = [
        ("--blocks", 16384, "blocks of the stores of the first two parts"),
        ("--runs", 200, "assign: pairs of assign and release of each store"),
        ("--row", 64, "assign: how many in a row without a release"),
        ("--claims", 5, "assign: how often so many in a row, and a node's first address"),
        ("--process-runs", 15, "processes: ADDs and DELs one at a time"),
        ("--parallel", 100, "processes: how many at once; 0 leaves that out"),
        ("--rounds", 2, "processes: of those at once"),
        ("--nodes", 5000, "scale: nodes"),
        ("--allocations", 550_000, "scale: addresses in use"),
        ("--scale-runs", 1, "scale: runs of each command"),
    ]
    for name, default, meaning in numbers:
        parser.add_argument(name, type=int, default=default, metavar="N", help=f"{meaning} (default {default})")
    for name, text, meaning in (
        ("--sizes", "0,10000,100000,1000000", "assign: addresses in use"),
        ("--in-use", "20000,1000000", "processes: addresses in use for calico-ipam, besides none"),
        ("--reservations", "100,20000", "processes: addresses in use for host-local, besides none"),
    ):
        parser.add_argument(name, type=_numbers, default=text, metavar="N,N", help=f"{meaning} (default {text})")
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, as in 0,10000") from None


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r}: there are {', '.join(PARTS)}")
    return parts


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, list[Json]]:
    """Return the rows of each part. Raises BenchError, FixtureError, OSError."""
    stores = Stores(scratch, options.blocks)
    parts = {
        "assign": lambda: assign_part(stores, options),
        "processes": lambda: processes_part(stores, options, scratch),
        "scale": lambda: scale_part(stores, options),
    }
    return {name: parts[name]() for name in PARTS if name in options.only}


def main(arguments: list[str]) -> int:
    """Measure and print; return 0 unless something failed."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    began, before = time.monotonic(), machine()
    scratch = Path(tempfile.mkdtemp(prefix="ipam-bench-", dir=options.directory))
    try:
        found = measure(options, scratch)
        report = {"before": before, "after": machine(), "seconds": round(time.monotonic() - began), "parts": found}
        print(json.dumps(report, indent=2) if options.output == "json" else as_text(report), flush=True)
    except (BenchError, FixtureError, OSError) as error:
        print(f"ipam: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        say("removing the datastores")
        subprocess.run(["rm", "-rf", "--", str(scratch)], check=False)
    return 0


def as_text(report: Json) -> str:
    """Return the report for people."""
    head = f"{machine_line(report['before'], report['after'])}; {report['seconds']} s"
    return "\n\n".join([head, *(f"{name}\n{table(rows)}" for name, rows in report["parts"].items())])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
