"""Judges whether what many were told of one thing could have been told by one that does one deed at a time.

That is linearizability (Herlihy and Wing), looked for as Wing and Gong do, with Lowe's memory of where the search has
been: is there an order of all deeds, each somewhere between its call and its answer, in which every answer is right? A
deed whose answer nobody heard may take effect at any time after its call, or never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from .hosts import ASK, GONE, GOT, LET, LOST, Journal, Line

NEVER = float("inf")
S = TypeVar("S")


class Deed(NamedTuple):
    """Something done, from call to answer. sure: whether the answer was heard; what: for the model."""

    begun: float
    ended: float
    sure: bool
    what: Any


def is_linearizable(deeds: Iterable[Deed], state: S, step: Callable[[S, Any], S | None]) -> bool:
    """Tell whether there is such an order. step: the state after a deed, None where its answer is not right in it."""
    ordered = sorted(deeds, key=lambda deed: deed.begun)
    sure = sum(1 << at for at, deed in enumerate(ordered) if deed.sure)
    waiting, seen = [(0, 0, state)], {(0, state)}
    while waiting:
        done, first, now = waiting.pop()
        if done & sure == sure:
            return True
        while done >> first & 1:
            first += 1
        for at in _next(ordered, done, first):
            after = step(now, ordered[at].what)
            if after is not None and (done | 1 << at, after) not in seen:
                seen.add((done | 1 << at, after))
                waiting.append((done | 1 << at, first, after))
    return False


def _next(ordered: Sequence[Deed], done: int, first: int) -> Iterator[int]:
    """Yield the deeds that may be the next one: those called before any other that is left was answered."""
    until = NEVER
    found = []
    for at in range(first, len(ordered)):
        deed = ordered[at]
        if deed.begun > until:
            break
        if not done >> at & 1:
            found.append(at)
            if deed.sure:
                until = min(until, deed.ended)
    yield from (at for at in reversed(found) if ordered[at].begun <= until)


class Register(NamedTuple):
    """What is at a key. value None: nothing; revision 0: one that nobody was told yet; highest: of all told."""

    value: str | None = None
    revision: int = 0
    highest: int = 0


class Get(NamedTuple):
    """A read, and what it gave: a value and its revision, or nothing."""

    value: str | None
    revision: int


class Write(NamedTuple):
    """A write on the condition that the key has this revision, 0 for none.

    value: None to remove it. told: the new revision (0 for a removal), the name of the error, or None for no answer. A
    removal whose first answer was lost is answered as one, too, when another has removed the record meanwhile.
    """

    value: str | None
    expected: int
    told: int | str | None


def register(now: Register, what: Get | Write) -> Register | None:
    """Return the register after a deed, None where it cannot have been answered so."""
    if isinstance(what, Get):
        return _read(now, what)
    if what.told == "Exists":
        return now if now.value is not None else None
    if what.told == "Missing":
        return now if now.value is None else None
    if what.told == "Conflict":
        return now if now.value is not None and now.revision != what.expected else None
    return _write(now, what)


def _read(now: Register, what: Get) -> Register | None:
    if what.value != now.value:
        return None
    return now if what.value is None else _known(now, what.revision)


def _write(now: Register, what: Write) -> Register | None:
    if what.value is None and what.told == 0 and now.value is None:
        return now
    before: Register | None = now
    if what.expected:
        before = _known(now, what.expected) if now.value is not None else None
    elif now.value is not None:
        before = None
    if before is None:
        return None
    if what.value is None or what.told is None:
        return before._replace(value=what.value, revision=0)
    told = int(what.told)
    return Register(what.value, told, told) if told > before.highest else None


def _known(now: Register, revision: int) -> Register | None:
    """Return the register when its revision turns out to be this one, None when it cannot be."""
    if now.revision:
        return now if now.revision == revision else None
    return now._replace(revision=revision, highest=revision) if revision > now.highest else None


class Take(NamedTuple):
    """An address is given to a handle, or taken from it."""

    handle: str
    gives: bool


def address(holder: str, what: Take) -> str | None:
    """Return who has an address after a deed ("" for nobody), None where that cannot be."""
    if what.gives:
        return None if holder else what.handle
    return "" if holder == what.handle else None


def deeds_by_address(journals: Sequence[Journal]) -> dict[str, list[Deed]]:
    """Return what happened to each address as its hosts were told.

    A release that failed is one deed with the one that did not, in the end; what an assign gave that was not answered,
    the release tells.
    """
    found: dict[str, list[Deed]] = defaultdict(list)
    for journal in journals:
        by_handle: dict[str, list[Line]] = defaultdict(list)
        for line in journal.read():
            by_handle[line.handle].append(line)
        for handle, lines in by_handle.items():
            for name, deed in _of_handle(handle, lines):
                found[name].append(deed)
    return found


def _of_handle(handle: str, lines: Sequence[Line]) -> Iterator[tuple[str, Deed]]:
    at = {line.deed: line.at for line in reversed(lines)}  # the first of each
    last = max((line.at for line in lines if line.deed == GONE), default=NEVER)
    got = [name for line in lines if line.deed == GOT for name in line.told]
    freed = [name for line in lines if line.deed == GONE for name in line.told]
    lost = LOST in at or GOT not in at
    for name in dict.fromkeys([*got, *freed]):
        yield name, Deed(at[ASK], NEVER if lost else at[GOT], not lost, Take(handle, True))
        if LET in at:
            yield name, Deed(at[LET], last, last < NEVER, Take(handle, False))
