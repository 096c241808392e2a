"""Stores that fail as real ones do, and several actors on one store, call by call: for the allocator's tests."""

from __future__ import annotations

import _thread
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from datastore.api import Change, Conflict, Exists, Held, Missing, Record, Store, StoreError, Torn, Unwritable
from datastore.memory import MemoryStore

Json = dict[str, Any]
Action = Callable[[Store], Any]

STEPS: Counter[str] = Counter()  # what the machines did; tests/conftest.py tells it at the end


class Died(BaseException):
    """The process ended here, as far as the store can tell."""


class Door:
    """A Store in front of another; `call` is told of every call before it is made. It has no lock, as hosts have none.

    kind: get, keys, create, update, delete or commit, with the keys (or the prefix) it is about.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def call(self, kind: str, *names: str) -> None:
        """Do nothing before a call: subclasses do."""

    def get(self, key: str) -> Record:
        self.call("get", key)
        return self.inner.get(key)

    def create(self, key: str, value: Json) -> Record:
        self.call("create", key)
        return self.inner.create(key, value)

    def update(self, key: str, value: Json, revision: int) -> Record:
        self.call("update", key)
        return self.inner.update(key, value, revision)

    def delete(self, key: str, revision: int) -> None:
        self.call("delete", key)
        self.inner.delete(key, revision)

    def commit(self, *changes: Change) -> None:
        self.call("commit", *(change.key for change in changes))
        self.inner.commit(*changes)

    def keys(self, prefix: str) -> list[str]:
        self.call("keys", prefix)
        return self.inner.keys(prefix)

    def records(self, prefix: str) -> Iterator[Record]:
        for key in self.keys(prefix):
            with suppress(Missing):
                yield self.get(key)

    def scan(self, prefix: str, torn: Callable[[Torn], object]) -> Iterator[Record]:
        yield from self.records(prefix)

    def mend(self, torn: Torn, value: Json | None) -> None:
        self.inner.mend(torn, value)

    def prepare(self, node: str, *names: str) -> bool:
        return self.inner.prepare(node, *names)

    def accept(self) -> None:
        self.inner.accept()

    def share(self, other: Store) -> None:
        self.inner.share(other)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        yield

    @contextmanager
    def hold(self, name: str, seconds: float, keep_mark: bool = False) -> Iterator[Held]:
        yield Held(False, False, lambda: None, lambda: None)

    def tidy(self) -> None:
        self.inner.tidy()

    def check_writable(self) -> None:
        self.inner.check_writable()


def require(store: Store, change: Change) -> None:
    """Raise what a commit with this change must raise."""
    try:
        current = store.get(change.key)
    except Missing:
        if change.revision is None:
            return
        raise
    if change.revision is None:
        raise Exists(change.key)
    if current.revision != change.revision:
        raise Conflict(change.key)


def write(store: Store, change: Change) -> None:
    """Make one change of a commit."""
    if change.keep:
        return
    if change.revision is None:
        store.create(change.key, change.value or {})
    elif change.value is None:
        store.delete(change.key, change.revision)
    else:
        store.update(change.key, change.value, change.revision)


class OneByOne(Door):
    """A store that a killed process can leave between the changes of a commit, as a directory of files is."""

    def commit(self, *changes: Change) -> None:
        for change in changes:
            require(self.inner, change)
        for change in changes:
            write(self, change)


class Dying(OneByOne):
    """The process dies just before its write number `writes`, counted from 0."""

    def __init__(self, inner: Store, writes: int) -> None:
        super().__init__(inner)
        self.writes_left = writes

    def call(self, kind: str, *names: str) -> None:
        if kind in ("get", "keys"):
            return
        if self.writes_left == 0:
            raise Died
        self.writes_left -= 1


class DyingStore(Dying):
    """A new store whose process can be made to die, by setting `writes_left`."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), -1)


class Unheard(Door):
    """Write number `writes`, counted from 0, is made, but answered with an error."""

    def __init__(self, inner: Store, writes: int) -> None:
        super().__init__(inner)
        self.writes_left = writes

    def _answer(self) -> None:
        self.writes_left -= 1
        if self.writes_left == -1:
            raise Unwritable("the answer was lost")

    def create(self, key: str, value: Json) -> Record:
        record = self.inner.create(key, value)
        self._answer()
        return record

    def update(self, key: str, value: Json, revision: int) -> Record:
        record = self.inner.update(key, value, revision)
        self._answer()
        return record

    def delete(self, key: str, revision: int) -> None:
        self.inner.delete(key, revision)
        self._answer()

    def commit(self, *changes: Change) -> None:
        self.inner.commit(*changes)
        self._answer()


class Rivalled(Door):
    """Before call number `calls`, counted from 0, a rival does something; it is told the kind of call and its keys."""

    def __init__(self, inner: Store, calls: int, rival: Callable[[Store, str, Sequence[str]], object]) -> None:
        super().__init__(inner)
        self.calls_left = calls
        self.rival = rival

    def call(self, kind: str, *names: str) -> None:
        self.calls_left -= 1
        if self.calls_left == -1:
            self.rival(self.inner, kind, names)


class Outcome:
    """What an actor came to: a result, or the error that ended it."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: BaseException | None = None

    def finish(self, action: Action, store: Store) -> None:
        try:
            self.result = action(store)
        except (Exception, Died) as error:
            self.error = error


class _Actor(Door):
    """One of several that take turns, each in a thread of its own: a turn is so many calls to the store.

    A commit is made at once, as a transaction between hosts is, but for one that dies in it.
    """

    def __init__(self, inner: Store, action: Action) -> None:
        super().__init__(inner)
        self.outcome = Outcome()
        self.done = self.dead = self.buried = False
        self.turn = 0
        self._go, self._back = _thread.allocate_lock(), _thread.allocate_lock()
        self._go.acquire()
        self._back.acquire()
        self._thread = threading.Thread(target=self._run, args=(action,), daemon=True)
        self._thread.start()

    def _run(self, action: Action) -> None:
        self._go.acquire()
        self.outcome.finish(action, self)
        self.done = True
        self._back.release()

    def call(self, kind: str, *names: str) -> None:
        if self.turn == 0:
            self._back.release()
            self._go.acquire()
        self.turn -= 1
        if self.dead:
            self.buried = self.buried or kind != "commit"
            raise Died

    def commit(self, *changes: Change) -> None:
        try:
            self.call("commit")
        except Died:
            if not self.buried:
                self._write_first(changes)
            raise
        self.inner.commit(*changes)

    def _write_first(self, changes: Sequence[Change]) -> None:
        self.buried = True
        with suppress(StoreError):
            for change in changes:
                require(self.inner, change)
            for change in changes[:1]:
                write(self.inner, change)

    def advance(self, calls: int) -> None:
        """Let it make so many calls."""
        self.turn = calls
        self._go.release()
        self._back.acquire()
        if self.done:
            self._thread.join()


def interleave(store: Store, actions: Sequence[Action], schedule: bytes, mortal: bool = False) -> list[Outcome]:
    """Run the actions at the same time, one call to the store at a time, in the order that the schedule says.

    Each of its bytes gives one of those that are left 1 to 8 calls, or (where they are mortal) lets it die; after the
    last byte they go on one after the other.
    """
    actors = [_Actor(store, action) for action in actions]
    for byte in schedule:
        left = [actor for actor in actors if not actor.done]
        if not left:
            break
        actor = left[byte % len(left)]
        actor.dead = mortal and byte >= 0xF0
        actor.advance(1 + byte // 16 % 8)
    for actor in actors:
        while not actor.done:
            actor.advance(1000)
    return [actor.outcome for actor in actors]
