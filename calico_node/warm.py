"""How a verb reaches what is outside of it in the agent: as cni_calico/world.py, but together with the other requests.

Nothing of the datastore is kept between two lots of requests: each reads its records anew, under the store's lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from functools import partial
from threading import Lock
from typing import Any, TypeVar, cast

from calico_node.together import Together
from calico_node.watcher import Watchers
from calico_node.workers import Workers
from cni_calico import netns, node
from cni_calico.config import OUR_IPAM
from cni_calico.errors import CniError
from cni_calico.netlink import Refusal, Socket
from cni_calico.skel import Call
from cni_calico.world import Declined, World
from datastore import SECONDS, keys
from datastore.api import Busy, Change, Conflict, Exists, Missing, Store, Unreachable, UnsupportedDatastore
from datastore.draft import Draft
from datastore.etcd import EtcdStore
from datastore.etcdclient import Client, TooLarge
from datastore.file import FileStore
from datastore.lock import busy, flock
from datastore.settings import ETCD, FILE, Etcd, Settings
from datastore.snapshot import Cache

MOST_LINKS = 256  # deleted at once: the kernel holds its routing lock meanwhile
MOST_CHANGES = 64  # assignments or releases in one lot: the others' latency
TRIES = 4  # of a lot, where another host has written to its block meanwhile, or it was too large
LOST_RACE = (Conflict, Exists, Missing)
T = TypeVar("T")
Step = Callable[[Store], Any]
Item = tuple[Store, Step]  # the store that was opened for the step's request


class Shared:
    """What all requests of an agent share. settings: where the datastore is by default."""

    def __init__(self, workers: Workers, settings: Settings) -> None:
        self.workers = workers
        self._lock = Lock()
        self._locks: dict[str, Lock] = {}
        self._lots: dict[tuple[Settings, bool], Together[Item, Any]] = {}
        self._clusters: dict[Etcd, tuple[Client, Cache]] = {}
        self._watchers = Watchers()
        self._latest, self._node = settings, ""
        self._rebuilt = bool(node.boot_id())
        self.delete_link = Together(_delete_links, MOST_LINKS, workers.idling)

    def store(self, settings: Settings, seconds: float = SECONDS) -> Store:
        """Return the store that the settings tell of, for one thread. Raises UnsupportedDatastore."""
        if settings.kind == FILE:
            self._latest, self._node = settings, ""
            return FileStore(settings.directory, self._in_turn, rebuilt=self._rebuilt)
        if settings.kind == ETCD:
            self._latest = settings
            client, cache = self._cluster(settings.etcd)
            return EtcdStore(client, settings.lock_file, seconds, self._in_turn, cache)
        raise UnsupportedDatastore(settings.kind)

    def latest(self) -> tuple[Store, str]:
        """Return the store that the latest request used, or would by default, and whose part of it this node's is.

        The name is empty where all of it is: in a datastore of many nodes each tells of its own part.
        """
        return self.store(self._latest), self._node

    def watch(self, settings: Settings, name: str) -> None:
        """Have the node's part of an etcd followed."""
        self._node = name
        self._watchers.watch(settings.etcd, name, partial(self.store, settings))

    @property
    def reasons(self) -> list[str]:
        """Why the datastore of the requests so far cannot be used; nothing when it can."""
        return self._watchers.reasons

    def carry_out(self, settings: Settings, giving: bool, store: Store, step: Step) -> Any:
        """Run a step that gives or frees addresses on the store that was opened for it, or in one lot with others."""
        with self._lock:
            lot = self._lots.get((settings, giving))
            if lot is None:
                work = partial(_carry_out, partial(self.store, settings), _giving if giving else _freeing)
                lot = self._lots[settings, giving] = Together(work, MOST_CHANGES, self.workers.idling)
        return lot((store, step))

    def _cluster(self, settings: Etcd) -> tuple[Client, Cache]:
        with self._lock:
            if settings not in self._clusters:
                self._clusters[settings] = Client(settings), Cache()
            return self._clusters[settings]

    @contextmanager
    def _in_turn(self, path: str, timeout: float) -> Iterator[None]:
        """The store's lock: threads of this process queue for it, where processes look for it again and again."""
        deadline = time.monotonic() + timeout
        with self._lock:
            turn = self._locks.setdefault(path, Lock())
        if not turn.acquire(blocking=False):
            with self.workers.idling(hasty=True):
                got = turn.acquire(timeout=timeout)
            if not got:
                raise Busy(busy(path, timeout))
        try:
            with flock(path, max(0.0, deadline - time.monotonic())):
                yield
        finally:
            turn.release()


class Warm(World):
    """One request's way. `fd` is the pod's namespace, -1 where `errno` says why there is none (0: none was named)."""

    def __init__(self, shared: Shared, fd: int, errno: int) -> None:
        self.laps: dict[str, float] = {}
        self._shared, self._fd, self._errno = shared, fd, errno
        self._settings = Settings()
        self._last = time.perf_counter()

    def accept(self, call: Call) -> None:
        """Leave foreign IPAM plugins to a process that ends with them (cni_calico/delegate.py); follow etcd."""
        if call.conf.ipam.type != OUR_IPAM:
            raise Declined(f"IPAM plugin {call.conf.ipam.type!r} is run by the plugin itself")
        if call.conf.datastore.kind == ETCD:
            with suppress(CniError):  # a DEL needs no node name
                self._shared.watch(call.conf.datastore, node.name(call.conf))

    def lap(self, stage: str) -> None:
        """Note how long a stage took."""
        now = time.perf_counter()
        self.laps[stage] = self.laps.get(stage, 0.0) + now - self._last
        self._last = now

    def open_store(self, settings: Settings, seconds: float) -> Store:
        """Return the store, whose lock this process's threads take in turn."""
        self._settings = settings
        return self._shared.store(settings, seconds)

    @contextmanager
    def open_netns(self, path: str) -> Iterator[int]:
        """Yield the descriptor that came with the request."""
        if self._fd < 0:
            raise netns.cannot_open(path, os.strerror(self._errno))
        netns.require_netns(self._fd, path)
        yield self._fd

    def is_own_netns(self, path: str) -> bool:
        """Tell it of the descriptor that came with the request."""
        return self._fd >= 0 and netns.is_own(self._fd)

    def give(self, store: Store, step: Callable[[Store], T]) -> T:
        """Take the step in one lot with others that give."""
        return cast(T, self._shared.carry_out(self._settings, True, store, step))

    def free(self, store: Store, step: Callable[[Store], T]) -> T:
        """Take the step in one lot with others that free."""
        return cast(T, self._shared.carry_out(self._settings, False, store, step))

    def delete_link(self, host: Socket, name: str) -> Refusal | None:
        """Delete a link, at the same time as others."""
        return self._shared.delete_link(name)


def _delete_links(names: Sequence[str]) -> list[Refusal | None]:
    with Socket() as host:
        return host.delete_links(names)


def _carry_out(open_store: Callable[[], Store], order: Callable[[Change], int], items: Sequence[Item]) -> list[Any]:
    """Run the steps on drafts and write them; a step that is alone, or fails on a draft, is run on the store itself."""
    if len(items) == 1:
        return [_outcome(*items[0])]
    store, outcomes, steps = open_store(), list[Any](), [step for _, step in items]
    for own, _ in items:
        store.share(own)
    with store.exclusive():
        while len(outcomes) < len(steps):
            outcomes += _lot(store, order, steps[len(outcomes) :])
    for own, _ in items:
        own.share(store)
    return outcomes


def _lot(store: Store, order: Callable[[Change], int], steps: Sequence[Step]) -> list[Any]:
    """Run steps on one draft as far as it goes and write it; return their outcomes, at least one."""
    for _ in range(TRIES):
        draft, outcomes = Draft(store), list[Any]()
        for step in steps:
            before = draft.mark()
            try:
                outcomes.append(step(draft))
            except Exception:
                draft.rewind(before)
                break
        if not outcomes:
            return [_outcome(store, steps[0])]
        steps = steps[: len(outcomes)]
        try:
            store.commit(*sorted(draft.changes(), key=order))
        except LOST_RACE:
            continue
        except TooLarge:
            steps = steps[: max(1, len(steps) // 2)]
            continue
        except Unreachable as error:
            return [copy(error) for _ in steps]  # nobody else would reach it either; each takes back what it may have
        except Exception:
            break
        return outcomes
    return [_outcome(store, step) for step in steps]  # each for itself, with an error of its own


def _outcome(store: Store, step: Step) -> Any:
    try:
        return step(store)
    except Exception as error:
        return error


def _giving(change: Change) -> int:
    """Handles first, so that no address is held without one."""
    return not change.key.startswith(keys.HANDLES)


def _freeing(change: Change) -> int:
    """Handles last: a death in between leaves a count that is too high, never too low."""
    return change.key.startswith(keys.HANDLES)
