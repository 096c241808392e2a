"""From host-local to calico-ipam: every file format, whatever must be left, death at any point, locks, the command."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastore import keys
from datastore.api import Busy, Corrupt
from datastore.file import FileStore
from datastore.hostlocal import LOCK, Folder, configured
from datastore.memory import MemoryStore
from datastore.undo import fail
from ipam.assign import Request, assign
from ipam.cidr import parse_address
from ipam.errors import AddressInUse, BadRequest
from ipam.find import allocations, holder
from ipam.handle import Assigned, Owner
from ipam.pool import seed_default_pools
from ipam.release import release
from ipam.reservation import GATE_MARK
from ipam.upgrade import Job, Summary, gate, upgrade

from .allocator_kit import Died, DyingStore
from .allocator_reader import sound

ROOT = Path(__file__).parents[2]
ENV = {"CALICO_IPV4POOL_CIDR": "10.1.0.0/24", "CALICO_IPV4POOL_BLOCK_SIZE": "29",
       "CALICO_IPV6POOL_CIDR": "fd00:1::/120", "CALICO_IPV6POOL_BLOCK_SIZE": "125"}


def owner(container_id: str, ifname: str) -> Owner:
    """As the command makes it (ipam/__main__.py), but for the rules of names."""
    if not container_id.isalnum():
        raise BadRequest(f"container id {container_id!r} is invalid")
    known = {"network": "net", "container": container_id}
    return Owner(f"net.{container_id}", known | ({"interface": ifname} if ifname else {}))


JOB = Job("n1", "net", owner)


def pooled(store: Any, env: Mapping[str, str] = ENV) -> Any:
    seed_default_pools(store, env, (4, 6))
    return store


def folder_of(tmp_path: Path, files: Mapping[str, str | bytes]) -> Folder:
    path = tmp_path / "networks" / "net"
    path.mkdir(parents=True, exist_ok=True)
    for name, content in {"lock": "", "last_reserved_ip.0": "10.1.0.3", "last_reserved_ip.1": "", **files}.items():
        (path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Folder(str(path), lock_seconds=0.05)


def run(store: Any, folder: Folder, progress: Callable[[int, int], object] = lambda *_: None) -> Summary:
    return upgrade(store, folder, JOB, progress)


def reserved(store: Any) -> list[str]:
    """What is reserved for host-local's containers."""
    records = list(store.records(keys.IPRESERVATIONS))
    assert len(records) <= 1
    assert all(record.key.startswith(keys.ipreservation("host-local-n1-net-")) for record in records)
    return [cidr for record in records for cidr in record.value["spec"]["reservedCIDRs"]]


@pytest.mark.parametrize(("content", "container", "ifname"), [
    ("c1", "c1", None),
    ("c1\n", "c1", None),
    ("c1\r\n", "c1", None),
    ("c1\r\neth0", "c1", "eth0"),
    ("c1\neth0\n", "c1", "eth0"),
    ("c1\r\nnet1\r\n", "c1", "net1"),
    (" c1 \r\n eth0 ", "c1", "eth0"),
])
@pytest.mark.parametrize("name", ["10.1.0.2", "fd00:1::2", "fd00_1__2", "FD00:1:0:0:0:0:0:2"])
def test_every_format(tmp_path: Path, name: str, content: str, container: str, ifname: str | None) -> None:
    """Container and interface are read from all that host-local has ever written, in both families."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, {name: content})
    assert run(store, folder) == Summary(1, ())
    found = holder(store, parse_address(name.replace("_", ":")))
    assert found
    assert found.attribute.handle == f"net.{container}"
    known = {"interface": ifname} if ifname else {}
    assert found.attribute.owner == {"network": "net", "container": container, **known}
    assert not Path(folder.path).exists()
    assert reserved(store) == []


def test_both_addresses_of_a_pod(tmp_path: Path) -> None:
    """A dual-stack pod keeps both, under one handle; the DEL of its interface gives back both, also of old files."""
    store = pooled(MemoryStore())
    folder = folder_of(tmp_path, {"10.1.0.2": "c1\r\neth0", "fd00:1::2": "c1\r\neth0", "10.1.0.3": "c1\r\nnet1",
                                  "10.1.0.9": "old", "fd00:1::9": "old"})
    assert run(store, folder) == Summary(5, ())
    sound(store)
    delete = Owner("net.c1", {"network": "net", "container": "c1", "interface": "eth0"})
    assert sorted(map(str, release(store, delete))) == ["10.1.0.2", "fd00:1::2"]
    delete = Owner("net.old", {"network": "net", "container": "old", "interface": "eth0"})
    assert sorted(map(str, release(store, delete))) == ["10.1.0.9", "fd00:1::9"]
    assert sound(store) == {"10.1.0.3": "c1"}


def test_nothing_in_it(tmp_path: Path) -> None:
    """A folder with hints (in old releases one, without a range) and a lock alone is removed, also without a lock."""
    store = pooled(MemoryStore())
    for name in ("last_reserved_ip.0", "lock"):
        folder = folder_of(tmp_path, {"last_reserved_ip": "10.1.0.3"})
        (Path(folder.path) / name).unlink()
        assert run(store, folder) == Summary(0, ())
        assert not Path(folder.path).exists()


FILES = {f"10.1.0.{n}": f"c{n}\r\neth0" for n in (2, 3, 9)} | {"fd00:1::2": "c2\r\neth0", "fd00:1::9": "c9"}


def link(path: Path) -> None:
    target = path.parent.parent / "secret"
    target.write_text("c1\r\neth0")
    path.symlink_to(target)


def full(path: Path) -> None:
    path.write_bytes(b"c" * 5_000_000)


@pytest.mark.parametrize(("name", "make", "reason"), [
    ("10.1.0.7", Path.touch, "container id '' is invalid"),
    ("10.1.0.7", lambda path: path.write_text("\r\neth0\r\nmore"), "container id"),
    ("10.1.0.7", lambda path: path.write_bytes(bytes(range(256))), "not text"),
    ("10.1.0.7", lambda path: path.write_text("../c1\r\neth0"), "container id '../c1'"),
    ("10.1.0.7", full, "more than 4096 bytes"),
    ("10.1.0.7", link, "not a regular file"),
    ("fd00:1::7", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    ("fd00:1::7", lambda path: path.symlink_to("lock"), "not a regular file"),
    ("10.1.0.7", Path.mkdir, "not a regular file"),
    ("10.1.0.7", os.mkfifo, "not a regular file"),
    ("10.1.0.2 ", Path.touch, "not an address"),
    ("010.1.0.7", Path.touch, "not an address"),
    ("10.1.0.7.swp", Path.touch, "not an address"),
    (".hidden", Path.mkdir, "not an address"),
    ("..%2Fx\n", Path.touch, "not an address"),
    (os.fsdecode(b"\xff\xfe\x01"), Path.touch, "not an address"),
    ("10.2.0.7", lambda path: path.write_text("c1"), "in no pool"),
    ("::ffff:10.1.0.7", lambda path: path.write_text("c1"), "in no pool"),
    ("fd00_1__2", lambda path: path.write_text("c4"), "in use by container c2"),
])
def test_what_is_left(tmp_path: Path, name: str, make: Callable[[Path], object], reason: str) -> None:
    """What cannot be placed is told, once, with what to do, and stays untouched and reserved; the others are placed."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, FILES)
    path = Path(folder.path, name)
    make(path)
    before = path.lstat()
    for placed in (len(FILES), 0):
        summary = run(store, folder)
        assert summary.placed == placed
        assert [item.file for item in summary.left] == [name]
        assert reason in summary.left[0].reason
        assert summary.left[0].action
        assert path.lstat().st_mtime_ns == before.st_mtime_ns
        assert set(os.listdir(folder.path)) == {name, "lock", "last_reserved_ip.0", "last_reserved_ip.1"}
        assert len(reserved(store)) == (0 if "address" in reason else 1)
    assert set(sound(store)) == set(FILES)
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert run(store, folder) == Summary(0, ())
    assert not Path(folder.path).exists()
    assert reserved(store) == []


def test_a_pool_that_may_not_be_used(tmp_path: Path) -> None:
    """Addresses of a disabled pool wait until it is enabled."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, FILES)
    pool = store.get(keys.ippool("default-ipv4-ippool"))
    pool = store.update(pool.key, {**pool.value, "spec": {**pool.value["spec"], "disabled": True}}, pool.revision)
    summary = run(store, folder)
    assert summary.placed == 2
    assert all("disabled" in item.reason for item in summary.left)
    store.update(pool.key, {**pool.value, "spec": {**pool.value["spec"], "disabled": False}}, pool.revision)
    assert run(store, folder) == Summary(3, ())


def test_no_pool_is_made_up(tmp_path: Path) -> None:
    """Without any pool everything stays."""
    store, folder = MemoryStore(), folder_of(tmp_path, FILES)
    assert len(run(store, folder).left) == len(FILES)
    assert store.keys(keys.IPPOOLS) == []


def test_a_damaged_block_keeps_no_other(tmp_path: Path) -> None:
    """Addresses of a block that cannot be read are left, with its name; the others are placed."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, FILES)
    store.create(keys.block(4, "10.1.0.8/29"), {"cidr": "10.1.0.8/29"})
    summary = run(store, folder)
    assert (summary.placed, [item.file for item in summary.left]) == (4, ["10.1.0.9"])
    assert "10.1.0.8-29" in summary.left[0].reason


def test_held_already(tmp_path: Path) -> None:
    """An address its container holds already is done; one that another has is left."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, FILES)
    for line in ("10.1.0.2 c2 eth0", "fd00:1::9 c9 eth7", "10.1.0.3 c3 eth7"):
        text, container, ifname = line.split()
        assign(store, Request("n1", owner(container, ifname), families=(), addresses=(parse_address(text),)))
    summary = run(store, folder)
    assert (summary.placed, [item.file for item in summary.left]) == (4, ["10.1.0.3"])
    assert "container c3 interface eth7" in summary.left[0].reason


def nothing_is_lost(store: Any, folder: Folder) -> None:
    """Each address is held by its container or has its file; none that is not held yet can be given to another."""
    there = set(folder.names()) if Path(folder.path).exists() else set()
    held = {str(parse_address(name)): content.partition("\r")[0] for name, content in FILES.items()}
    for address, container in held.items():
        found = holder(store, parse_address(address))
        assert found or address in there
        assert not found or found.attribute.owner["container"] == container
    if {"10.1.0.2", "10.1.0.9"} <= there and holder(store, parse_address("10.1.0.2")):
        assert {cidr.partition("/")[0] for cidr in reserved(store)} >= there


def test_a_kill_at_every_write(tmp_path: Path) -> None:
    """Wherever a run dies, nothing is lost or held twice, and the next run brings it to its end."""
    for writes in itertools.count():
        store, folder = DyingStore(), folder_of(tmp_path, FILES)
        pooled(store)
        store.writes_left = writes
        died = False
        try:
            run(store, folder)
        except Died:
            died = True
        store.writes_left = -1
        nothing_is_lost(store, folder)
        if not died:
            break
        assert run(store, folder).left == ()
        assert set(sound(store)) == set(FILES)
        assert not Path(folder.path).exists()
        assert reserved(store) == []
    assert writes > 3 * len(FILES)


class DyingFolder(Folder):
    """A folder whose process dies just before its n-th removal."""

    removals_left = -1

    def remove(self, name: str) -> None:
        if self.removals_left == 0:
            raise Died
        self.removals_left -= 1
        super().remove(name)


def test_a_kill_at_every_removal(tmp_path: Path) -> None:
    """So does a run that dies between a record and the removal of its file, or with half of the folder gone."""
    for removals in range(len(FILES) + 3):
        store, folder = pooled(MemoryStore()), DyingFolder(folder_of(tmp_path, FILES).path)
        folder.removals_left = removals
        with pytest.raises(Died):
            run(store, folder)
        nothing_is_lost(store, folder)
        folder.removals_left = -1
        assert run(store, folder).left == ()
        assert set(sound(store)) == set(FILES)
        assert not Path(folder.path).exists()
        assert reserved(store) == []


@pytest.mark.parametrize("where", ["lock", ""])
def test_host_local_holds_its_lock(tmp_path: Path, where: str) -> None:
    """While host-local is at work, the run waits for its lock (in old releases the directory's), and then says so."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, FILES)
    fd = os.open(Path(folder.path, where), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(Busy, match="lock"):
        run(store, folder)
    assert sound(store) == {}
    assert set(folder.names()) == set(FILES)
    os.close(fd)
    assert run(store, folder).placed == len(FILES)


@pytest.mark.parametrize("where", ["lock", ""])
def test_host_local_has_to_wait(tmp_path: Path, where: str) -> None:
    """While the run is at work, host-local of any release cannot have its lock."""
    folder = folder_of(tmp_path, FILES)
    path = Path(folder.path, where)

    def locked(count: int, total: int) -> None:
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
        assert (count <= total) == (total == len(FILES))

    run(pooled(MemoryStore()), folder, locked)


def test_no_pod_is_given_what_is_to_be_placed(tmp_path: Path) -> None:
    """At no time does an ADD on this node get an address that a file of host-local's stands for."""
    store = pooled(MemoryStore(), {**ENV, "CALICO_IPV4POOL_CIDR": "10.1.0.0/29"})
    files = {f"10.1.0.{n}": f"c{n}" for n in (0, 1, 2, 4, 5)} | {"10.1.0.6": ""}
    given: list[Assigned] = []

    def add(count: int, _: int) -> None:
        if count in (1, 4):
            given.extend(assign(store, Request("n1", owner(f"new{count}", "eth0"))))

    assert len(run(store, folder_of(tmp_path, files), add).left) == 1
    assert [str(item.address) for item in given] == ["10.1.0.3", "10.1.0.7"]


def test_the_gate_alone(tmp_path: Path) -> None:
    """Reserving alone moves nothing; a later run does, and takes the reservation back."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, FILES)
    assert gate(store, folder, JOB) == len(FILES)
    assert reserved(store) == ["10.1.0.2/32", "10.1.0.3/32", "10.1.0.9/32", "fd00:1::2/128", "fd00:1::9/128"]
    assert set(folder.names()) == set(FILES)
    assert sound(store) == {}
    assert run(store, folder).left == ()
    assert reserved(store) == []


@pytest.mark.parametrize("jobs", [
    [("n1", "a_b"), ("n1", "a-b"), ("n1", "a.b"), ("n1", "A-b")],
    [("n", "1-x"), ("n-1", "x")],
    [("n" * 253, "x" * 230), ("n" * 253, "x" * 229), ("n" * 253, "y" * 230)],
    [("knöte 1", "net."), ("kn\N{CYRILLIC SMALL LETTER O}te 1", "net.")],
])
def test_each_job_has_a_gate_of_its_own(tmp_path: Path, jobs: list[tuple[str, str]]) -> None:
    """Networks and nodes whose names are alike keep out of each other's reservations, whose names Kubernetes takes."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, FILES)
    for node, network in jobs:
        assert gate(store, folder, Job(node, network, owner)) == len(FILES)
    names = [key.removeprefix(keys.IPRESERVATIONS) for key in store.keys(keys.IPRESERVATIONS)]
    assert len(names) == len(jobs)
    assert all(re.fullmatch("host-local-[a-z0-9-]+-[0-9a-f]{16}", name) and len(name) < 200 for name in names)
    assert upgrade(store, folder, Job(*jobs[0], owner), lambda *_: None).left == ()
    assert len(store.keys(keys.IPRESERVATIONS)) == len(jobs) - 1


def test_no_directory_any_more(tmp_path: Path) -> None:
    """The gate of a directory that somebody has removed by hand goes with the next run, but that of no other one."""
    for again in (run, lambda store, folder: gate(store, folder, JOB)):
        store, folder = pooled(MemoryStore()), folder_of(tmp_path, {"10.1.0.7": ""})
        assert len(run(store, folder).left) == 1
        assert run(store, Folder(str(tmp_path / "elsewhere" / "net"))) == Summary(0, (), gone=True)
        assert reserved(store) == ["10.1.0.7/32"]
        shutil.rmtree(folder.path)
        again(store, folder)
        assert reserved(store) == []
        assert not Path(folder.path).exists()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_no_directory_in_its_place(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Whatever else is there is an error, and opens no gate."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, FILES)
    gate(store, folder, JOB)
    shutil.rmtree(folder.path)
    make(Path(folder.path))
    for again in (run, lambda store, folder: gate(store, folder, JOB)):
        with pytest.raises(OSError, match="directory"):
            again(store, folder)
    assert len(reserved(store)) == len(FILES)


def ask(store: Any, address: str) -> tuple[Assigned, ...]:
    """What an ADD does that asks for an address by name."""
    return assign(store, Request("n2", owner("new", "eth0"), families=(), addresses=(parse_address(address),)))


def test_nobody_gets_one_by_its_name(tmp_path: Path) -> None:
    """An ADD that asks for an address by its name does not get one that host-local still has, on any node."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, {**FILES, "10.1.0.7": ""})
    gate(store, folder, JOB)
    for address in ("10.1.0.2", "fd00:1::9", "10.1.0.7"):
        with pytest.raises(AddressInUse, match=r"still host-local's \(.*host-local-n1-net-.*calico-ipam -upgrade"):
            ask(store, address)
    assert sound(store) == {}
    assert len(run(store, folder).left) == 1
    with pytest.raises(AddressInUse, match="still host-local's"):
        ask(store, "10.1.0.7")
    with pytest.raises(AddressInUse, match="in use by container c2"):
        ask(store, "10.1.0.2")
    assert ask(store, "10.1.0.8")
    Path(folder.path, "10.1.0.7").unlink()
    run(store, folder)
    assert ask(store, "10.1.0.7")


def reserve(store: Any, name: str, cidr: str, annotations: object) -> None:
    store.create(keys.ipreservation(name), {"metadata": {"name": name, "annotations": annotations},
                                            "spec": {"reservedCIDRs": [cidr]}})


def test_reservations_of_the_users(tmp_path: Path) -> None:
    """What the user reserves is given to whoever asks for it by name, whatever the reservation is called."""
    store = pooled(MemoryStore())
    reserve(store, "host-local-mine", "10.1.0.0/28", None)
    reserve(store, "mine", "10.1.0.0/28", {GATE_MARK: "x"})
    reserve(store, "mine-too", "nonsense", None)
    assert ask(store, "10.1.0.7")
    reserve(store, "host-local-x", "nonsense", {GATE_MARK: "x"})
    with pytest.raises(Corrupt, match="host-local-x"):
        ask(store, "10.1.0.8")


@pytest.mark.parametrize("slow", [False, True])
def test_two_runs_at_once(tmp_path: Path, slow: bool) -> None:
    """One that waits until the other has removed the folder, or is about to, finds that nothing is left."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, {})
    with ThreadPoolExecutor() as pool:
        with folder.locked():
            second = pool.submit(run, store, Folder(folder.path))
            time.sleep(0.1)
            folder.remove(LOCK) if slow else folder.remove_all()
            time.sleep(0.1)
        assert second.result(10) == Summary(0, (), gone=not slow)
    assert not Path(folder.path).exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(
    st.from_regex(r"10\.1\.0\.[0-9]{1,3}|fd00:1::[0-9]|[^/\0\ud800-\udfff]{1,20}", fullmatch=True).filter(
        lambda name: name not in (".", "..", "lock")),
    st.binary(max_size=20) | st.sampled_from([b"c1", b"c1\r\neth0", b"c2\n", b""]), max_size=6))
def test_anything(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Whatever is there, each file is placed or left, and the rest is as it should be."""
    store, folder = pooled(MemoryStore()), folder_of(tmp_path, files)
    names = folder.names()
    summary = run(store, folder)
    left = [item.file for item in summary.left]
    assert summary.placed + len(left) == len(names)
    assert left == (folder.names() if Path(folder.path).exists() else [])
    assert len(sound(store)) == summary.placed
    for name in left:
        path = Path(folder.path, name)
        assert path.read_bytes() == files[name]
        path.unlink()


CONFLIST = {"cniVersion": "1.0.0", "name": "net",
            "plugins": [{"type": "ptp", "ipam": {"type": "host-local"}}, {"type": "portmap"}]}


@pytest.mark.parametrize(("file", "content", "expected"), [
    ("10-a.conflist", json.dumps(CONFLIST), True),
    ("10-a.conf", json.dumps({"name": "net", "type": "bridge", "ipam": {"type": "host-local"}}), True),
    ("10-a.json", json.dumps({"name": "net", "type": "bridge", "ipam": {"type": "host-local"}}), True),
    ("10-a.conflist.bak", json.dumps(CONFLIST), False),
    ("10-a.conflist", json.dumps({**CONFLIST, "name": "other"}), False),
    ("10-a.conflist", json.dumps({**CONFLIST, "plugins": [{"ipam": {"type": "calico-ipam"}}]}), False),
    ("10-a.conflist", json.dumps({**CONFLIST, "plugins": ["x", {"ipam": "host-local"}, {"ipam": {}}]}), False),
    ("10-a.conflist", json.dumps({**CONFLIST, "plugins": None}), False),
    ("10-a.conflist", '{"name": "net", ', False),
    ("10-a.conflist", '["net"]', False),
])
def test_whether_host_local_is_still_used(tmp_path: Path, file: str, content: str, expected: bool) -> None:
    """A configuration that a runtime would load, of this network, with host-local in it."""
    assert configured(str(tmp_path / "none"), "net") == ""
    (tmp_path / file).write_text(content)
    assert configured(str(tmp_path), "net") == (str(tmp_path / file) if expected else "")


class Host:
    """What the command finds on a host: host-local's folder, a datastore with pools, a configuration directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = folder_of(root, FILES)
        self.conf_dir = root / "net.d"
        self.conf_dir.mkdir()
        self.store = pooled(FileStore(str(root / "datastore")))

    def command(self, *arguments: str, env: Mapping[str, str] | None = None, stderr: int = subprocess.PIPE,
                timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run it as it is installed: isolated, with the standard library alone. Killed when the time is over."""
        program = f"import sys; sys.path[:0] = {[str(ROOT)]!r}; from ipam.__main__ import main; sys.exit(main())"
        options = ["--network", "net", "--data-dir", str(self.root / "networks"), "--conf-dir", str(self.conf_dir)]
        environment = {"CALICO_DATASTORE_DIR": str(self.root / "datastore"), "NODENAME": "n1", **(env or {})}
        return subprocess.run([sys.executable, "-IS", "-c", program, "-upgrade", *options, *arguments], env=environment,
                              stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=timeout, check=False)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_command(host: Host) -> None:
    """All placed: exit code 0, one line, the attributes of an ADD; again: nothing to do."""
    done = host.command()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (f"network net on node n1: 5 addresses moved from host-local, none left in "
                           f"{host.folder.path}\n")
    found = holder(host.store, parse_address("10.1.0.2"))
    assert found
    assert found.attribute.handle == "net.c2"
    told = dict(found.attribute.owner)
    assert told.pop("timestamp").endswith(" +0000 UTC")
    assert told.pop("boot")
    assert told == {"node": "n1", "network": "net", "container": "c2", "interface": "eth0"}
    assert set(sound(host.store)) == set(FILES)
    again = host.command(env={"KUBERNETES_NODE_NAME": "n2"})
    assert (again.returncode, again.stdout.split(":")[0]) == (0, "network net on node n2")
    assert again.stderr == f"calico-ipam: note: {host.folder.path} does not exist; networks there: none\n"


def test_the_command_leaves_something(host: Host) -> None:
    """Something left: exit code 1, one line each on stderr, and the same in JSON."""
    Path(host.folder.path, "10.1.0.7").touch()
    Path(host.folder.path, "new\nline").touch()
    done = host.command("-o", "json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["placed"] == 5
    assert {key: answer[key] for key in ("network", "node", "directory")} == {
        "network": "net", "node": "n1", "directory": host.folder.path}
    assert [(item["file"], set(item)) for item in answer["left"]] == [
        ("10.1.0.7", {"file", "reason", "action"}), ("new\nline", {"file", "reason", "action"})]
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        f"calico-ipam: left: {host.folder.path}/10.1.0.7: whose it is cannot be told: it says container '', "
        "interface ''; delete the pod that has 10.1.0.7, if any, and this file, then run this again")
    assert "new\\nline" in lines[1]


def test_the_command_without_a_directory(host: Host) -> None:
    """Exit code 0, also when it was asked for: it may be done. But it is told, with the networks that there are."""
    Path(host.folder.path, "10.1.0.7").touch()
    (host.root / "networks" / "podnet").mkdir()
    assert host.command().returncode == 1
    assert len(reserved(host.store)) == 1
    shutil.rmtree(host.folder.path)
    done = host.command("-o", "json")
    assert done.returncode == 0
    assert done.stderr == f"calico-ipam: note: {host.folder.path} does not exist; networks there: podnet\n"
    assert json.loads(done.stdout)["placed"] == 0
    assert reserved(host.store) == []
    Path(host.folder.path).touch()
    done = host.command()
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: Not a directory on {host.folder.path}" in done.stderr


def test_the_command_while_host_local_is_still_used(host: Host) -> None:
    """What a host-local that goes on would give out again is not taken from it, but reserved."""
    (host.conf_dir / "10-net.conflist").write_text(json.dumps(CONFLIST))
    done = host.command()
    assert (done.returncode, done.stdout) == (1, "")
    assert "10-net.conflist still has host-local serve network net, so its 5 addresses were only" in done.stderr
    assert len(reserved(host.store)) == len(FILES)
    assert set(host.folder.names()) == set(FILES)
    (host.conf_dir / "10-net.conflist").unlink()
    assert host.command().returncode == 0


@pytest.mark.parametrize(("arguments", "env", "code", "message"), [
    (["--network", "../x"], {}, 1, "network name '../x' is missing or invalid"),
    (["--network", "none"], {}, 0, "/networks/none does not exist; networks there: net"),
    (["--data-dir", "/nowhere"], {}, 0, "/nowhere/net does not exist; networks there: none"),
    (["--bogus"], {}, 2, "unrecognized arguments"),
    (["-o", "yaml"], {}, 2, "invalid choice"),
    ([], {"CALICO_DATASTORE_DIR": "relative"}, 1, "expected an absolute path"),
    ([], {"DATASTORE_TYPE": "kubernetes"}, 1, "kubernetes"),
    ([], {"CALICO_DATASTORE_DIR": "/dev/null/x"}, 1, "calico-ipam: error: "),
    ([], {"NODENAME": "a/b"}, 1, "node name"),
    (["-h"], {}, 0, ""),
])
def test_the_command_line(host: Host, arguments: list[str], env: dict[str, str], code: int, message: str) -> None:
    """What is wrong is told on stderr, without a traceback, and nothing is moved."""
    done = host.command(*arguments, env=env)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert set(host.folder.names()) == set(FILES)


def many(host: Host) -> set[str]:
    """Add many files; return the names of all there are."""
    for n in range(20, 120):
        Path(host.folder.path, f"10.1.0.{n}").write_text(f"d{n}")
    return set(host.folder.names())


def test_the_way_it_goes(host: Host) -> None:
    """Many files on a terminal show how far it is, on one line."""
    total = len(many(host))
    ours, theirs = os.openpty()
    done = host.command(stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "####################" in shown
    assert shown.endswith(f"100% of {total} files\r\n")


def test_killed_for_real(host: Host) -> None:
    """A command that is killed over and over leaves each address recorded or in its file, and gets to its end."""
    names = many(host)
    for milliseconds in range(60, 360, 30):
        with suppress(subprocess.TimeoutExpired):
            host.command(timeout=milliseconds / 1000)
        there = set(host.folder.names()) if Path(host.folder.path).exists() else set()
        assert there | {str(found.address) for found in allocations(host.store, fail)} == names
    assert host.command().returncode == 0
    assert set(sound(host.store)) == names
    assert reserved(host.store) == []
