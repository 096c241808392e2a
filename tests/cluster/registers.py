"""A client that reads and writes a few keys of a store, and writes down what it was told."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datastore.api import Conflict, Exists, Missing, Unwritable
from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from datastore.settings import Settings

from .history import NEVER, Deed, Get, Write

KEYS = tuple(f"/calico/registers/{number}" for number in range(3))


@dataclass
class Reader:
    """One client. file: what it was told, a line a deed; seconds: the patience of each deed; removes: if it does."""

    name: str
    settings: Settings
    file: Path
    seconds: float
    removes: bool = True
    stopped: bool = False

    def work(self) -> None:
        """Read and write at random, until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        chance, client, number = random.Random(self.name), Client(self.settings.etcd), 0
        known: dict[str, int] = {}
        with self.file.open("w") as out:
            while not self.stopped:
                number += 1
                key, store = chance.choice(KEYS), EtcdStore(client, self.settings.lock_file, self.seconds)
                began = time.monotonic()
                if key not in known or chance.random() < 0.3:
                    what = self._get(store, key, known)
                else:
                    value = None if self.removes and known[key] and chance.random() < 0.3 else f"{self.name} {number}"
                    what = self._write(store, key, value, known)
                print(json.dumps([key, began, time.monotonic(), *what]), file=out, flush=True)
                time.sleep(chance.uniform(0, 0.04))

    def _get(self, store: EtcdStore, key: str, known: dict[str, int]) -> list[Any]:
        try:
            record = store.get(key)
        except Missing:
            known[key] = 0
            return ["get", None, 0]
        except Unwritable:
            return ["unread"]
        known[key] = record.revision
        return ["get", record.value["is"], record.revision]

    def _write(self, store: EtcdStore, key: str, value: str | None, known: dict[str, int]) -> list[Any]:
        expected, told = known.pop(key), None
        try:
            if value is None:
                store.delete(key, expected)
                told = 0
            elif expected:
                told = store.update(key, {"is": value}, expected).revision
            else:
                told = store.create(key, {"is": value}).revision
        except (Conflict, Exists, Missing) as error:
            return ["write", value, expected, type(error).__name__]
        except Unwritable:
            return ["write", value, expected, None]
        known[key] = told
        return ["write", value, expected, told]


def deeds_by_key(readers: Sequence[Reader]) -> dict[str, list[Deed]]:
    """Return what all clients were told of each key."""
    found: dict[str, list[Deed]] = defaultdict(list)
    for reader in readers:
        for line in reader.file.read_text().rpartition("\n")[0].splitlines():
            key, began, ended, kind, *rest = json.loads(line)
            if kind == "get":
                found[key].append(Deed(began, ended, True, Get(*rest)))
            elif kind == "write":
                what = Write(*rest)
                found[key].append(Deed(began, NEVER if what.told is None else ended, what.told is not None, what))
    return {key: [*deeds, *_made_before(deeds)] for key, deeds in found.items()}


def _made_before(deeds: Sequence[Deed]) -> Iterator[Deed]:
    """Yield creations that were seen at another revision than the one that was told.

    A creation whose answer was lost is tried again, and made again if another one has removed the record meanwhile.
    """
    seen = {(deed.what.value, deed.what.revision) for deed in deeds if isinstance(deed.what, Get)}
    for deed in deeds:
        what = deed.what
        is_creation = isinstance(what, Write) and not what.expected and not isinstance(what.told, str)
        if is_creation and any(value == what.value and revision != what.told for value, revision in seen):
            yield Deed(deed.begun, NEVER, False, what._replace(told=None))
