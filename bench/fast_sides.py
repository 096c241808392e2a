"""Launcher and agent beside the reference: one verb at a time, and many at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench import ground
from bench.agent import Agent
from bench.ground import REFERENCE, REFERENCE_BIN, BenchError, alternate, run
from bench.rows import Json, absolute, row
from bench.starter import Batch, Job, Starter

OURS = "launcher + agent"
VERBS = ("ADD", "CHECK", "DEL")
MOST_BLOCKS = 1000  # of one node: Calico's 20 blocks hold 1,280 pods
BARS = {"ADD": 0.7, "DEL": 1.0}
AT_ONCE_BARS = {"ADD": 0.6, "DEL": 0.4}
CPU_BAR = 0.8
STATUS_BAR_MS = 200.0  # the agent answers it whatever else it does: p99, not a ratio
STATUS_ROUNDS = 4  # at most; some 20 answers each
STATUS_VERSION = "1.1.0"  # the first CNI version that has it
Pod = tuple[str, str]  # namespace and container id


@dataclass
class Installed:
    """What install-cni has put in place, to be used by any number of hosts."""

    scratch: Path
    starter: Starter
    bin_dir: Path
    conf: Json

    def datastore(self, folder: Path) -> Path:
        """Copy the datastore of the installation, with its pool, to a folder of a host's own."""
        shutil.copytree(self.conf["datastore_dir"], folder / "datastore")
        return folder / "datastore"


class Host:
    """A host with a datastore and an agent of its own, in the namespace that the prefix (nsenter …) leads to."""

    def __init__(self, installed: Installed, name: str, prefix: Sequence[str] = ()) -> None:
        self._installed, self._prefix = installed, prefix
        self.folder = installed.scratch / name
        self.folder.mkdir()
        ground.set_up_host(*prefix)
        self.conf = {**installed.conf, "datastore_dir": str(installed.datastore(self.folder))}
        self.agent = Agent(self.folder, prefix)

    def close(self) -> None:
        """End the agent."""
        self.agent.stop()

    def side(self, what: str, *, agent: bool = True) -> Side:
        """Return our plugin on this host, with its agent or without."""
        executable = self._installed.bin_dir / "calico"
        return Side(what, self._installed.starter, executable, self.conf, self.agent if agent else None, self._prefix)

    def reference(self) -> Side:
        """Return the plugins that are compared with."""
        conf = ground.reference(self.folder)
        return Side(REFERENCE, self._installed.starter, REFERENCE_BIN / "ptp", conf, prefix=self._prefix)


@dataclass
class Side:
    """One of those that are compared: how it is called, and what it cost, ms."""

    what: str
    starter: Starter
    executable: Path
    conf: Json
    agent: Agent | None = None
    prefix: Sequence[str] = ()
    walls: dict[str, list[float]] = field(default_factory=lambda: {verb: [] for verb in VERBS})
    cpus: list[float] = field(default_factory=list)
    at_once_ms: dict[str, list[float]] = field(default_factory=lambda: {"ADD": [], "DEL": []})

    def run(self, verb: str, pods: Sequence[Pod], results: Sequence[Json | None] = (), at_a_time: int = 1) -> Batch:
        """Carry a verb out for every pod, with the ADDs' results if they are known. Raises BenchError."""
        socket = self.agent.socket if self.agent else ground.NO_SOCKET
        jobs = [
            Job([str(self.executable)], ground.environment(verb, pod, container, self.executable.parent, socket),
                ground.stdin(self.conf, result))
            for (pod, container), result in zip(pods, results or [None] * len(pods), strict=True)
        ]  # fmt: skip
        return self.starter.run(jobs, at_a_time, self.prefix)

    def one(self, pod: Pod) -> None:
        """Attach, check and detach one pod."""
        results: list[Json | None] = []
        for verb in VERBS:
            batch = self.run(verb, [pod], results)
            results = results or [json.loads(batch.answers[0])]
            self.walls[verb].append(batch.wall_ms)

    def cpu(self, pod: Pod) -> None:
        """Attach and detach one pod, looking only at CPU time: the processes', and the agent's since the last pod."""
        added = self.run("ADD", [pod])
        deleted = self.run("DEL", [pod], [json.loads(added.answers[0])])
        agent = self.agent.spent_ms() if self.agent else 0.0
        self.cpus.append(agent + added.costs[0].cpu_ms + deleted.costs[0].cpu_ms)

    def status(self, starter: Starter) -> Batch:
        """Ask whether an ADD would be served, by a starter that is free. Raises BenchError."""
        socket = self.agent.socket if self.agent else ground.NO_SOCKET
        env = ground.host_environment("STATUS", self.executable.parent, socket)
        conf = ground.stdin({**self.conf, "cniVersion": STATUS_VERSION}, None)
        return starter.run([Job([str(self.executable)], env, conf)], prefix=self.prefix)

    def at_once(self, pods: Sequence[Pod]) -> tuple[Batch, Batch]:
        """Attach all pods at the same time, then detach all; return what came of either. Raises BenchError."""
        added = self.run("ADD", pods, at_a_time=len(pods))
        results = [json.loads(answer) for answer in added.answers]
        ground.require_distinct(self.what, results)
        self.at_once_ms["ADD"].append(added.wall_ms)
        deleted = self.run("DEL", pods, results, len(pods))
        self.at_once_ms["DEL"].append(deleted.wall_ms)
        return added, deleted

    def forget(self) -> None:
        """Forget how long it took so far, which was warming up."""
        self.walls = {verb: [] for verb in VERBS}


def install(scratch: Path) -> Installed:
    """Install the plugin for hosts with many pods. Raises BenchError."""
    bin_dir, conf = ground.install(scratch)
    if not (bin_dir / "calico.py").is_file():
        raise BenchError("install-cni installed no launcher; make it with launcher/build")
    run(str(ground.TOOLS / "calicoctl"), "ipam", "configure", "--strictaffinity=true",
        f"--max-blocks-per-host={MOST_BLOCKS}",
        env={"PATH": ground.SEARCH, "CALICO_DATASTORE_DIR": conf["datastore_dir"]})  # fmt: skip
    return Installed(scratch, Starter(scratch), bin_dir, conf)


def one_at_a_time(sides: tuple[Side, ...], pod: str, runs: int) -> None:
    """Measure single verbs of all sides in turn."""
    for number in range(-1, runs):
        for side in alternate(sides, number):
            side.one((pod, f"run-{number}"))
            if number < 0:  # the first run of all makes directories and blocks, and fills the page cache
                side.forget()


def cpu_times(sides: tuple[Side, ...], pod: str, runs: int) -> None:
    """Measure the CPU time of single pods of all sides in turn."""
    for number in range(-1, runs):
        for side in alternate(sides, number):
            side.cpu((pod, f"cpu-{number}"))
            if number < 0:  # the agent's time of all that was before
                side.cpus.clear()


def many_at_once(sides: tuple[Side, ...], pods: Sequence[str], rounds: int) -> None:
    """Measure so many rounds of all pods at once, of all sides in turn."""
    for number in range(rounds):
        for side in alternate(sides, number):
            side.at_once([(pod, f"round-{number}-{index}") for index, pod in enumerate(pods)])


def status_meanwhile(side: Side, asker: Starter, pods: Sequence[str], rounds: int) -> list[float]:
    """Return how long each STATUS took, ms, asked one after the other while all pods are attached, then detached.

    Only those count that began while some of the ADDs or DELs were still to end.
    """
    found: list[float] = []
    for number in range(rounds):
        asked: list[Batch] = []
        with ThreadPoolExecutor(1) as threads:
            load = threads.submit(side.at_once, [(pod, f"status-{number}-{index}") for index, pod in enumerate(pods)])
            while not load.done():
                asked.append(side.status(asker))
        found += [batch.wall_ms for batch in asked if any(map(batch.began_during, load.result()))]
    if not found:
        raise BenchError("no STATUS was asked while pods were attached; raise --rounds or --parallel")
    return found


def frozen(host: Host, pod: str, runs: int) -> Side:
    """Measure single verbs while the agent is frozen."""
    side = host.side("launcher, agent frozen")
    host.agent.freeze()
    try:
        for number in range(runs):
            side.one((pod, f"frozen-{number}"))
    finally:
        host.agent.thaw()
    return side


def rows(ours: Side, theirs: Side, others: Sequence[Side]) -> list[Json]:
    """Return single verbs and CPU time, each beside the reference; what has no bar last."""
    found = []
    for verb, bar in BARS.items():
        found += pair(verb, ours.walls[verb], theirs.walls[verb], bar)
    found += pair("CPU of ADD + DEL", ours.cpus, theirs.cpus, CPU_BAR)
    found += pair("CHECK", ours.walls["CHECK"], theirs.walls["CHECK"], None)
    for side in others:
        found += [row(f"{verb}, {side.what}", side.walls[verb], theirs.walls[verb]) for verb in BARS]
    return found


def at_once_rows(ours: Side, theirs: Side, parallel: int) -> list[Json]:
    """Return what many at once took, beside the reference."""
    found = []
    for verb, bar in AT_ONCE_BARS.items():
        found += pair(f"{parallel} {verb}s at once", ours.at_once_ms[verb], theirs.at_once_ms[verb], bar)
    return found


def status_row(values: Sequence[float], parallel: int) -> Json:
    """Return how long STATUS took meanwhile, with a bar for its p99."""
    return absolute(f"STATUS while {parallel} ADDs run, {OURS}", values, STATUS_BAR_MS)


def pair(what: str, ours: list[float], theirs: list[float], bar: float | None) -> list[Json]:
    """Return two rows: the reference, and ours with its ratio and bar."""
    return [row(f"{what}, {REFERENCE}", theirs), row(f"{what}, {OURS}", ours, theirs, bar)]
