"""The Store contract, run over every store; then what only the file store has to prove."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datastore import keys
from datastore.api import Busy, Change, Conflict, Corrupt, Exists, Missing, Store, Torn, Unwritable
from datastore.file import FileStore

from .stores import STORES

KEY = "/calico/ipam/v2/handle/net.c1"


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)


def test_create_get_update_delete(store: Store) -> None:
    """A record is read as written, and each write gives it a new revision."""
    first = store.create(KEY, {"a": 1})
    assert store.get(KEY) == first
    second = store.update(KEY, {"a": 2}, first.revision)
    assert second.revision > first.revision
    assert store.get(KEY).value == {"a": 2}
    store.delete(KEY, second.revision)
    with pytest.raises(Missing):
        store.get(KEY)


def test_create_twice(store: Store) -> None:
    """A record that exists is not created again, and stays as it is."""
    store.create(KEY, {"a": 1})
    with pytest.raises(Exists):
        store.create(KEY, {"a": 2})
    assert store.get(KEY).value == {"a": 1}


@pytest.mark.parametrize("write", [lambda s, r: s.update(KEY, {}, r), lambda s, r: s.delete(KEY, r)])
def test_stale_revision(store: Store, write: Callable[[Store, int], object]) -> None:
    """A write with the revision of an earlier read is a conflict and changes nothing."""
    old = store.create(KEY, {"a": 1})
    new = store.update(KEY, {"a": 2}, old.revision)
    with pytest.raises(Conflict):
        write(store, old.revision)
    assert store.get(KEY) == new


@pytest.mark.parametrize("write", [lambda s: s.update(KEY, {}, 1), lambda s: s.delete(KEY, 1)])
def test_missing(store: Store, write: Callable[[Store], object]) -> None:
    """What is not there can be neither changed nor removed."""
    with pytest.raises(Missing):
        write(store)


def test_a_record_made_anew_has_another_revision(store: Store) -> None:
    """Removing and creating again never brings a revision back: a stale writer cannot hit the successor."""
    old = store.create(KEY, {})
    store.delete(KEY, old.revision)
    assert store.create(KEY, {}).revision != old.revision


def test_records_and_keys_below_a_prefix(store: Store) -> None:
    """Listing gives what is below the prefix, in key order, however deep, and nothing beside it."""
    names = ["host/n1", "host/n1/ipv4/block/10.0.0.0-26", "host/n1/ipv4/block/10.0.0.64-26", "host/n10/ipv4/block/x",
             "block/fd00::-122", "host/n.json", "host/n.json/ipv4/block/y"]
    for name in names:
        store.create(f"/calico/{name}", {"name": name})
    inside = [f"/calico/{name}" for name in sorted(names) if name.startswith("host/n1/")]
    assert store.keys("/calico/host/n1/") == inside
    assert [record.key for record in store.records("/calico/host/n1/")] == inside
    assert store.keys("/calico/") == sorted(f"/calico/{name}" for name in names)
    assert store.keys("/nothing/") == []


@pytest.mark.parametrize("segment", ["..", ".", ".lock", "a b", "é", "%41", "x" * 250, "ü" * 120, "a.json", "-", "~"])
def test_odd_names(store: Store, segment: str) -> None:
    """Any key segment is kept apart and read back, also those that would be special or too long as a file name."""
    key = f"/calico/odd/{segment}"
    store.create(key, {"it": segment})
    store.create("/calico/odd/other", {})
    assert store.get(key).value == {"it": segment}
    assert key in store.keys("/calico/odd/")
    assert {record.key for record in store.records("/calico/odd/")} == {key, "/calico/odd/other"}


def test_a_commit_writes_all_or_nothing(store: Store) -> None:
    """Several records are created, changed and removed together, or, when one of them has changed, not at all."""
    kept, gone, last = (store.create(f"/b/{name}", {"n": 1}) for name in ("kept", "gone", "last"))
    changes = (Change("/b/new", {}, None), Change("/b/kept", {"n": 2}, kept.revision),
               Change("/b/gone", None, gone.revision))
    for broken, error in ((Change("/b/last", {}, None), Exists), (Change("/b/last", {}, kept.revision), Conflict),
                          (Change("/b/none", None, 1), Missing), (Change("/b/none", {}, 1), Missing)):
        with pytest.raises(error):
            store.commit(*changes, broken)
        assert list(store.records("/b/")) == [gone, kept, last]
    store.commit(*changes)
    assert store.keys("/b/") == ["/b/kept", "/b/last", "/b/new"]
    assert store.get("/b/kept").value == {"n": 2}
    assert store.get("/b/kept").revision > kept.revision


def test_exclusive_can_be_entered_again(store: Store) -> None:
    """Whoever holds the store may write to it."""
    with store.exclusive(), store.exclusive():
        store.create(KEY, {})


@pytest.mark.parametrize("keep_mark", [False, True])
def test_a_hold_that_ends_is_no_killed_one(store: Store, keep_mark: bool) -> None:
    """Whether it is for work or only for a look, and also when its body fails."""
    with pytest.raises(ZeroDivisionError), store.hold("x", 1, keep_mark=keep_mark):
        raise ZeroDivisionError
    for _ in range(2):
        with store.hold("x", 1, keep_mark=keep_mark) as held:
            assert not held.interrupted


def test_nothing_to_mend(store: Store) -> None:
    """A record that has gone is missing, not damaged."""
    with pytest.raises(Missing):
        store.mend(Torn(KEY, "", ""), {})
    assert store.keys("/") == []


def test_values_are_not_shared(store: Store) -> None:
    """Changing a value that was read or written does not change what is stored."""
    value = {"list": [1]}
    store.create(KEY, value)
    value["list"].append(2)
    store.get(KEY).value["list"].append(3)
    assert store.get(KEY).value == {"list": [1]}


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"key":"/other","revision":1,"value":{}}', b"\0" * 40,
                                     b'{"key":"' + KEY.encode() + b'","revision":"1","value":{}}'])
def test_a_torn_file_is_named_and_never_overwritten(tmp_path: Path, content: bytes) -> None:
    """A file that is no record of its key fails every operation on it, by name, and stays for repair."""
    store = FileStore(str(tmp_path))
    store.create(KEY, {})
    path = Path(store.path(KEY))
    path.write_bytes(content)
    for operation in (lambda: store.get(KEY), lambda: store.update(KEY, {}, 1), lambda: store.delete(KEY, 1)):
        with pytest.raises(Corrupt, match=str(path)):
            operation()
    with pytest.raises(Exists):
        store.create(KEY, {})
    assert path.read_bytes() == content


def test_rights(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600 whatever the umask: pods' names and addresses are nobody else's business."""
    old = os.umask(0)
    try:
        store = FileStore(str(tmp_path / "a/b"))
        store.create(KEY, {})
    finally:
        os.umask(old)
    for path in (tmp_path / "a").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_nothing_is_made_by_reading(tmp_path: Path) -> None:
    """Looking at a datastore that does not exist leaves it so."""
    store = FileStore(str(tmp_path / "ds"))
    assert store.keys("/") == []
    store.check_writable()
    with pytest.raises(Missing):
        store.get(KEY)
    assert not (tmp_path / "ds").exists()


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    """A writer that waits in vain says who holds the lock."""
    store = FileStore(str(tmp_path), lock_seconds=0.1)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdin
        holder.stdout.readline()
        with pytest.raises(Busy, match=f"process {holder.pid} "):
            store.create(KEY, {})
        holder.stdin.write(b"\n")
        holder.stdin.close()
    store.create(KEY, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_full_and_read_only_disks(tmp_path: Path) -> None:
    """On a disk that is full or read-only a write fails naming the file, and the old record stays."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        store = FileStore(str(disk))
        record = store.create(KEY, {"a": 1})
        (disk / "filler").write_bytes(b"x" * (64 * 1024 - 4096 * 6))
        with pytest.raises(Unwritable, match="No space left"):
            store.update(KEY, {"a": "x" * 100_000}, record.revision)
        assert store.get(KEY) == record
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(Unwritable, match="Read-only"):
            store.update(KEY, {"a": 2}, record.revision)
        with pytest.raises(Unwritable, match="not writable"):
            store.check_writable()
        assert store.get(KEY) == record
    finally:
        subprocess.run(["umount", disk], check=True)


HOLDER = """
import sys
from datastore.file import FileStore
with FileStore(sys.argv[1]).exclusive():
    print(flush=True)
    input()
"""
WRITER = """
import sys
from datastore.api import Conflict
from datastore.file import FileStore
store = FileStore(sys.argv[1])
for _ in range(50):
    while True:
        record = store.get("/n")
        try:
            store.update("/n", {"n": record.value["n"] + 1}, record.revision)
            break
        except Conflict:
            continue
"""


def test_no_update_is_lost_between_processes(tmp_path: Path) -> None:
    """Eight processes that count together lose nothing, with compare-and-swap alone."""
    store = FileStore(str(tmp_path))
    store.create("/n", {"n": 0})
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(8)]
    assert [writer.wait() for writer in writers] == [0] * 8
    assert store.get("/n").value == {"n": 400}
    assert json.loads(Path(store.path("/n")).read_text())["key"] == "/n"


def test_a_copy_of_a_record_is_named(tmp_path: Path) -> None:
    """A copy under another record's name is never counted as a record, but named."""
    store = FileStore(str(tmp_path))
    store.create("/b/10.0.0.0-26", {})
    copy = tmp_path / "b/10.0.0.0-26-copy.json"
    copy.write_bytes(Path(store.path("/b/10.0.0.0-26")).read_bytes())
    with pytest.raises(Corrupt, match=str(copy)):
        list(store.records("/b/"))
    for key in ("", "/", "a//b", "\\ud800"):
        copy.write_text(f'{{"key":"{key}","value":{{}},"revision":1}}')
        with pytest.raises(Corrupt, match=str(copy)):
            list(store.records("/b/"))


ODD_NAMES = ["copy of x.json", "foo%~bar.json", "%zz.json", "%2e.json", "a%41.json", "x.json~", ".x.json"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_stray_files_are_no_records(tmp_path: Path, name: str) -> None:
    """A file whose name no record can have is left alone and left out."""
    store = FileStore(str(tmp_path))
    store.create("/b/x", {})
    (tmp_path / "b" / name).write_bytes(b"anything")
    assert store.keys("/b/") == ["/b/x"]
    assert [record.key for record in store.records("/b/")] == ["/b/x"]


@pytest.mark.parametrize("thing", ["root", ".lock", ".held"])
def test_something_in_the_way(tmp_path: Path, thing: str) -> None:
    """What is not the directory or file it should be is named, by a look and by a write."""
    root = tmp_path / "ds"
    wrong = root if thing == "root" else root / thing
    if thing != "root":
        root.mkdir()
    if thing == ".lock":
        wrong.mkdir()
    else:
        wrong.write_text("")
    store = FileStore(str(root))
    with pytest.raises(Unwritable, match=str(wrong)):
        store.check_writable()
    with pytest.raises(Unwritable, match=str(wrong)), store.hold("x", 1):
        store.create(KEY, {})


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_write_is_durable_before_it_counts(tmp_path: Path) -> None:
    """A record's bytes are synced before they take the old one's place, and the directory after (power cut)."""
    log = tmp_path / "strace"
    code = "import sys\nfrom datastore.file import FileStore\nFileStore(sys.argv[1]).create('/b/x', {})"
    strace = ["strace", "-o", str(log), "-y", "-e", "trace=fsync,rename"]
    command = [*strace, sys.executable, "-c", code, str(tmp_path / "ds")]
    subprocess.run(command, check=True)
    calls = [line.partition(")")[0] for line in log.read_text().splitlines() if str(tmp_path / "ds") in line]
    at = next(number for number, call in enumerate(calls) if call.startswith("rename"))
    assert "/.write>" in calls[at - 1]
    assert "/b/x.json" in calls[at]
    assert calls[at + 1].endswith("/b>")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_file_systems_without_a_size(tmp_path: Path) -> None:
    """A tmpfs without a limit is fine although it shows no space; /proc, which shows none either, is not."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=0", "tmpfs", tmp_path], check=True)
    try:
        FileStore(str(tmp_path / "ds")).check_writable()
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    with pytest.raises(Unwritable, match="/proc"):
        FileStore("/proc/nowhere").check_writable()


POD: dict[str, object] = {"handle_id": "net.c1", "secondary": {"boot": "b1", "container": "c1", "interface": "eth0"}}
TUNNEL: dict[str, object] = {"handle_id": "vxlan-tunnel-addr-n1", "secondary": {"node": "n1", "boot": "b1"}}
UPGRADED: dict[str, object] = {"handle_id": "net.c2", "secondary": {"boot": "b1", "container": "c2"}}
BOOTLESS: dict[str, object] = {"handle_id": "net.c3", "secondary": {"boot": "", "container": "c3", "interface": "eth0"}}
RESTING: dict[str, object] = {"handle_id": None, "secondary": {}, "releasedAt": "2026-08-01T00:00:00Z"}
BLOCK = keys.block(4, "10.0.0.0/26")
ENDPOINT = keys.workload_endpoint("default", "n1-cni-c1-eth0")


def block(*owners: dict[str, object]) -> dict[str, object]:
    return {"attributes": list(owners)}


@pytest.mark.parametrize(("key", "value", "lasts"), [
    (keys.ippool("p"), {}, True), (keys.ippool("p"), None, True), (keys.ipreservation("r"), {}, True),
    (keys.IPAM_CONFIG, {}, True), (keys.node("n1"), {}, True), (keys.CLUSTER_INFORMATION, {}, True),
    ("/calico/anything/else", {}, True),
    (KEY, {}, False), (KEY, None, False), (keys.host("n1"), {}, False), (ENDPOINT, {}, False), (ENDPOINT, None, False),
    (keys.affinity("n1", 4, "10.0.0.0/26"), {}, False), (keys.affinity("n1", 4, "10.0.0.0/26"), None, False),
    (BLOCK, block(), False), (BLOCK, block(POD, RESTING), False), (BLOCK, block(POD, TUNNEL), True),
    (BLOCK, block(UPGRADED), True), (BLOCK, block(BOOTLESS), True), (BLOCK, {}, True),
    (BLOCK, {"attributes": [7]}, True), (BLOCK, None, True),
])
def test_what_outlives_a_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: dict[str, object] | None, lasts: bool
) -> None:
    """What people configured, and what is no pod's, is synced, file and directory; what pods have is not."""
    FileStore(str(tmp_path)).create(key, block(POD))
    store = FileStore(str(tmp_path), rebuilt=True)
    record = store.get(key)
    synced = record_syncs(monkeypatch)
    if value is None:
        store.delete(key, record.revision)
    else:
        store.update(key, value, record.revision)
    folder = str(Path(store.path(key)).parent)
    files = [] if value is None else [str(tmp_path / ".write")]
    assert synced == ([*files, folder] if lasts else [])


def record_syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that each file and directory will be added to when it is synced."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    return synced


def test_all_of_a_commit_lasts_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is no pod has block and handle synced, given and taken back; and the block is durable before the handle."""
    store = FileStore(str(tmp_path), rebuilt=True)
    store.create(BLOCK, block(POD))
    store.create(KEY, {})
    path, folders = store.path(BLOCK), [str(Path(store.path(key)).parent) for key in (KEY, BLOCK)]
    for owners in ((POD, TUNNEL), (POD,)):
        read = store.get(BLOCK)
        synced = record_syncs(monkeypatch)
        store.commit(Change(KEY, {}, store.get(KEY).revision), Change(BLOCK, block(*owners), read.revision))
        assert path in synced[:4]
        assert synced[4:] == [str(tmp_path / ".write"), folders[0], str(tmp_path / ".write"), folders[1]]
        monkeypatch.undo()
    read = store.get(BLOCK)
    synced = record_syncs(monkeypatch)
    store.commit(Change(KEY, None, store.get(KEY).revision), Change(BLOCK, block(POD, POD), read.revision))
    assert synced == []


def test_every_write_of_another_store_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets nothing right after a reboot, as calicoctl, has all that is written synced."""
    store = FileStore(str(tmp_path))
    store.create(KEY, {})
    synced = record_syncs(monkeypatch)
    store.update(KEY, {}, store.get(KEY).revision)
    assert synced == [str(tmp_path / ".write"), str(Path(store.path(KEY)).parent)]


def test_a_commit_that_needs_a_record_as_it_is(store: Store) -> None:
    """A record that is to be kept is not written, and nothing is once it has changed or gone."""
    kept = store.create("/b/kept", {"n": 1})
    store.commit(Change("/b/kept", None, kept.revision, keep=True), Change("/b/new", {}, None))
    assert store.get("/b/kept") == kept
    now = store.update("/b/kept", {"n": 2}, kept.revision)
    with pytest.raises(Conflict):
        store.commit(Change("/b/kept", None, kept.revision, keep=True), Change("/b/other", {}, None))
    store.delete("/b/kept", now.revision)
    with pytest.raises((Conflict, Missing)):
        store.commit(Change("/b/kept", None, now.revision, keep=True), Change("/b/other", {}, None))
    assert store.keys("/b/") == ["/b/new"]
