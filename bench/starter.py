"""Starting processes with little noise: bench/starter.c does it, and measures."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.ground import BenchError, run

SOURCES = Path(__file__).parent
LONGEST_ERROR = 500  # characters


@dataclass(frozen=True)
class Job:
    """A process to be started."""

    command: Sequence[str]
    env: Mapping[str, str]
    stdin: bytes = b""


@dataclass(frozen=True)
class Cost:
    """What one process cost, with all that it executed."""

    wall_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Batch:
    """What came of jobs: from the first start to the last end, and each one's cost and standard output.

    `began_ms` is by the monotonic clock.
    """

    began_ms: float
    wall_ms: float
    costs: list[Cost]
    answers: list[bytes]

    def began_during(self, other: Batch) -> bool:
        """Tell whether it began while another one was being carried out."""
        return 0 <= self.began_ms - other.began_ms < other.wall_ms


class Starter:
    """Starts jobs by the C starter, which is compiled into the scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._executable = compile_c("starter", scratch)
        self._folder = scratch / "jobs"
        self._folder.mkdir()

    def run(self, jobs: Sequence[Job], at_a_time: int = 1, prefix: Sequence[str] = ()) -> Batch:
        """Run all jobs, so many at a time. The prefix (nsenter …) leads to where. Raises BenchError."""
        files = [self._folder / str(number) for number in range(len(jobs))]
        for file, job in zip(files, jobs, strict=True):
            file.write_bytes(job.stdin)
        listing = self._folder / "jobs"
        listing.write_bytes(b"".join(map(_encoded, jobs, files)))
        whole, *lines = run(*prefix, self._executable, str(at_a_time), str(listing)).splitlines()
        costs = []
        for line, job, file in zip(lines, jobs, files, strict=True):
            status, wall_ns, cpu_us = map(int, line.split())
            if status:
                raise BenchError(f"{job.command[0]} {job.env.get('CNI_COMMAND', '')} failed: {_said(file)}")
            costs.append(Cost(wall_ns / 1e6, cpu_us / 1e3))
        began_ns, wall_ns = map(int, whole.split())
        return Batch(began_ns / 1e6, wall_ns / 1e6, costs, [_output(file, ".out").read_bytes() for file in files])


class Floor:
    """bench/floor.c, which wires the given namespaces in turn: the kernel's own part."""

    def __init__(self, scratch: Path, pods: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([compile_c("floor", scratch), *pods], stdin=pipe, stdout=pipe, text=True)

    def wire(self) -> tuple[float, float]:
        """Wire and unwire the next one; return what either took, ms. Raises BenchError."""
        if not self._process.stdin or not self._process.stdout:
            raise BenchError("floor has no pipes")
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("floor failed")
        connected, disconnected = map(int, line.split())
        return connected / 1e6, disconnected / 1e6

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def compile_c(name: str, scratch: Path) -> str:
    """Compile one of the C programs; return the executable."""
    executable = str(scratch / name)
    run("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", executable, str(SOURCES / f"{name}.c"))
    return executable


def _encoded(job: Job, stdin: Path) -> bytes:
    strings = [*job.command, "", *(f"{name}={value}" for name, value in job.env.items()), "", str(stdin)]
    return b"".join(string.encode() + b"\0" for string in strings)


def _output(stdin: Path, ending: str) -> Path:
    return stdin.with_name(stdin.name + ending)


def _said(stdin: Path) -> str:
    """Return what a process that failed had to say."""
    said = _output(stdin, ".out").read_text(errors="replace") or _output(stdin, ".err").read_text(errors="replace")
    return " ".join(said.split())[:LONGEST_ERROR]
