"""A host that gives addresses to pods and takes them back, by the product's allocator, and writes down what it heard.

A line of its journal is on disk before the deed, and another after the answer, so that whoever lives after it, and the
judge (claims.py), know what it may have. The clock is the machine's monotonic one, the same for all processes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from datastore import keys
from datastore.api import Store, Unwritable
from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from datastore.settings import Settings
from datastore.snapshot import Cache
from ipam.assign import Request, assign
from ipam.errors import Contended, Exhausted
from ipam.handle import Owner
from ipam.release import release

ASK, GOT, NONE, LOST, LET, GONE, STUCK = "ask", "got", "none", "lost", "let", "gone", "stuck"


class Line(NamedTuple):
    """One line of a journal. handle: whose addresses; told: the addresses, or the error's kind and text."""

    at: float
    deed: str
    handle: str
    told: list[str]


class Journal:
    """What one host wrote, through all its lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def write(self, deed: str, handle: str, told: list[str]) -> None:
        """Add a line, which is there also if this process is killed right after."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._fd, (json.dumps([time.monotonic(), deed, handle, told]) + "\n").encode())

    def read(self) -> Iterator[Line]:
        """Yield all lines; a process killed while it wrote one has left half of it at most at the very end."""
        for text in self.path.read_text().splitlines() if self.path.exists() else ():
            yield Line(*json.loads(text))

    def held(self) -> list[str]:
        """Return the handles that may have addresses: asked for, and not known to have been given back."""
        may: dict[str, None] = {}
        for line in self.read():
            if line.deed == ASK:
                may[line.handle] = None
            elif line.deed in (NONE, GONE):
                may.pop(line.handle, None)
        return list(may)


@dataclass
class Host:
    """One host: what it opens, how it behaves.

    deeds: how many assigns and releases a life has; most: how many pods it has at a time; dual: every so many assigns
    one for both families; seconds: the patience of each verb's store; warm: whether verbs share connections and what
    was read before, as an agent's do, or each begins with nothing, as a process of its own; pause: seconds between
    deeds. A life also ends, after the deed at hand, with SIGTERM.
    """

    number: int
    settings: Settings
    journal: Journal
    deeds: int = 400
    most: int = 4
    dual: int = 5
    seconds: float = 20.0
    warm: bool = True
    pause: float = 0.0
    life: int = 0
    stopped: bool = False
    _client: Client | None = field(default=None, repr=False)
    _cache: Cache = field(default_factory=Cache, repr=False)

    @property
    def name(self) -> str:
        """Its node name."""
        return f"host{self.number:02}"

    def store(self, handle: str) -> EtcdStore:
        """Return a store for one verb, told what it is about."""
        if self._client is None or not self.warm:
            self._client, self._cache = Client(self.settings.etcd), Cache()
        store = EtcdStore(self._client, self.settings.lock_file, self.seconds, cache=self._cache)
        store.prepare(self.name, keys.handle(handle))
        return store

    def live(self) -> None:
        """Give back what a former life may have had, then assign and release in random order; keep what is held."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        self.clean()
        chance, held, given = random.Random(f"{self.number} {self.life}"), list[str](), 0
        for _ in range(self.deeds):
            if self.stopped:
                return
            if held and (len(held) == self.most or chance.random() < 0.5):
                handle = held.pop(chance.randrange(len(held)))
                if not self.release(handle):
                    held.append(handle)
            else:
                given += 1
                handle = f"net.{self.name}-{self.life}-{given}"
                if self.assign(handle, (4, 6) if self.dual and given % self.dual == 0 else (4,)):
                    held.append(handle)
            time.sleep(self.pause)

    def clean(self) -> None:
        """Give back all that the journal says may be held."""
        for handle in self.journal.held():
            while not self.stopped and not self.release(handle):
                time.sleep(self.pause)

    def assign(self, handle: str, families: tuple[int, ...]) -> bool:
        """Ask for an address of each family; tell whether they were given.

        Where nobody knows what came of it, it is given back at once if that can be, as a runtime does with a DEL.
        """
        self.journal.write(ASK, handle, [])
        try:
            given = assign(self.store(handle), Request(self.name, owner(self.name, handle), families))
        except (Exhausted, Contended) as error:
            self.journal.write(NONE, handle, _said(error))
        except Unwritable as error:
            self.journal.write(LOST, handle, _said(error))
            return True  # it may be there: one day it is released
        else:
            self.journal.write(GOT, handle, [str(item.address) for item in given])
            return True
        return False

    def release(self, handle: str) -> bool:
        """Give back what a handle has; tell whether that was answered."""
        self.journal.write(LET, handle, [])
        try:
            freed = release(self.store(handle), owner(self.name, handle))
        except (Unwritable, Contended) as error:
            self.journal.write(STUCK, handle, _said(error))
            return False
        self.journal.write(GONE, handle, [str(address) for address in freed])
        return True


def owner(node: str, handle: str) -> Owner:
    """Return the owner that a pod's network interface is."""
    name = handle.partition(".")[2]
    return Owner(handle, {"network": "net", "container": name, "interface": "eth0", "node": node})


def put_pool(store: Store, name: str, cidr: str, block_size: int) -> None:
    """Make a pool."""
    store.create(keys.ippool(name), {"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
                                     "spec": {"cidr": cidr, "blockSize": block_size, "nodeSelector": "all()"}})


def _said(error: Exception) -> list[str]:
    return [type(error).__name__, str(error)]
