"""`calicoctl ipam show` and `ipam check` of a large datastore: time, peak memory, and the bar a terminal gets."""

from __future__ import annotations

import os
import platform
import pty
import signal
import sys
from pathlib import Path

from bench.add_del import GETRUSAGE, SMALL_PARENT, Process
from bench.ground import SEARCH, BenchError
from bench.rows import Json, row

COMMANDS = {
    "show": ["ipam", "show"],
    "show --show-blocks": ["ipam", "show", "--show-blocks"],
    "check": ["ipam", "check"],
}
ENOUGH_STEPS = 10
FOUND_SOMETHING = 1  # exit code of `ipam check` that is no failure of the command


def rows(large: Path, empty: Path, runs: int) -> list[Json]:
    """Return time and memory of each command, for both stores in turn; the ratio is to the empty one."""
    found = []
    for name, command in COMMANDS.items():
        if not _known(command):
            print(f"calicoctl {' '.join(command)} is not there yet", file=sys.stderr)
            continue
        walls: dict[Path, list[float]] = {large: [], empty: []}
        peaks: dict[Path, list[float]] = {large: [], empty: []}
        for _ in range(runs):
            for store in (empty, large):
                wall, peak = _cost(command, store)
                walls[store].append(wall)
                peaks[store].append(peak)
        for what, store in (("empty store", empty), ("large store", large)):
            found.append(row(f"ipam {name}, {what}", walls[store], walls[empty]))
            found.append(row(f"ipam {name}, {what}, peak memory", peaks[store], peaks[empty], unit="MB"))
        found.append(row(f"ipam {name}, large store, steps of its progress bar", [bar_steps(command, large)], unit=""))
    return found


def _executable() -> str:
    return str(Path(sys.executable).parent / "calicoctl")


def _environment(store: Path) -> dict[str, str]:
    return {"PATH": SEARCH, "CALICO_DATASTORE_DIR": str(store), "LANG": "C.UTF-8", "TERM": "xterm"}


def _known(command: list[str]) -> bool:
    try:
        Process([_executable(), *command, "--help"], _environment(Path("/")), b"").finish()
    except BenchError:
        return False
    return True


def _cost(command: list[str], store: Path) -> tuple[float, float]:
    """Return wall time in ms and peak memory in MB, as bench/add_del measures them."""
    asked = [_executable(), *command]
    prefix = ["/usr/bin/perl", "-e", SMALL_PARENT, GETRUSAGE[platform.machine()]]
    wrapped = [*prefix, "/bin/sh", "-c", f'"$0" "$@"; [ $? -le {FOUND_SOMETHING} ]', *asked]
    _, errors, cost = Process(wrapped, _environment(store), b"").finish()
    return cost.wall_ms, int(errors.split()[-1]) / 1024


def bar_steps(command: list[str], store: Path) -> int:
    """Return how often the command drew a progress bar anew when its stderr is a terminal; its stdout is none.

    It is ended when that is seen to happen: measuring was done without a terminal.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execve(_executable(), ["calicoctl", *command], _environment(store))
    seen = b""
    while _steps(seen) < ENOUGH_STEPS:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not data:
            break
        seen += data
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(terminal)
    return _steps(seen)


def _steps(seen: bytes) -> int:
    return sum(b"%" in part for part in seen.split(b"\r"))
