"""`calico-ipam` beside Debian's `host-local`, as real processes: one at a time, and many at once."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.add_del import Process
from bench.ground import REFERENCE_BIN, SEARCH, environment, require_distinct, run
from bench.rows import Json, row

VERBS = ("ADD", "DEL")
NETWORK = "bench"
SUBNET = "10.99.0.0/16"


@dataclass
class Side:
    """An IPAM plugin with its configuration, and what it cost, ms."""

    what: str
    executable: Path
    conf: Json
    base: Side | None = None
    first_ms: list[float] = field(default_factory=list)
    one_ms: dict[str, list[float]] = field(default_factory=lambda: {verb: [] for verb in VERBS})
    at_once_ms: dict[str, list[float]] = field(default_factory=lambda: {verb: [] for verb in VERBS})

    def start(self, verb: str, container: str) -> Process:
        """Start the plugin as a main plugin would."""
        env = environment(verb, "/run/netns/none", container, self.executable.parent)
        return Process([self.executable], env, json.dumps(self.conf).encode())

    def one(self, container: str) -> None:
        """Add and delete one container."""
        for verb in VERBS:
            self.one_ms[verb].append(self.start(verb, container).finish()[2].wall_ms)

    def first(self) -> None:
        """Add and delete one container; the first since the boot looks for what was left from before it."""
        self.one("first")
        self.first_ms.append(self.one_ms["ADD"].pop())
        self.one_ms["DEL"].clear()

    def at_once(self, containers: Sequence[str]) -> None:
        """Add all containers at the same time, then delete all. Raises BenchError."""
        for verb in VERBS:
            began = time.perf_counter()
            running = [self.start(verb, container) for container in containers]
            answers = [process.finish()[0] for process in running]
            self.at_once_ms[verb].append((time.perf_counter() - began) * 1000)
            if verb == "ADD":
                require_distinct(self.what, list(map(json.loads, answers)))


def install(scratch: Path) -> Path:
    """Install with install-cni, which compiles; return the executable."""
    installer = Path(sys.executable).parent / "install-cni"
    run(str(installer), "--prefix", str(scratch), env={"PATH": SEARCH, "CALICO_IPV4POOL_CIDR": "10.98.0.0/16"})
    return scratch / "opt/cni/bin/calico-ipam"


def ours(what: str, executable: Path, store: Path, node: str, base: Side | None) -> Side:
    """Return calico-ipam on a store."""
    conf = {"cniVersion": "1.0.0", "name": NETWORK, "type": "ptp", "ipam": {"type": "calico-ipam"},
            "nodename": node, "datastore_dir": str(store)}  # fmt: skip
    return Side(what, executable, conf, base)


def host_local(scratch: Path, reservations: int, base: Side | None) -> Side:
    """Return host-local with so many addresses in use, in the form it stores them."""
    folder = scratch / f"host-local-{reservations}"
    (folder / NETWORK).mkdir(parents=True)
    for number in range(2, reservations + 2):
        address = f"10.99.{number >> 8}.{number & 255}"
        (folder / NETWORK / address).write_bytes(f"{number:064x}\r\neth0".encode())
    (folder / NETWORK / "last_reserved_ip.0").write_text(f"10.99.{reservations + 1 >> 8}.{reservations + 1 & 255}")
    ranges = {"type": "host-local", "ranges": [[{"subnet": SUBNET}]], "dataDir": str(folder)}
    conf = {"cniVersion": "1.0.0", "name": NETWORK, "type": "ptp", "ipam": ranges}
    return Side(f"host-local, {reservations:,} in use", REFERENCE_BIN / "host-local", conf, base)


def measure(sides: Sequence[Side], runs: int, parallel: int, rounds: int) -> None:
    """Take every measurement, all sides in turn. Raises BenchError."""
    for side in sides:
        side.first()
    for number in range(runs):
        for side in sides:
            side.one(f"run-{number}")
    for number in range(rounds if parallel else 0):
        for side in sides:
            side.at_once([f"round-{number}-{index}" for index in range(parallel)])


def rows(sides: Sequence[Side], parallel: int) -> list[Json]:
    """Return what was measured, each side beside its own with nothing in use."""
    found = [row(f"first ADD since the boot, {side.what}", side.first_ms, (side.base or side).first_ms)
             for side in sides]  # fmt: skip
    for verb in VERBS:
        found += [row(f"{verb}, {side.what}", side.one_ms[verb], (side.base or side).one_ms[verb]) for side in sides]
    for verb in VERBS if parallel else ():
        found += [row(f"{parallel} {verb}s at once, {side.what}", side.at_once_ms[verb],
                      (side.base or side).at_once_ms[verb]) for side in sides]  # fmt: skip
    return found
