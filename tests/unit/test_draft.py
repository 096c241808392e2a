"""A draft that is committed is as if its steps had been made in the store itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastore import keys
from datastore.api import Change, Conflict, Exists, Missing, StoreError, Torn
from datastore.draft import Beyond, Draft
from datastore.memory import MemoryStore

HANDLE_KEYS = [keys.handle(f"net.{name}") for name in "abcd"]
BLOCK_KEYS = [keys.block(4, f"10.0.0.{number}/30") for number in (0, 4)]
ALL = [*HANDLE_KEYS, *BLOCK_KEYS]
PREFIXES = [keys.HANDLES, keys.BLOCKS, keys.blocks(4), "/calico/", keys.handle("net.a")]

values = st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 3), max_size=2)
revisions = st.sampled_from(["now", "now", "now", "before", "none"])
changes = st.tuples(st.sampled_from(ALL), st.none() | values, revisions)
steps = st.one_of(
    st.tuples(st.just("commit"), st.lists(changes, min_size=1, max_size=4, unique_by=lambda change: change[0])),
    st.tuples(st.just("create"), st.sampled_from(ALL), values),
    st.tuples(st.just("update"), st.sampled_from(ALL), values, revisions),
    st.tuples(st.just("delete"), st.sampled_from(ALL), revisions),
    st.tuples(st.just("mark")),
    st.tuples(st.just("rewind")),
)
Json = dict[str, Any]


class Side:
    """A store that steps are made in, and the revisions that its records have had."""

    def __init__(self, store: MemoryStore | Draft) -> None:
        self.store = store
        self.seen: dict[str, list[int]] = {key: [] for key in ALL}
        self.look()

    def look(self) -> None:
        for key in ALL:
            if self.value(key) is not None:
                revision = self.store.get(key).revision
                if revision not in self.seen[key]:
                    self.seen[key].append(revision)

    def value(self, key: str) -> Json | None:
        try:
            return self.store.get(key).value
        except Missing:
            return None

    def revision(self, key: str, which: str) -> int | None:
        if which == "none":
            return None
        exists = self.value(key) is not None
        if which == "now":
            return self.store.get(key).revision if exists else 10**6
        past = self.seen[key][:-1] if exists else self.seen[key]
        return past[-1] if past else 10**6

    def make(self, step: tuple[Any, ...]) -> str:
        """Make a step; return what came of it."""
        kind, *arguments = step
        try:
            if kind == "commit":
                self.store.commit(*(Change(key, value, self.revision(key, which))
                                    for key, value, which in arguments[0]))
            elif kind == "create":
                self.store.create(*arguments)
            elif kind == "update":
                self.store.update(arguments[0], arguments[1], self.revision(arguments[0], arguments[2]) or 0)
            else:
                self.store.delete(arguments[0], self.revision(*arguments) or 0)
        except (StoreError, Beyond) as error:
            return type(error).__name__
        finally:
            self.look()
        return "done"

    def listed(self) -> list[list[str]]:
        return [self.store.keys(prefix) for prefix in PREFIXES]

    def read(self) -> list[list[tuple[str, Json]]]:
        return [[(record.key, record.value) for record in self.store.records(prefix)] for prefix in PREFIXES]


def is_beyond(step: tuple[Any, ...]) -> bool:
    """Tell whether a step makes or removes a record that is no handle."""
    kind, *arguments = step
    if kind == "commit":
        return any(key in BLOCK_KEYS and (value is None or which == "none") for key, value, which in arguments[0])
    return arguments[0] in BLOCK_KEYS and kind != "update"


def no_sense(step: tuple[Any, ...]) -> bool:
    """Tell whether a step is one that no store is asked for: to remove what must not be there."""
    kind, *arguments = step
    if kind == "commit":
        return any(value is None and which == "none" for _, value, which in arguments[0])
    return kind in ("update", "delete") and arguments[-1] == "none"


@given(st.dictionaries(st.sampled_from(ALL), values), st.lists(steps, max_size=25))
def test_as_if_made_in_the_store(before: dict[str, Json], made: list[tuple[Any, ...]]) -> None:
    """Each step ends alike, each look sees the same, and in the end the records are the same, each written once."""
    drafted, itself = MemoryStore(), MemoryStore()
    for key, value in before.items():
        drafted.create(key, value)
        itself.create(key, value)
    draft = Draft(drafted)
    one, other = Side(draft), Side(itself)
    mark, kept = draft.mark(), copy.deepcopy(itself._records)
    for step in made:
        if step[0] == "mark":
            mark, kept = draft.mark(), copy.deepcopy(itself._records)
        elif step[0] == "rewind":
            draft.rewind(dict(mark))
            itself._records = copy.deepcopy(kept)
            one.look()
            other.look()
        elif is_beyond(step) and not no_sense(step):
            assert one.make(step) in ("Beyond", "Exists", "Missing", "Conflict")
        elif not no_sense(step):
            assert one.make(step) == other.make(step), step
        assert one.listed() == other.listed()
        assert one.read() == other.read()
    if is_stored(drafted, before):
        found = draft.changes()
        assert len({change.key for change in found}) == len(found)
        drafted.commit(*found)
    assert Side(drafted).read() == other.read()


def is_stored(store: MemoryStore, before: dict[str, Json]) -> bool:
    """Tell whether nothing has been written to the store so far, as it must be."""
    assert {key: store.get(key).value for key in store.keys("/")} == before
    return True


def draft_of(*records: tuple[str, Json]) -> tuple[MemoryStore, Draft]:
    store = MemoryStore()
    for key, value in records:
        store.create(key, value)
    return store, Draft(store)


def test_what_came_and_went_is_not_written() -> None:
    """And what went and came again is one update, of what it was in the store."""
    store, draft = draft_of((HANDLE_KEYS[0], {"x": 1}))
    draft.delete(HANDLE_KEYS[1], draft.create(HANDLE_KEYS[1], {}).revision)
    revision = store.get(HANDLE_KEYS[0]).revision
    draft.delete(HANDLE_KEYS[0], revision)
    draft.create(HANDLE_KEYS[0], {"x": 2})
    assert draft.changes() == [Change(HANDLE_KEYS[0], {"x": 2}, revision)]


def test_a_revision_of_the_store_is_stale_once_the_draft_has_another() -> None:
    store, draft = draft_of((BLOCK_KEYS[0], {"x": 1}))
    revision = store.get(BLOCK_KEYS[0]).revision
    draft.update(BLOCK_KEYS[0], {"x": 2}, revision)
    with pytest.raises(Conflict):
        draft.update(BLOCK_KEYS[0], {"x": 3}, revision)


def test_one_refused_change_keeps_all_from_being_noted() -> None:
    _, draft = draft_of((HANDLE_KEYS[0], {}))
    with pytest.raises(Exists):
        draft.commit(Change(HANDLE_KEYS[1], {}, None), Change(HANDLE_KEYS[0], {}, None))
    assert draft.changes() == []


def test_what_is_not_for_a_draft() -> None:
    """Claims, pools, damaged records and held names: each is refused, and nothing noted."""
    store, draft = draft_of((BLOCK_KEYS[0], {}))
    revision = store.get(BLOCK_KEYS[0]).revision
    for attempt in (
        lambda: draft.create(keys.affinity("n1", 4, "10.0.0.0/30"), {}),
        lambda: draft.create(keys.ippool("p"), {}),
        lambda: draft.delete(BLOCK_KEYS[0], revision),
        lambda: list(draft.scan("/", lambda _: None)),
        lambda: draft.mend(Torn(BLOCK_KEYS[0], "", ""), None),
        lambda: draft.hold("x", 0),
    ):
        with pytest.raises(Beyond):
            attempt()
    assert draft.changes() == []
    with draft.exclusive():
        draft.check_writable()
