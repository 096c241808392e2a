"""Requests that a warm ADD and DEL make, counted on the wire: launcher and agent, the Python plugin, the allocator."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import ground
from bench.agent import Agent
from bench.etcd_server import Server
from bench.etcd_wire import Request, Wire, told
from bench.fast_sides import Side
from bench.ground import BenchError, new_netns, say
from bench.ipam_assign import pod
from bench.rows import Json, absolute, row
from bench.starter import Starter
from datastore import keys
from datastore.etcd import EtcdStore
from ipam.assign import Request as Asked
from ipam.assign import assign
from ipam.handle import Owner
from ipam.release import release

OURS, PYTHON = "launcher + agent", "Python plugin alone"
ALLOCATOR, UNPREPARED = "ipam in-process", "ipam in-process, its store not prepared"
BAR = 3  # requests of a warm ADD by the agent
WARM = 3  # pods before it counts
SETTLED = 0.1  # seconds after an answer in which what was put off still counts
IDLE = 10.0  # seconds

Verbs = dict[str, Callable[[int], float]]  # verb -> what carries it out for the pod of this number, and returns ms


@dataclass
class Cost:
    """What one verb of one side cost, each time: requests, bytes both ways, connections, ms; and what was asked for."""

    requests: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)
    connections: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)

    def add(self, requests: Sequence[Request], connections: int, ms: float) -> None:
        """Count one."""
        self.requests.append(len(requests))
        self.bytes.append(sum(each.sent + each.received for each in requests))
        self.connections.append(connections)
        self.times.append(ms)
        self.said[told(requests)] += 1


class Plugin:
    """The installed `calico`, with or without an agent, pod after pod in one namespace."""

    def __init__(self, side: Side, netns: str) -> None:
        self._side, self._netns = side, netns
        self._result: Json = {}

    def add(self, number: int) -> float:
        """Attach a pod; return ms. Raises BenchError."""
        batch = self._side.run("ADD", [(self._netns, self._container(number))])
        self._result = json.loads(batch.answers[0])
        return batch.wall_ms

    def delete(self, number: int) -> float:
        """Detach it; return ms. Raises BenchError."""
        return self._side.run("DEL", [(self._netns, self._container(number))], [self._result]).wall_ms

    def _container(self, number: int) -> str:
        return f"{self._side.conf['nodename']}-{number}"


class Allocator:
    """`ipam.assign` and `ipam.release` in this process, with a store object each, as in a verb.

    prepared: whether the store is told first what is about to be read, as the plugin does it.
    """

    def __init__(self, server: Server, node: str, url: str = "", prepared: bool = True) -> None:
        self._server, self._node, self._url, self._prepared = server, node, url, prepared

    def add(self, number: int) -> float:
        """Assign an address; return ms."""
        began, owner = time.perf_counter(), pod(self._node, number)
        assign(self._store(owner), Asked(node=self._node, owner=owner))
        return (time.perf_counter() - began) * 1000

    def delete(self, number: int) -> float:
        """Release it; return ms."""
        began, owner = time.perf_counter(), pod(self._node, number)
        release(self._store(owner), owner)
        return (time.perf_counter() - began) * 1000

    def _store(self, owner: Owner) -> EtcdStore:
        store = self._server.store(self._node, self._url)
        if self._prepared:
            store.prepare(self._node, keys.handle(owner.handle_id))
        return store

    @property
    def verbs(self) -> Verbs:
        """As what they are named in the report."""
        return {"assign": self.add, "release": self.delete, "release again": self.delete}


def measure(scratch: Path, runs: int, parallel: int) -> tuple[list[Json], dict[str, list[str]]]:
    """Return the rows, and for each verb of each side what it asked for. Raises BenchError."""
    with ExitStack() as ended:
        server = Server(scratch, "trips")
        ended.callback(server.close)
        wire = Wire(server.url)
        ended.callback(wire.close)
        bin_dir, conf = installed(scratch, wire.url)
        starter = Starter(scratch)
        agent = Agent(scratch, ("env", "DATASTORE_TYPE=etcdv3", f"ETCD_ENDPOINTS={wire.url}"))
        ended.callback(agent.stop)
        netns = [new_netns(scratch / f"netns/trips-{number}") for number in range(parallel)]
        with_agent = Side(OURS, starter, bin_dir / "calico", {**conf, "nodename": "with-agent"}, agent)
        alone = Side(PYTHON, starter, bin_dir / "calico", {**conf, "nodename": "alone"})
        sides: dict[str, Verbs] = {
            OURS: verbs_of(Plugin(with_agent, netns[0])),
            PYTHON: verbs_of(Plugin(alone, netns[0])),
            ALLOCATOR: Allocator(server, "in-process", wire.url).verbs,
            UNPREPARED: Allocator(server, "unprepared", wire.url, prepared=False).verbs,
        }
        say(f"requests of {runs} warm ADDs and DELs")
        first = costs_of(wire, sides, range(1))
        costs_of(wire, sides, range(1, WARM))
        warm = costs_of(wire, sides, range(WARM, WARM + runs))
        rows = [*_rows(first, warm), *_at_once(wire, with_agent, netns), _idle(wire)]
    return rows, {f"{verb}, {what}": _lines(cost.said) for (what, verb), cost in warm.items()}


def installed(scratch: Path, url: str) -> tuple[Path, Json]:
    """Install the plugin; return the folder of its executables, and its configuration for this etcd."""
    bin_dir, conf = ground.install(scratch)
    if not (bin_dir / "calico.py").is_file():
        raise BenchError("install-cni installed no launcher; make it with launcher/build")
    del conf["datastore_dir"]
    return bin_dir, {**conf, "datastore_type": "etcdv3", "etcd_endpoints": url,
                     "ipam_lock_file": str(scratch / "lock/ipam.lock")}  # fmt: skip


def verbs_of(plugin: Plugin) -> Verbs:
    """Return what carries out the verbs of a plugin."""
    return {"ADD": plugin.add, "DEL": plugin.delete, "DEL again": plugin.delete}


def costs_of(wire: Wire, sides: dict[str, Verbs], numbers: range) -> dict[tuple[str, str], Cost]:
    """Carry every verb of every side out for each pod, and return what it cost by (side, verb)."""
    found: dict[tuple[str, str], Cost] = {}
    for number in numbers:
        for what, verbs in sides.items():
            for verb, carry_out in verbs.items():
                wire.take()
                ms = carry_out(number)
                time.sleep(SETTLED)
                found.setdefault((what, verb), Cost()).add(*wire.take(), ms)
    return found


def _rows(first: dict[tuple[str, str], Cost], warm: dict[tuple[str, str], Cost]) -> list[Json]:
    found = []
    for (what, verb), cost in warm.items():
        if (what, verb) == (OURS, "ADD"):
            found.append(absolute(f"warm {verb}, {what}", cost.requests, BAR, of="median") | {"unit": "requests"})
        else:
            found.append(row(f"warm {verb}, {what}", cost.requests, unit="requests"))
    found += [row(f"first {verb}, {what}", cost.requests, unit="requests")
              for (what, verb), cost in first.items() if verb in ("ADD", "assign")]  # fmt: skip
    found += [row(f"new connections of a warm {verb}, {what}", cost.connections, unit="")
              for (what, verb), cost in warm.items() if verb == "ADD"]  # fmt: skip
    once = [(f"warm {verb}, {what}", cost) for (what, verb), cost in warm.items() if not verb.endswith("again")]
    found += [row(f"{what}, both ways", [size / 1000 for size in cost.bytes], unit="kB") for what, cost in once]
    return found + [row(f"{what}, proxy and all", cost.times) for what, cost in once]


def _at_once(wire: Wire, side: Side, pods: Sequence[str]) -> list[Json]:
    """Return the requests for each pod when many are attached, then detached, at once by the agent."""
    if len(pods) < 2:
        return []
    found = []
    containers = [(netns, f"at-once-{number}") for number, netns in enumerate(pods)]
    results: list[Json | None] = []
    for verb in ("ADD", "DEL"):
        wire.take()
        batch = side.run(verb, containers, results, len(pods))
        results = [json.loads(answer) for answer in batch.answers] if verb == "ADD" else results
        time.sleep(SETTLED)
        each = len(wire.take()[0]) / len(pods)
        found.append(row(f"{len(pods)} {verb}s at once, {side.what}, for each", [each], unit="requests"))
    return found


def _idle(wire: Wire) -> Json:
    """Return the requests of an agent that has nothing to do."""
    wire.take()
    time.sleep(IDLE)
    return row("agent with nothing to do, a minute", [len(wire.take()[0]) * 60 / IDLE], unit="requests")


def _lines(said: Counter[str]) -> list[str]:
    """Return what was asked for, the most usual first."""
    return [f"{times}x: {line}" for line, times in said.most_common()]
