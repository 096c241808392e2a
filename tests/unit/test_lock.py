"""The lock between processes, by flock and by the filelock library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from datastore.api import Busy
from datastore.lock import flock, library_lock, passing_flock

Lock = Callable[[str, float], AbstractContextManager[None]]
HOLD = "import sys\nfrom datastore.lock import *\nfrom datastore import lock\n" \
       "with getattr(lock, sys.argv[1])(sys.argv[2], 5) as held:\n held and held.begin()\n" \
       " print(1, flush=True)\n input()"


@pytest.mark.parametrize("theirs", ["flock", "library_lock"])
@pytest.mark.parametrize("ours", [flock, library_lock])
def test_either_way_keeps_the_other_out(tmp_path: Path, theirs: str, ours: Lock) -> None:
    """The lean lock and the library's are one lock; death of the holder lets go."""
    path = str(tmp_path / "lock")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, theirs, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(Busy, match=str(holder.pid)), ours(path, 0.05):
            raise AssertionError("both hold the lock")
    finally:
        holder.kill()
        holder.communicate()
    with ours(path, 1):
        pass


def test_a_passing_lock_tells_of_a_killed_holder(tmp_path: Path) -> None:
    """Who gets the lock after its holder was killed is told so; who gets it after a proper end is not."""
    path = str(tmp_path / "lock")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, "passing_flock", path], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    assert holder.stdout
    holder.stdout.readline()
    holder.kill()
    holder.communicate()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), passing_flock(path, 1) as held:
            assert held.interrupted
            raise ZeroDivisionError  # it could not clean up: the next one is told again
    with passing_flock(path, 1) as held:
        assert held.interrupted
    with passing_flock(path, 1) as held:
        assert not held.interrupted


def test_who_only_looks_leaves_the_mark(tmp_path: Path) -> None:
    """A mark is there after a look as before it; where there was none, a look makes none, not even if it is killed."""
    path = tmp_path / "lock"
    with passing_flock(str(path), 1, keep_mark=True) as held:
        assert (held.interrupted, path.read_bytes()) == (False, b"")
    assert not path.exists()
    path.write_text("held\n")
    for _ in range(2):
        with passing_flock(str(path), 1, keep_mark=True) as held:
            assert held.interrupted
    with passing_flock(str(path), 1) as held:
        assert held.interrupted
    assert not path.exists()


def test_a_passing_lock_leaves_nothing(tmp_path: Path) -> None:
    """The file of a passing lock is gone after its use, also when the body fails."""
    path = str(tmp_path / "lock")
    with pytest.raises(ZeroDivisionError), passing_flock(path, 1):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


COUNT = """
import sys
from datastore.lock import passing_flock
for _ in range(100):
    with passing_flock(sys.argv[1], 30):
        number = int(open(sys.argv[2]).read())
        open(sys.argv[2], "w").write(str(number + 1))
"""


def test_a_passing_lock_excludes_although_its_file_comes_and_goes(tmp_path: Path) -> None:
    """Processes that take and remove the same lock file in turn never overlap."""
    counter = tmp_path / "n"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "lock"), str(counter)]
    workers = [subprocess.Popen(command) for _ in range(6)]
    assert [worker.wait() for worker in workers] == [0] * 6
    assert counter.read_text() == "600"
