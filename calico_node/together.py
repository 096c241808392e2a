"""Work that costs the same for many as for one: whoever comes while it is being done is done with the next lot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Waiting(Generic[T, R]):
    """One caller: what it wants, what came of it, and whether it is the one to do the next lot."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.gate = Lock()  # locked until the item is done, or leads
        self.gate.acquire()
        self.leads = False
        self.outcome: R | BaseException | None = None


class Together(Generic[T, R]):
    """Calls of many threads, carried out in lots, one lot at a time; a call that comes alone does not wait.

    `work` returns for each item its result, or the error to raise for it; when `work` raises, all of the lot do.
    `idling` is entered by a caller that waits for another's lot.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R | BaseException]],
        most: int,
        idling: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._work, self._most, self._idling = work, most, idling
        self._lock = Lock()
        self._waiting: list[_Waiting[T, R]] = []
        self._busy = False

    def __call__(self, item: T) -> R:
        """Have the item done; return its result or raise its error."""
        mine = _Waiting[T, R](item)
        with self._lock:
            self._waiting.append(mine)
            mine.leads, self._busy = not self._busy, True
        if not mine.leads:
            with self._idling():
                mine.gate.acquire()
        if mine.leads:
            self._lead()
        if isinstance(mine.outcome, BaseException):
            raise mine.outcome
        return mine.outcome  # type: ignore[return-value]  # set by the lot that it was in

    def _lead(self) -> None:
        """Do the next lot, which has the caller's own item, then pass the lead to the first who waits."""
        with self._lock:
            lot, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            outcomes = self._work([each.item for each in lot])
            for each, outcome in zip(lot, outcomes, strict=True):
                each.outcome = outcome
        except BaseException as error:
            for each in lot:
                each.outcome = copy(error)  # notes are added to it, of one caller's own
        with self._lock:
            self._busy = bool(self._waiting)
            if self._waiting:
                self._waiting[0].leads = True
                lot.append(self._waiting[0])
        for each in lot:
            each.gate.release()
