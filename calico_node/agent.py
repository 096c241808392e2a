"""The agent put together: socket, workers, queue, metrics; from its start to the end of its last request."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Event, Thread
from typing import Any

from calico_node import status
from calico_node.latencies import Latencies
from calico_node.listener import listening
from calico_node.metrics import Metrics, Sources
from calico_node.notify import Notifier, Watchdog
from calico_node.queue import DelQueue
from calico_node.server import SPARE_DESCRIPTORS, Server
from calico_node.service import Service
from calico_node.warm import Shared
from calico_node.web import Web
from calico_node.workers import Workers
from cni_calico import netns
from cni_calico.log import Log
from cni_calico.version import VERSION
from datastore.settings import Settings

STUCK_SECONDS = 10.0  # a loop that has not turned for so long is not alive
RETRY_SECONDS = 30.0  # between attempts at DELs that stay queued
SWITCH_SECONDS = 0.001  # how long a thread may keep the interpreter while others wait; Python's own is 5 ms
MOST_DESCRIPTORS = 6144
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h
LARGE_BYTES = 16384  # a full block's record has 27 KB


class Agent:
    """Serves until SIGTERM or SIGINT, and then until all that has begun is answered."""

    def __init__(self, listener: socket.socket, queue: str, settings: Settings) -> None:
        self._began, self._started = time.monotonic(), time.time()
        self._workers = Workers(_at_home())
        self._shared = Shared(self._workers, settings)
        self._latencies = Latencies()
        self.metrics = Metrics(self._sources(), self._latencies)
        self._service = Service(self._shared, self.metrics.answered, self.status)
        self._server = Server(listener, self._service, self._workers, _descriptors())
        self._queue = DelQueue(queue, self._service.carry_out)
        self._ended = Event()

    def run(self, notifier: Notifier) -> None:
        """Serve. The calling thread must be the main one."""
        def stop(*_: object) -> None:
            self._server.stop()
            notifier.stopping("answering what has begun")

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        watchdog = Watchdog(notifier, self.alive)
        drainer = Thread(target=self._drain, args=(notifier,), name="queue", daemon=True)
        watchdog.start()
        drainer.start()
        try:
            self._server.run()
        finally:
            self._ended.set()
            watchdog.stop()

    def alive(self) -> bool:
        """Tell whether the thread that serves the socket does."""
        return time.monotonic() - self._server.last_turn < STUCK_SECONDS

    def unready(self) -> Sequence[str]:
        """Return why ADDs are not served; nothing when they are."""
        reasons = [] if self.alive() else ["the thread that serves the socket is stuck"]
        if self._server.draining:
            reasons.append("the agent is stopping")
        elif not self._server.ready:
            reasons.append("what was queued on disk is being done first")
        reasons += self._shared.reasons
        return reasons

    def status(self) -> Mapping[str, Any]:
        """Return what `calicoctl node status` shows."""
        return status.status(status.Agent(
            version=VERSION,
            pid=os.getpid(),
            started=self._started,
            uptime=time.monotonic() - self._began,
            in_flight=self._server.in_flight,
            waiting=self._workers.waiting,
            del_queue=len(self._queue),
            connections=self._server.connections,
            draining=self._server.draining,
            reasons=self.unready(),
            latencies=self._latencies.last_hour(),
            counts=self.metrics.counts(),
        ))

    def _sources(self) -> Sources:
        return Sources(
            in_flight=lambda: self._server.in_flight,
            waiting=lambda: self._workers.waiting,
            del_queue=lambda: len(self._queue),
            connections=lambda: self._server.connections,
            open_store=self._shared.latest,
        )

    def _drain(self, notifier: Notifier) -> None:
        """Do what is queued, then let ADDs begin; what failed is tried again now and then."""
        self._queue.drain()
        self._server.may_add()
        notifier.ready("serving")
        Log().info("serving", version=VERSION, pid=os.getpid())
        while not self._ended.wait(RETRY_SECONDS):
            self._queue.drain()


def serve(path: str, queue: str, metrics: tuple[str, int] | None, settings: Settings) -> None:
    """Run an agent on the socket. settings: the datastore until requests say. Raises Unusable, NotLoopback, OSError."""
    path, queue = os.path.abspath(path), os.path.abspath(queue)
    os.chdir("/")
    os.umask(0o022)  # what is private is made so by its mode
    sys.setswitchinterval(SWITCH_SECONDS)
    _share_one_heap()
    _warm_up()
    notifier = Notifier()
    with listening(path) as listener:
        agent = Agent(listener, queue, settings)
        web = _web(agent, *metrics) if metrics else None
        try:
            agent.run(notifier)
        finally:
            if web:
                web.stop()


def _web(agent: Agent, host: str, port: int) -> Web | None:
    """Begin to answer over HTTP; where the port is taken, pods are served without. Raises NotLoopback."""
    try:
        web = Web(host, port, agent.metrics.registry, agent.alive, agent.unready)
    except OSError as error:
        Log().warning("no metrics and no health over HTTP; see --metrics-address", address=f"{host}:{port}", why=error)
        return None
    web.start()
    return web


def _at_home() -> Callable[[], bool]:
    """Return what tells whether a thread is in the network namespace that this one is in: it may fail to come back."""
    home = netns.own_identity()
    return lambda: netns.own_identity() == home


def _share_one_heap() -> None:
    """Have all threads take memory from one heap, and large pieces from none, so that it keeps few holes (mallopt(3)).

    glibc gives each thread a heap of its own, and moves its limit for large pieces up as they come.
    """
    with suppress(AttributeError):  # another libc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def _warm_up() -> None:
    """Import what the verbs would only import when they need it."""
    import pyroute2  # noqa: F401  # GC lists all links with it

    from cni_calico import ipam_verbs, plugin, reclaim  # noqa: F401
    from ipam import collect, staircase, usage  # noqa: F401


def _descriptors() -> int:
    """Allow as many descriptors as may be; return how many of them are for connections and requests."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return MOST_DESCRIPTORS if hard < 0 else max(24, min(MOST_DESCRIPTORS, hard - SPARE_DESCRIPTORS))
