"""Handles that a cut-off assignment left alone are collected; those that tell of a lost or damaged block are not."""

from __future__ import annotations

import pytest

from datastore import keys
from datastore.api import Missing
from datastore.file import FileStore
from datastore.model import Handle, handle_json
from ipam.assign import Request, assign
from ipam.collect import collect
from ipam.handle import Owner


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> FileStore:
    """A store with one assignment, and the handle of another that was cut off before its block was written."""
    store = FileStore(str(tmp_path_factory.mktemp("ds")))
    (given,) = assign(store, Request(node="n1", owner=Owner("net.c1", {"container": "c1"})))
    store.create(keys.handle("net.c2"), handle_json(Handle("net.c2", {str(given.block): 1})))
    return store


def test_an_idle_handle_goes(store: FileStore) -> None:
    """And no other."""
    collect(store)
    assert store.keys(keys.HANDLES) == [keys.handle("net.c1")]


def test_a_handle_of_a_lost_block_stays(store: FileStore) -> None:
    """It is all that tells of the addresses in it."""
    store.create(keys.handle("net.c3"), handle_json(Handle("net.c3", {"10.1.0.0/26": 1})))
    collect(store)
    assert store.keys(keys.HANDLES) == [keys.handle("net.c1"), keys.handle("net.c3")]


def test_nothing_goes_while_a_block_is_damaged(store: FileStore) -> None:
    """Whoever has addresses in it cannot be told."""
    (key,) = store.keys(keys.blocks(4))
    with open(store.path(key), "w", encoding="utf-8") as file:
        file.write("{")
    collect(store)
    assert store.keys(keys.HANDLES) == [keys.handle("net.c1"), keys.handle("net.c2")]
    with pytest.raises(Missing):
        store.get(keys.handle("net.c3"))
