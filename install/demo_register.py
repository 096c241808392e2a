"""Which demos run on this host: the first one records what the host was like, the last one puts it back.

Without that, the second of two demos would take the first one's changes for the host's own. A demo that was killed is
cleaned up after by the next one.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import random
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from install import demo_host
from install.demo_chain import NETNS_FOLDER, Chain, Json
from install.demo_host import Before, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from install.demo_host import Commands

REGISTER = Path("/run/cni-calico-demo.json")
CONFLIST, BIN_DIR = "etc/cni/net.d/10-calico.conflist", "opt/cni/bin"
POD_PORT = 80
PODS = ("a", "b", "c")
# For benchmarks of networks (RFC 2544), so most likely free; then the private ranges (RFC 1918).
CANDIDATES = tuple(map(ipaddress.IPv4Network, ("198.18.0.0/15", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
POOL_PREFIX = 24
TRIES = 50


@dataclass(frozen=True)
class Run:
    """One demo: its process, its name, the addresses its pods get, and the folder that everything goes into."""

    pid: int
    start: str
    name: str
    pool: str
    scratch: str
    port: int

    @property
    def pods(self) -> list[str]:
        """Names of the network namespaces, which serve as container ids too."""
        return [f"{self.name}-{pod}" for pod in PODS]

    def capabilities(self, pod: str) -> Json:
        """Return what the runtime offers the plugins that say they can use it: the first pod's mapped port."""
        mapping = {"hostPort": self.port, "containerPort": POD_PORT, "protocol": "tcp"}
        return {"portMappings": [mapping]} if pod == self.pods[0] else {}

    def chain(self, commands: Commands) -> Chain:
        """Return the installed network. Raises OSError, ValueError."""
        return Chain(Path(self.scratch, CONFLIST), Path(self.scratch, BIN_DIR), commands)


def join(commands: Commands, port: int) -> tuple[Run, Before]:
    """Enter a new demo, after what killed ones left was removed. Raises CommandError."""
    name = f"cni-demo-{os.getpid()}"
    with _register() as state:
        before = Before(**state["before"]) if "before" in state else demo_host.take(commands)
        others = _living(state, commands)
        pool = _free_pool([other.pool for other in others], commands)
        scratch = tempfile.mkdtemp(prefix=f"{name}-")
        run = Run(os.getpid(), demo_host.pid_start(os.getpid()), name, pool, scratch, port)
        state |= {"before": asdict(before), "runs": [asdict(other) for other in (*others, run)]}
    return run, before


def leave(run: Run, commands: Commands) -> tuple[list[str], bool]:
    """Remove all that the demo made; return what could not be, and whether it was the last and restored the host."""
    with _register() as state:
        failures = clean_up(run, commands)
        others = [other for other in _living(state, commands) if other != run]
        state["runs"] = [asdict(other) for other in others]
        if not others and "before" in state:
            try:
                demo_host.restore(Before(**state["before"]), commands)
            except (CommandError, OSError) as error:
                failures.append(str(error))
            state.clear()
    return failures, not others


def clean_up(run: Run, commands: Commands) -> list[str]:
    """Remove whatever is there of a demo; return what could not be."""
    failures = []
    present = [pod for pod in run.pods if Path(NETNS_FOLDER, pod).exists()]
    for pod in present:
        demo_host.kill_inside(pod, commands)
    with suppress(OSError, ValueError):  # not installed yet, so nothing was attached
        chain = run.chain(commands)
        failures += [failure for pod in present for failure in chain.delete(pod, run.capabilities(pod))]
    for pod in present:
        with _noted(failures):
            commands.run("ip", "netns", "delete", pod)
    if Path(run.scratch).exists():
        with _noted(failures):
            shutil.rmtree(run.scratch)
    return failures


@contextmanager
def _noted(failures: list[str]) -> Iterator[None]:
    try:
        yield
    except (OSError, CommandError) as error:
        failures.append(str(error))


def _living(state: Json, commands: Commands) -> list[Run]:
    """Return the demos that run, after cleaning up behind those that were killed."""
    runs = [Run(**run) for run in state.get("runs", [])]
    living = [run for run in runs if demo_host.is_alive(run.pid, run.start)]
    for run in runs:
        if run not in living:
            clean_up(run, commands)
    return living


def _free_pool(taken: Iterable[str], commands: Commands) -> str:
    """Return a network that overlaps no route of the host and no other demo's. Raises CommandError."""
    routes = json.loads(commands.run("ip", "-4", "-json", "route", "show", "table", "all").stdout or "[]")
    used = [_network(route["dst"]) for route in routes if route["dst"] != "default"] + list(map(_network, taken))
    for candidate in CANDIDATES:
        for _ in range(TRIES):
            offset = random.randrange(2 ** (POOL_PREFIX - candidate.prefixlen))  # noqa: S311  # no secret
            pool = ipaddress.IPv4Network((int(candidate[0]) + (offset << 32 - POOL_PREFIX), POOL_PREFIX))
            if not any(pool.overlaps(network) for network in used):
                return str(pool)
    raise CommandError(f"the host has routes to every network the demo could use: {', '.join(map(str, CANDIDATES))}")


def _network(destination: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(destination, strict=False)


@contextmanager
def _register() -> Iterator[Json]:
    """Hold the register alone; what the body leaves in it is written back, and the file goes when that is nothing."""
    descriptor = _open_locked()
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        try:
            state: Json = json.load(file)
        except ValueError:
            state = {}
        try:
            yield state
        finally:
            if not state:
                REGISTER.unlink()
            file.seek(0)
            file.write(json.dumps(state))
            file.truncate()


def _open_locked() -> int:
    """Return the register, locked: the file that has the name now, and not one removed while we waited."""
    while True:
        descriptor = os.open(REGISTER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if REGISTER.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
