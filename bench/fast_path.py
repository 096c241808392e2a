"""Launcher and agent beside Debian's ptp + host-local; how each figure is taken: docs/performance.md.

Runs in network and mount namespaces of its own (bench/fast_path makes them), and agents end with it, so nothing but the
scratch folder is left to clean up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bench import fast_chart, fast_load, fast_sides, fast_wiring, ground
from bench.fast_sides import Host, Installed, Side
from bench.ground import REFERENCE, BenchError, machine, machine_line, new_netns, say
from bench.rows import Json, markdown, table
from bench.starter import Starter

PARTS = ("single", "at-once", "wiring", "memory", "pods")
SHOWN = ("ADD", "DEL")
QUICK = {"runs": 5, "frozen": 0, "parallel": 10, "rounds": 1, "cycles": 100, "pods": 20}
EXAMPLES = """\
examples:
  bench/fast_path                             everything; needs 3.3 GB of memory for 10,000 pods
  bench/fast_path --quick                     small numbers, to see that it works
  bench/fast_path --only single,at-once --runs 500
  bench/fast_path --only pods --pods 2000
  bench/fast_path --only single --chart stages.svg
  bench/fast_path -o json > today.json
  bench/fast_path -o markdown --chart docs/performance-stages.svg    what docs/performance.md shows

The bars are shown beside the ratios, that of STATUS is one of its p99; the exit code does not depend on them.
"""


def single_part(host: Host, pod: str, options: argparse.Namespace) -> tuple[list[Json], Json]:
    """Return rows of single verbs, and the stages of ours."""
    say(f"{options.runs} runs of each verb, then as many for CPU time, in turn")
    sides = (host.side(fast_sides.OURS), host.reference(), host.side("no agent: Python", agent=False))
    fast_sides.one_at_a_time(sides, pod, options.runs)
    ours, theirs, absent = sides
    stages = stages_of(ours, theirs, host.agent.stages_ms())
    fast_sides.cpu_times((ours, theirs), pod, options.runs)
    others = [absent, *([fast_sides.frozen(host, pod, options.frozen)] if options.frozen else [])]
    return fast_sides.rows(ours, theirs, others), stages


def stages_of(ours: Side, theirs: Side, told: Json) -> Json:
    """Return what the agent says of each verb's stages, and how long the whole took; all medians, ms."""
    found: Json = {"stages": {}, "reference": {}}
    for verb in SHOWN:
        stages = dict(told[verb])
        launcher = statistics.median(ours.walls[verb]) - stages.pop("total")
        found["stages"][verb] = {"launcher": round(max(0.0, launcher), 3), **stages}
        found["reference"][verb] = round(statistics.median(theirs.walls[verb]), 3)
    return found


def at_once_part(host: Host, pods: Sequence[str], options: argparse.Namespace) -> list[Json]:
    """Return rows of many at once, and of STATUS meanwhile."""
    say(f"{options.rounds} rounds of {len(pods)} at once, in turn")
    ours, theirs = host.side(fast_sides.OURS), host.reference()
    fast_sides.many_at_once((ours, theirs), pods, options.rounds)
    rows = fast_sides.at_once_rows(ours, theirs, len(pods))
    rounds = min(options.rounds, fast_sides.STATUS_ROUNDS)
    say(f"{rounds} rounds of {len(pods)} at once, with STATUS meanwhile")
    times = fast_sides.status_meanwhile(ours, Starter(host.folder), pods, rounds)
    return [*rows, fast_sides.status_row(times, len(pods))]


def measure(installed: Installed, options: argparse.Namespace) -> Json:
    """Return the rows of each part, and the stages. Raises BenchError."""
    pods = [new_netns(installed.scratch / f"netns/pod-{index}") for index in range(options.parallel)]
    with closing(Host(installed, "host")) as host:
        return _parts_of(host, installed, pods, options)


def _parts_of(host: Host, installed: Installed, pods: Sequence[str], options: argparse.Namespace) -> Json:
    parts: dict[str, list[Json]] = {}
    found: Json = {"parts": parts}
    if "single" in options.only:
        parts["single"], found["medians"] = single_part(host, pods[0], options)
    if "at-once" in options.only:
        parts["at-once"] = at_once_part(host, pods, options)
    if "wiring" in options.only:
        say(f"{options.runs} times wiring alone, in turn")
        parts["wiring"] = fast_wiring.measure(installed.scratch, pods, options.runs)
    if "memory" in options.only:
        say(f"the agent's memory over {options.cycles} pods")
        parts["memory"] = fast_load.memory(host, pods, options.cycles)
    if "pods" in options.only:
        say(f"{options.runs} runs on an empty host and on one with {options.pods} pods, in turn")
        parts["pods"] = fast_load.crowded(installed, host, options.pods, options.runs)
    return found


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="bench/fast_path", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compare launcher and agent with Debian's ptp + host-local. Needs root.",
    )  # fmt: skip
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PARTS",
                        help=f"which of {', '.join(PARTS)} (default: all)")  # fmt: skip
    numbers = [
        ("--runs", 200, 1, "single verbs, wiring, verbs on a crowded host: how often each"),
        ("--frozen", 2, 0, "verbs with a frozen agent, which take 2 s each"),
        ("--parallel", 100, 1, "how many at once"),
        ("--rounds", 10, 1, "rounds of those"),
        ("--cycles", 10_000, fast_load.SAMPLES, "memory: pods added and deleted"),
        ("--pods", 10_000, 1, "pods on the crowded host"),
    ]
    for name, default, least, meaning in numbers:
        parser.add_argument(name, type=ground.whole_number(least), default=default, metavar="N",
                            help=f"{meaning} (default {default})")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small numbers for those not given, about 10 s")
    parser.add_argument("--chart", type=Path, metavar="FILE",
                        help="draw the stages of single verbs as SVG (needs matplotlib)")  # fmt: skip
    parser.add_argument("-o", "--output", choices=FORMS, default="text", help="form of the report")
    if "--quick" in arguments:
        parser.set_defaults(**QUICK)
    options = parser.parse_args(arguments)
    if options.chart and "single" not in options.only:
        parser.error("--chart needs the part `single`")
    return options


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r}: there are {', '.join(PARTS)}")
    return parts


def as_text(report: Json) -> str:
    """Return the report for people."""
    head = f"{machine_line(report['before'], report['after'])}; {report['seconds']} s"
    parts = [f"{name}\n{table(rows)}" for name, rows in report["parts"].items()]
    stages = [f"{verb}: " + ", ".join(f"{stage} {ms:.2f}" for stage, ms in found.items())
              for verb, found in report.get("medians", {}).get("stages", {}).items()]  # fmt: skip
    return "\n\n".join([head, *parts, *(["\n".join(["stages, ms", *stages])] if stages else [])])


def as_markdown(report: Json) -> str:
    """Return the report for a document."""
    head = f"{machine_line(report['before'], report['after'])}."
    return "\n\n".join([head, *(markdown(name, rows) for name, rows in report["parts"].items())])


def as_json(report: Json) -> str:
    """Return the report for programs."""
    return json.dumps(report, indent=2)


FORMS = {"text": as_text, "json": as_json, "markdown": as_markdown}


def main(arguments: list[str]) -> int:
    """Measure and print; return 0 unless something failed."""
    options = parse(arguments)
    began, before = time.monotonic(), machine()
    try:
        with ground.scratch("cni-bench-") as scratch:
            found = measure(fast_sides.install(scratch), options)
    except (BenchError, OSError) as error:
        print(f"fast_path: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report = {"before": before, "after": machine(), "seconds": round(time.monotonic() - began), **found}
    print(FORMS[options.output](report))
    if options.chart:
        medians = found["medians"]
        fast_chart.draw(medians["stages"], medians["reference"], REFERENCE, options.chart)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
