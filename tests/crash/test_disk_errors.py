"""A datastore whose disk is full, has no room for another file, or is read-only.

The disk is a tmpfs in a mount namespace that only these tests' processes are in; it goes with the last of them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cni_calico.errors import DATASTORE

from .kit import ROOT, Answer, Host, addresses_of, expected
from .reader import UNFINISHED, findings, held

PAGE = 4096
PAGES, FILES = 64, 100
MOUNT = 'mount -t tmpfs -o "$1" tmpfs "$2" && echo mounted && exec cat'

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@dataclass
class SmallDisk:
    """A host whose datastore is on a disk of its own. `seen` is where this process sees what is on it."""

    host: Host
    seen: Path
    at: Path

    @property
    def datastore(self) -> Path:
        return self.seen / "datastore"

    def remount(self, options: str) -> None:
        subprocess.run([*self.host.prefix, "mount", "-o", f"remount,{options}", self.at], check=True)

    def fill(self, what: str, room: int) -> None:
        """Leave room for so many pages, or files."""
        disk = os.statvfs(self.seen)
        if what == "pages":
            (self.seen / "filler").write_bytes(bytes(disk.f_bavail * disk.f_frsize - room * PAGE))
        else:
            for number in range(disk.f_ffree - room):
                (self.seen / f"filler{number}").touch()

    def empty(self) -> None:
        for filler in self.seen.glob("filler*"):
            filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    size = f"size={PAGES * PAGE},nr_inodes={FILES}"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNT, "sh", size, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout
        assert keeper.stdout.readline() == b"mounted\n"
        inside = ("nsenter", f"--mount=/proc/{keeper.pid}/ns/mnt", f"--wd={ROOT}")
        host, seen = Host(tmp_path / "datastore", prefix=inside), Path(f"/proc/{keeper.pid}/root{tmp_path}")
        yield SmallDisk(host, seen, tmp_path)
        keeper.communicate()


def is_refused(answer: Answer, words: str) -> bool:
    """Tell whether a verb failed as one whose datastore cannot be written; the file is named."""
    assert answer.code == 1
    assert answer.body["code"] == DATASTORE, answer.body
    return words in answer.body["msg"] and "/datastore/" in answer.body["msg"]


@pytest.mark.parametrize("what", ["pages", "files"])
@pytest.mark.parametrize("before", [0, 4])
def test_a_full_disk(disk: SmallDisk, what: str, before: int) -> None:
    """With room for ever more of what an ADD writes: it fails and says so, and nobody else's address is touched.

    Giving back takes room too: what could not be taken back is told, and a DEL takes it away once there is room again.
    `before` are the attachments there are: with 4 the next ADD takes new blocks, with none it makes the datastore.
    """
    for number in range(before):
        assert disk.host.run("ADD", f"a{number}").code == 0
    live, failed = held(disk.datastore), 0
    while (answer := add_with_room(disk, what, failed)).code:
        failed += 1
        assert is_refused(answer, "No space left on device")
        assert {address: holder for address, holder in held(disk.datastore).items() if holder != "new"} == live
        if addresses_of(disk.datastore, "new"):
            assert "taking it back failed too" in answer.body["details"]
        disk.empty()
        assert disk.host.run("DEL", "new").code == 0
        assert held(disk.datastore) == live
        assert [text for text in findings(disk.datastore) if UNFINISHED not in text] == []
    assert failed
    assert not live.keys() & set(answer.addresses)
    assert held(disk.datastore) == live | dict.fromkeys(answer.addresses, "new")


def add_with_room(disk: SmallDisk, what: str, room: int) -> Answer:
    disk.fill(what, room)
    answer = disk.host.run("ADD", "new")
    assert expected(findings(disk.datastore), "new"), (room, findings(disk.datastore))
    return answer


@pytest.mark.parametrize("what", ["pages", "files"])
def test_a_del_on_a_full_disk(disk: SmallDisk, what: str) -> None:
    """It says that it could not write, and works once it can; whoever else is there keeps what he has."""
    first, second = (disk.host.run("ADD", container).addresses for container in ("a", "b"))
    disk.fill(what, 0)
    assert is_refused(disk.host.run("DEL", "a"), "No space left on device")
    assert held(disk.datastore) == dict.fromkeys(first, "a") | dict.fromkeys(second, "b")
    disk.empty()
    assert disk.host.run("DEL", "a").code == 0
    assert held(disk.datastore) == dict.fromkeys(second, "b")
    assert findings(disk.datastore) == []


def test_a_read_only_disk(disk: SmallDisk) -> None:
    """Every verb that writes says so and changes nothing; then all goes on."""
    live = dict.fromkeys(disk.host.run("ADD", "a").addresses, "a")
    disk.remount("ro")
    for verb, container in (("ADD", "b"), ("DEL", "a")):
        assert is_refused(disk.host.run(verb, container), "Read-only file system")
    status = disk.host.run("STATUS", "")
    assert status.code == 1
    assert "is not writable" in status.body["msg"]
    assert held(disk.datastore) == live
    disk.remount("rw")
    given = disk.host.run("ADD", "b").addresses
    assert not live.keys() & set(given)
    assert disk.host.run("DEL", "a").code == 0
    assert held(disk.datastore) == dict.fromkeys(given, "b")
    assert findings(disk.datastore) == []
