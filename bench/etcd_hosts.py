"""Pods per second of many hosts at once on one etcd: a process for each, with a node name and lock file of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from bench.etcd_server import Server
from bench.fixture import NETWORK, POOL, pool_json
from bench.ground import BenchError, say
from bench.ipam_assign import pod
from bench.rows import Json, row
from cni_calico import endpoint
from cni_calico.args import Args, Attachment
from datastore import keys
from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from datastore.resources import endpoint_json
from datastore.settings import Etcd
from datastore.snapshot import Cache
from ipam.assign import Request, assign
from ipam.handle import Owner
from ipam.release import release

SECONDS = 300.0  # for all hosts to come to an end
WARM, ADD, DEL = "warm", "ADD", "DEL"
CIDR = "10.0.0.0/12"


class Host:
    """One host: a pod's ADD is an address and the endpoint's record, its DEL takes both away."""

    def __init__(self, url: str, folder: Path, node: str) -> None:
        self._client, self._cache, self._node = Client(Etcd(endpoints=(url,))), Cache(), node
        self._lock_file = str(folder / node / "ipam.lock")

    def carry_out(self, step: str, pods: int) -> tuple[float, float, list[float]]:
        """Return when it began and ended, by the monotonic clock, and how long each pod took, ms."""
        began, times = time.monotonic(), []
        for number in range(pods):
            one = time.perf_counter()
            (self._delete if step == DEL else self._add)(number)
            times.append((time.perf_counter() - one) * 1000)
        if step == WARM:
            for number in range(pods):
                self._delete(number)
        return began, time.monotonic(), times

    def _add(self, number: int) -> None:
        attachment, owner = self._attachment(number), pod(self._node, self._id(number))
        store = self._store(attachment, owner)
        given = assign(store, Request(node=self._node, owner=owner))
        record = endpoint.endpoint_for(self._node, "", "", attachment, tuple(str(item.address) for item in given))
        store.create(keys.workload_endpoint(record.namespace, record.name), endpoint_json(record))

    def _delete(self, number: int) -> None:
        attachment, owner = self._attachment(number), pod(self._node, self._id(number))
        store = self._store(attachment, owner)
        record = store.get(self._key(attachment))
        release(store, owner)
        store.delete(record.key, record.revision)

    def _store(self, attachment: Attachment, owner: Owner) -> EtcdStore:
        """Return a new store, which has read what a verb needs."""
        store = EtcdStore(self._client, self._lock_file, cache=self._cache)
        store.prepare(self._node, keys.handle(owner.handle_id), self._key(attachment))
        return store

    def _key(self, attachment: Attachment) -> str:
        return endpoint.usual_key(self._node, Args(), attachment)

    def _id(self, number: int) -> int:
        """Return the pod's number among those of all hosts."""
        return int(self._node.rpartition("-")[2]) * 100_000 + number

    def _attachment(self, number: int) -> Attachment:
        return Attachment(NETWORK, f"{self._id(number):064x}", "eth0")


def _serve(pipe: Connection, url: str, folder: Path, node: str) -> None:
    """Be a host until the other end of the pipe has nothing more to say."""
    host = Host(url, folder, node)
    while order := pipe.recv():
        try:
            pipe.send(host.carry_out(*order))
        except Exception as error:
            pipe.send(f"{node}: {error!r}")


@dataclass
class Series:
    """So many hosts: pods per second of each round, and ms of every pod, by verb."""

    hosts: int
    rates: dict[str, list[float]] = field(default_factory=lambda: {ADD: [], DEL: []})
    times: dict[str, list[float]] = field(default_factory=lambda: {ADD: [], DEL: []})


class Hosts:
    """Processes that are hosts, started once."""

    def __init__(self, url: str, folder: Path, count: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(count):
            ours, theirs = context.Pipe()
            arguments = (theirs, url, folder, f"host-{number}")
            self._processes.append(context.Process(target=_serve, args=arguments, daemon=True))
            self._pipes.append(ours)
            self._processes[-1].start()

    def run(self, step: str, hosts: int, pods: int) -> tuple[float, list[float]]:
        """Let so many hosts carry a step out for so many pods each; return pods per second, and ms of each pod.

        Raises BenchError.
        """
        for pipe in self._pipes[:hosts]:
            pipe.send((step, pods))
        answers = []
        for pipe in self._pipes[:hosts]:
            if not pipe.poll(SECONDS):
                raise BenchError(f"a host did not answer within {SECONDS:.0f} s")
            answers.append(pipe.recv())
            if isinstance(answers[-1], str):
                raise BenchError(answers[-1])
        first, last = min(answer[0] for answer in answers), max(answer[1] for answer in answers)
        return hosts * pods / (last - first), [ms for answer in answers for ms in answer[2]]

    def close(self) -> None:
        """End them."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(SECONDS)
            process.close()


def measure(scratch: Path, counts: Sequence[int], pods: int, rounds: int) -> list[Json]:
    """Return pods per second with so many hosts, in turn; `pods` is of all hosts together. Raises BenchError."""
    server = Server(scratch, "hosts", synced=True)
    try:
        server.store("any").create(keys.ippool(POOL), pool_json(CIDR, 26))
        hosts = Hosts(server.url, server.folder, max(counts))
        say(f"{rounds} rounds of {pods} pods by {', '.join(map(str, counts))} hosts in turn")
        try:
            hosts.run(WARM, max(counts), 1)
            series = [Series(count) for count in counts]
            for number in range(rounds):
                for item in series if number % 2 == 0 else series[::-1]:
                    for verb in (ADD, DEL):
                        rate, times = hosts.run(verb, item.hosts, max(1, pods // item.hosts))
                        item.rates[verb].append(rate)
                        item.times[verb] += times
        finally:
            hosts.close()
    finally:
        server.close()
    return rows(series)


def rows(series: Sequence[Series]) -> list[Json]:
    """Return rates and times, beside those of the first series."""
    found = []
    for verb in (ADD, DEL):
        for item in series:
            found.append(row(f"{verb}s a second, {_hosts(item.hosts)}", item.rates[verb], series[0].rates[verb],
                             unit="pods"))  # fmt: skip
    for verb in (ADD, DEL):
        for item in series:
            found.append(row(f"{verb}, {_hosts(item.hosts)}", item.times[verb], series[0].times[verb]))
    return found


def _hosts(count: int) -> str:
    return f"{count} host{'s' if count > 1 else ''}"
