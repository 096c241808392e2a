"""Cold ADD, CHECK and DEL of the installed `calico` beside Debian's ptp + host-local; how to read it: README.md.

Runs in network and mount namespaces of its own (bench/add_del makes them), so nothing but the scratch folder is left to
clean up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench import ground
from bench.ground import REFERENCE, REFERENCE_BIN, BenchError, alternate, machine, machine_line, new_netns, say
from bench.rows import Json, figures

VERBS = ("ADD", "CHECK", "DEL")
BARS = {"ADD": 8, "DEL": 4}
EXAMPLES = """\
examples:
  bench/add_del                            25 runs, 3 rounds of 100 at once
  bench/add_del --runs 100 --parallel 0    one at a time only
  bench/add_del --parallel 20 --rounds 10
  bench/add_del -o json > today.json

The bars (cold ADD at most 8 times the reference, DEL at most 4) are shown beside the ratios; the exit code does not
depend on them.
"""
# A process's peak memory is never less than what its parent held when it forked. So the parent that measures is perl,
# with 2 MB, where Python has 5. (busybox's time -f %M is smaller still, but says four times the truth in Debian 12.)
SMALL_PARENT = """
my $getrusage = shift;
system {$ARGV[0]} @ARGV;
my $failed = $?;
my $usage = "\\0" x 144;
syscall($getrusage, -1, $usage);
print STDERR ((unpack "q*", $usage)[4], "\\n");
exit ($failed ? 1 : 0);
"""
GETRUSAGE = {"x86_64": "98", "aarch64": "165"}  # its number, which perl wants; elsewhere memory is left out
MEMORY_RUNS = 5


@dataclass(frozen=True)
class Cost:
    """What one process cost."""

    wall_ms: float
    cpu_ms: float


@dataclass
class Side:
    """One of the two that are compared: how it is called, and what it cost."""

    name: str
    executable: Path
    conf: Json
    costs: dict[str, list[Cost]] = field(default_factory=lambda: {verb: [] for verb in VERBS})
    memory_kb: dict[str, int] = field(default_factory=dict)
    at_once_ms: dict[str, list[float]] = field(default_factory=lambda: {"ADD": [], "DEL": []})

    def start(self, verb: str, pod: str, container: str, previous: Json | None, wrapper: Iterable[str] = ()) -> Process:
        """Start it as a runtime does, or what measures it."""
        env = ground.environment(verb, pod, container, self.executable.parent)
        return Process([*wrapper, self.executable], env, ground.stdin(self.conf, previous))


class Process:
    """A plugin started as a runtime does: three pipes, its configuration on the first."""

    def __init__(self, command: Iterable[str | Path], env: dict[str, str], stdin: bytes) -> None:
        """Start it. What is written and read fits a pipe's buffer, so nothing can block."""
        pipe = subprocess.PIPE
        self._began = time.perf_counter()
        self._process = subprocess.Popen(list(command), env=env, stdin=pipe, stdout=pipe, stderr=pipe)
        if self._process.stdin:
            self._process.stdin.write(stdin)
            self._process.stdin.close()

    def finish(self) -> tuple[bytes, bytes, Cost]:
        """Wait for its end; return what it printed and what it cost. Raises BenchError."""
        process = self._process
        if not process.stdout or not process.stderr:
            raise BenchError("the plugin has no pipes")
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - self._began
        process.returncode = os.waitstatus_to_exitcode(status)
        errors = process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        if process.returncode:
            raise BenchError(f"{process.args!r} failed: {(out or errors).decode(errors='replace').strip()}")
        return out, errors, Cost(wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000)


def one(side: Side, pod: str, container: str) -> None:
    """Attach, check and detach once."""
    previous: Json | None = None
    for verb in VERBS:
        out, _, cost = side.start(verb, pod, container, previous).finish()
        previous = json.loads(out) if verb == "ADD" else previous
        side.costs[verb].append(cost)


def memory(side: Side, pod: str, container: str) -> None:
    """Attach, check and detach once more, looking only at peak memory."""
    previous: Json | None = None
    wrapper = ["/usr/bin/perl", "-e", SMALL_PARENT, GETRUSAGE[platform.machine()]]
    for verb in VERBS:
        out, errors, _ = side.start(verb, pod, container, previous, wrapper).finish()
        previous = json.loads(out) if verb == "ADD" else previous
        peak = int(errors.split()[-1])
        side.memory_kb[verb] = max(peak, side.memory_kb.get(verb, 0))


def at_once(side: Side, pods: list[str], number: int) -> None:
    """Attach all pods at the same time, then detach all."""
    results: list[Json | None] = [None] * len(pods)
    for verb in ("ADD", "DEL"):
        began = time.perf_counter()
        running = [side.start(verb, pod, f"round-{number}-{index}", results[index]) for index, pod in enumerate(pods)]
        answers = [process.finish()[0] for process in running]
        side.at_once_ms[verb].append((time.perf_counter() - began) * 1000)
        if verb == "ADD":
            given = [json.loads(answer) for answer in answers]
            ground.require_distinct(side.name, given)
            results = [*given]


def measure(sides: tuple[Side, Side], options: argparse.Namespace, scratch: Path) -> None:
    """Take every measurement, interleaved."""
    pod = new_netns(scratch / "netns/pod")
    for side in sides:  # the first run of all makes directories, pools and blocks, and fills the page cache
        one(side, pod, "warm-up")
        side.costs = {verb: [] for verb in VERBS}
    say(f"{options.runs} runs of each, in turn")
    for number in range(options.runs):
        for side in alternate(sides, number):
            one(side, pod, f"run-{number}")
    for number in range(MEMORY_RUNS if platform.machine() in GETRUSAGE else 0):
        for side in sides:
            memory(side, pod, f"memory-{number}")
    if options.parallel:
        say(f"{options.rounds} rounds of {options.parallel} at once, in turn")
        pods = [new_netns(scratch / f"netns/pod-{index}") for index in range(options.parallel)]
        for number in range(options.rounds):
            for side in alternate(sides, number):
                at_once(side, pods, number)


def install(scratch: Path) -> tuple[Side, Side]:
    """Install `calico`; return it and the reference."""
    bin_dir, conf = ground.install(scratch)
    return (
        Side("calico", bin_dir / "calico", conf),
        Side(REFERENCE, REFERENCE_BIN / "ptp", ground.reference(scratch)),
    )


def rows(sides: tuple[Side, Side], parallel: int) -> list[Json]:
    """Return one object for each thing measured: both sides, their ratio, and the bar if there is one."""
    found = []
    for verb in VERBS:
        found.append(_row(f"{verb} wall", "ms", [[cost.wall_ms for cost in side.costs[verb]] for side in sides], verb))
    for verb in VERBS:
        found.append(_row(f"{verb} CPU", "ms", [[cost.cpu_ms for cost in side.costs[verb]] for side in sides]))
    for verb in sides[0].memory_kb:
        found.append(_row(f"{verb} peak memory", "MB", [[side.memory_kb[verb] / 1024] for side in sides]))
    for verb in ("ADD", "DEL") if parallel else ():
        found.append(_row(f"{parallel} {verb}s at once", "ms", [side.at_once_ms[verb] for side in sides]))
    return found


def _row(what: str, unit: str, values: list[list[float]], verb: str = "") -> Json:
    ours, theirs = map(figures, values)
    ratio = round(ours["median"] / theirs["median"], 2) if theirs["median"] else None
    return {"what": what, "unit": unit, "calico": ours, "reference": theirs, "ratio": ratio, "bar": BARS.get(verb)}


def table(report: Json) -> str:
    """Return the report for people."""
    before, after = report["before"], report["after"]
    head = f"{'':22}{'calico':^28}{REFERENCE:^28}"
    columns = ("median", "p99", "min")
    names = f"{'':22}" + "".join(f"{name:>9}" for name in columns) + " " + "".join(f"{name:>9}" for name in columns)
    text = [
        f"cold, no agent; {machine_line(before, after)}",
        head,
        f"{names}  ratio   bar",
    ]
    for row in report["rows"]:
        numbers = [f"{row[side][name]:9.1f}" for side in ("calico", "reference") for name in columns]
        bar = f"<= {row['bar']}" if row["bar"] else ""
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        label = f"{row['what']}, {row['unit']}"
        text.append(f"{label:22}{''.join(numbers[:3])} {''.join(numbers[3:])}{ratio:>7}{bar:>6}")
    return "\n".join(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="bench/add_del", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compare calico, cold and without an agent, with Debian's ptp + host-local. Needs root.",
    )  # fmt: skip
    parser.add_argument("--runs", type=ground.whole_number(1), default=25, metavar="N",
                        help="ADD, CHECK, DEL this often (default 25)")  # fmt: skip
    parser.add_argument("--parallel", type=ground.whole_number(0), default=100, metavar="N",
                        help="how many at once (default 100; 0: leave that out)")  # fmt: skip
    parser.add_argument("--rounds", type=ground.whole_number(1), default=3, metavar="N",
                        help="of those at once (default 3)")  # fmt: skip
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form of the report")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Measure and print; return 0 unless something failed."""
    options, before = parse(arguments), machine()
    try:
        with ground.scratch("cni-bench-") as scratch:
            ground.set_up_host()
            sides = install(scratch)
            measure(sides, options, scratch)
    except BenchError as error:
        print(f"add_del: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report = {"before": before, "after": machine(), "runs": options.runs, "rows": rows(sides, options.parallel)}
    print(json.dumps(report, indent=2) if options.output == "json" else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
