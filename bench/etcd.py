"""What pods cost with an etcd datastore, beside an empty one; how each figure is taken: docs/performance-etcd.md.

Runs in network and mount namespaces of its own (bench/etcd makes them), with etcd servers that end with it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bench import etcd_hosts, etcd_scale, etcd_trips, ground
from bench.fixture import FixtureError
from bench.ground import BenchError, machine, machine_line, run
from bench.rows import Json, markdown, table
from datastore.api import StoreError
from ipam.errors import IpamError

PARTS = ("trips", "hosts", "scale", "claim")
QUICK = {"runs": 3, "parallel": 3, "hosts": [1, 2], "pods": 12, "rounds": 1, "nodes": 3, "allocations": 150,
         "pairs": 5, "pool": "10.0.0.0/22", "claims": 3}  # fmt: skip
EXAMPLES = """\
examples:
  bench/etcd                                  everything; some minutes, 3 GB of disk and of memory meanwhile
  bench/etcd --quick                          small numbers, to see that it works
  bench/etcd --only trips                     requests of a warm ADD and DEL, and which they are
  bench/etcd --only hosts --hosts 1,5,25
  bench/etcd --only scale --nodes 500 --allocations 55000
  bench/etcd -o markdown                      what docs/performance-etcd.md shows

Folders are made below $TMPDIR or /tmp and removed at the end. The bars are shown beside the figures; the exit code does
not depend on them.
"""


def measure(scratch: Path, options: argparse.Namespace) -> Json:
    """Return the rows of each part, and what was asked of etcd. Raises BenchError, FixtureError, StoreError."""
    parts: dict[str, list[Json]] = {}
    asked: dict[str, list[str]] = {}
    if "trips" in options.only:
        parts["trips"], asked = etcd_trips.measure(scratch, options.runs, options.parallel)
    if "hosts" in options.only:
        parts["hosts"] = etcd_hosts.measure(scratch, options.hosts, options.pods, options.rounds)
    if "scale" in options.only:
        parts["scale"] = etcd_scale.scale(scratch, options.nodes, options.allocations, options.pairs)
    if "claim" in options.only:
        parts["claim"], claims = etcd_scale.claim(scratch, options.pool, options.left, options.claims)
        asked |= claims
    return {"parts": parts, "asked": asked}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="bench/etcd", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure pods with an etcd datastore. Needs root.",
    )  # fmt: skip
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PARTS",
                        help=f"which of {', '.join(PARTS)} (default: all)")  # fmt: skip
    numbers = [
        ("--runs", 20, 1, "trips: ADDs and DELs of which the requests are counted"),
        ("--parallel", 20, 1, "trips: how many at once"),
        ("--pods", 600, 1, "hosts: pods of a round, of all hosts together"),
        ("--rounds", 5, 1, "hosts: rounds"),
        ("--nodes", 5000, 1, "scale: nodes"),
        ("--allocations", 550_000, 1, "scale: addresses in use"),
        ("--pairs", 500, 1, "scale: pairs of assign and release of each"),
        ("--left", 4, 1, "claim: blocks of the pool that nobody has"),
        ("--claims", 30, 1, "claim: nodes that claim one"),
    ]
    for name, default, least, meaning in numbers:
        parser.add_argument(name, type=ground.whole_number(least), default=default, metavar="N",
                            help=f"{meaning} (default {default})")  # fmt: skip
    parser.add_argument("--hosts", type=_numbers, default=[1, 10, 50], metavar="N,N",
                        help="hosts: how many, to be compared with the first (default 1,10,50)")  # fmt: skip
    parser.add_argument("--pool", default=etcd_scale.CLAIM_POOL, metavar="CIDR",
                        help=f"claim: the pool, cut into /26 (default {etcd_scale.CLAIM_POOL})")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small numbers for those not given, about 30 s")
    parser.add_argument("-o", "--output", choices=FORMS, default="text", help="form of the report")
    if "--quick" in arguments:
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r}: there are {', '.join(PARTS)}")
    return parts


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, as in 1,10")
    return list(map(int, parts))


def as_text(report: Json) -> str:
    """Return the report for people."""
    parts = [f"{name}\n{table(rows)}" for name, rows in report["parts"].items()]
    asked = ["\n".join([what, *(f"  {line}" for line in lines)]) for what, lines in report["asked"].items()]
    return "\n\n".join([_head(report), *parts, *asked])


def as_markdown(report: Json) -> str:
    """Return the report for a document."""
    tables = [markdown(name, rows) for name, rows in report["parts"].items()]
    asked = ["\n".join([f"{what}:", "", *(f"* {line}" for line in lines)]) for what, lines in report["asked"].items()]
    return "\n\n".join([f"{_head(report)}.", *tables, *asked])


def _head(report: Json) -> str:
    line = machine_line(report["before"], report["after"])
    return f"{report['etcd']}; {line}; {report['seconds']} s"


def as_json(report: Json) -> str:
    """Return the report for programs."""
    return json.dumps(report, indent=2)


FORMS = {"text": as_text, "json": as_json, "markdown": as_markdown}


def main(arguments: list[str]) -> int:
    """Measure and print; return 0 unless something failed."""
    options = parse(arguments)
    began, before = time.monotonic(), machine()
    try:
        version = run("etcd", "--version").splitlines()[0].replace("Version: ", "")
        with ground.scratch("etcd-bench-") as scratch:
            ground.set_up_host()
            found = measure(scratch, options)
    except (BenchError, FixtureError, StoreError, IpamError, OSError) as error:
        print(f"etcd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report = {"etcd": version, "before": before, "after": machine(), "seconds": round(time.monotonic() - began)}
    print(FORMS[options.output](report | found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
