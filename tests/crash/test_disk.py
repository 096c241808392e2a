"""The model of the disk that forgets: it loses what was not synced, and nothing else."""

from __future__ import annotations

from pathlib import Path

from .disk import Disk, Tree, materialise
from .trace import Event

AT = Path("/disk")
NEW = "O_WRONLY|O_CREAT|O_EXCL"


def made(*events: Event) -> Disk:
    disk = Disk(AT)
    for event in events:
        disk.apply(event)
    return disk


def file(name: str, data: bytes, sync: bool = True, flags: str = NEW) -> list[Event]:
    path = f"{AT}/{name}"
    synced = [Event("fsync", path, 3)] if sync else []
    return [Event("openat", path, 3, flags=flags), Event("write", path, 3, data), *synced, Event("close", path, 3)]


def synced(name: str = "") -> list[Event]:
    path = str(AT / name)
    return [Event("openat", path, 3, flags="O_RDONLY"), Event("fsync", path, 3), Event("close", path, 3)]


def renamed(old: str, new: str) -> Event:
    return Event("rename", f"{AT}/{old}", text=f"{AT}/{new}".encode())


def left(disk: Disk) -> list[Tree]:
    found: list[Tree] = []
    for tree in disk.cuts(10_000, 0):
        if tree not in found:
            found.append(tree)
    return found


def test_what_is_synced_stays() -> None:
    """A synced file in a synced directory is all that can be left."""
    assert left(made(*file("a", b"1234"), *synced())) == [{"a": b"1234"}]


def test_a_name_without_its_directorys_sync_may_be_missing() -> None:
    assert left(made(*file("a", b"1234"))) == [{}, {"a": b"1234"}]


def test_a_file_without_its_sync_may_be_torn() -> None:
    """It may be empty, half, zeros, or half and zeros."""
    found = [tree["a"] for tree in left(made(*file("a", b"1234", sync=False), *synced()))]
    assert found == [b"", b"12", bytes(4), b"12\0\0", b"1234"]


def test_a_file_written_over_may_be_old_new_or_mixed() -> None:
    again = file("a", b"5678", sync=False, flags="O_WRONLY|O_TRUNC")
    found = [tree["a"] for tree in left(made(*file("a", b"1234"), *synced(), *again))]
    assert found == [b"1234", b"", b"56", bytes(4), b"56\0\0", b"5634", b"5678"]


def test_a_rename_may_be_at_either_name_at_both_or_at_none() -> None:
    disk = made(*file("a", b"1"), *synced(), renamed("a", "b"))
    assert left(disk) == [{"a": b"1"}, {"a": b"1", "b": "a"}, {}, {"b": b"1"}]
    for event in synced():
        disk.apply(event)
    assert left(disk) == [{"b": b"1"}]


def test_a_removed_file_may_still_be_there() -> None:
    disk = made(*file("a", b"1"), *synced(), Event("unlink", f"{AT}/a"))
    assert left(disk) == [{"a": b"1"}, {}]


def test_nothing_is_left_below_a_directory_that_is_lost() -> None:
    below = made(Event("mkdir", f"{AT}/d"), *file("d/a", b"1"), *synced("d"))
    assert left(below) == [{}, {"d": None, "d/a": b"1"}]


def test_what_failed_changes_nothing() -> None:
    assert left(made(Event("mkdir", f"{AT}/d", failed=True))) == [{}]


def test_samples_have_the_extremes() -> None:
    """Where there are too many, nothing of what is pending is among what is left, and all of it."""
    disk = made(*(event for number in range(20) for event in file(f"f{number}", b"1")))
    some = disk.cuts(10, 0)
    assert len(some) == 10
    assert {len(tree) for tree in some} >= {0, 20}
    assert disk.cuts(10, 0) == some != disk.cuts(10, 1)


def test_materialised(tmp_path: Path) -> None:
    """Directories, files, and two names of one file."""
    materialise({"d": None, "d/a": b"1", "b": "d/a"}, tmp_path / "x")
    assert (tmp_path / "x/d/a").read_bytes() == b"1"
    assert (tmp_path / "x/d/a").samefile(tmp_path / "x/b")
