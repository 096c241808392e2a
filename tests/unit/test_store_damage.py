"""Damaged records: how they are found, and how they are replaced without ever being lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from datastore.api import Conflict, Corrupt, Missing, Torn, Unwritable
from datastore.file import FileStore
from datastore.memory import MemoryStore

LONG = "/a/" + "x" * 300


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(str(tmp_path / "store"))


def kept(store: FileStore) -> list[bytes]:
    return [file.read_bytes() for file in sorted((Path(store.root) / ".damaged").iterdir())]


def test_scan_yields_what_records_does(store: FileStore) -> None:
    """Without damage a scan has the same records as a listing, in whatever order."""
    for key in ("/a/b/c", "/a/b/d", LONG, "/b/c", "/a/e.json"):
        store.create(key, {"key": key})
    torn: list[Torn] = []
    found = sorted(store.scan("/a/", torn.append), key=lambda record: record.key)
    assert (found, torn) == (sorted(store.records("/a/"), key=lambda record: record.key), [])


def test_scan_tells_of_every_damaged_record(store: FileStore) -> None:
    """Also of one whose key only its content told, which a listing has to leave out; a stray file is none."""
    for key in ("/a/b", "/a/c", LONG):
        store.create(key, {})
    for key in ("/a/b", LONG):
        Path(store.path(key)).write_text('{"key":')
    (Path(store.path("/a/b")).parent / "copy of b.json").write_text("x")
    torn: list[Torn] = []
    assert [record.key for record in store.scan("/a/", torn.append)] == ["/a/c"]
    assert {(item.key, item.file) for item in torn} == {("/a/b", store.path("/a/b")), ("", store.path(LONG))}
    assert all(item.file in item.reason for item in torn)
    assert store.keys("/a/") == ["/a/b", "/a/c"]


def test_what_is_mended_is_kept(store: FileStore) -> None:
    """The damaged record's bytes are kept aside, and its place has the new one, with a revision of its own."""
    before = store.create("/a/b", {})
    Path(store.path("/a/b")).write_text("torn")
    store.mend(Torn("/a/b", "", ""), {"new": 1})
    after = store.get("/a/b")
    assert (after.value, after.revision > before.revision, kept(store)) == ({"new": 1}, True, [b"torn"])
    assert [record.key for record in store.records("/")] == ["/a/b"]


def test_mended_to_nothing(store: FileStore) -> None:
    """A record in whose place nothing comes is gone from the listing, and kept; so is one without a key."""
    for key in ("/a/b", LONG):
        store.create(key, {})
        Path(store.path(key)).write_text(key)
    torn: list[Torn] = []
    assert list(store.scan("/a/", torn.append)) == []
    for item in torn:
        store.mend(item, None)
    assert sorted(kept(store)) == sorted([b"/a/b", LONG.encode()])
    assert list(store.scan("/a/", torn.append)) == []
    assert store.create(LONG, {"anew": True}).value == store.get(LONG).value


def test_mended_twice(store: FileStore) -> None:
    """Each damaged version is kept."""
    store.create("/a/b", {})
    for text in ("one", "two"):
        Path(store.path("/a/b")).write_text(text)
        with pytest.raises(Corrupt):
            store.get("/a/b")
        store.mend(Torn("/a/b", "", ""), {})
    assert kept(store) == [b"one", b"two"]


def test_what_told_no_key_and_is_a_record_by_now(store: FileStore) -> None:
    """A file that was made anew since is left; one that is gone is missing."""
    file = store.path(LONG)
    store.create(LONG, {})
    with pytest.raises(Conflict, match="changed"):
        store.mend(Torn("", file, ""), None)
    assert store.get(LONG).value == {}
    Path(file).unlink()
    with pytest.raises(Missing):
        store.mend(Torn("", file, ""), None)


def test_what_cannot_be_kept_stays(store: FileStore) -> None:
    """When there is no room to keep the damaged record, it stays where it is."""
    store.create("/a/b", {})
    Path(store.path("/a/b")).write_text("torn")
    (Path(store.root) / ".damaged").write_text("in the way")
    with pytest.raises(Unwritable, match="keep"):
        store.mend(Torn("/a/b", "", ""), {})
    assert Path(store.path("/a/b")).read_text() == "torn"


def test_in_memory() -> None:
    """The store for tests does the same."""
    store = MemoryStore()
    store.create("/a/b", {"old": 1})
    store.create("/a/c", {})
    store.mend(Torn("/a/b", "", ""), {"new": 1})
    store.mend(Torn("/a/c", "", ""), None)
    torn: list[Torn] = []
    assert [record.value for record in store.scan("/a/", torn.append)] == [{"new": 1}]
    assert store.damaged == ['{"old": 1}', "{}"]
