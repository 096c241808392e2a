"""`calicoctl datastore migrate`: from files to etcd and back with nothing lost, and what stops it."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner

from calicoctl.__main__ import main
from calicoctl.migrate.text import Reading
from calicoctl.migrate.transfer import IMPORTING, import_all
from cni_calico.version import VERSION
from datastore import keys
from datastore.api import Change, NotReady, Record, Store
from datastore.cluster import cluster_of, initialised, require_ready
from datastore.file import FileStore
from datastore.model import Host
from ipam import configuration, host
from ipam.affinity import claim
from ipam.assign import Request, assign
from ipam.cidr import parse_cidr
from ipam.errors import BadRequest
from ipam.handle import Owner
from ipam.release import release
from tests.etcd import Cluster, serving

from .calicoctl_etcd_kit import EtcdPlace
from .calicoctl_kit import AnyPlace, Place
from .test_calicoctl_progress import with_terminal

Json = dict[str, Any]
P = TypeVar("P", bound=AnyPlace)
LARGE = 2**63 + 1  # no double has it
CLUSTER = keys.CLUSTER_INFORMATION


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server for all tests here; each finds it empty."""
    with serving(tmp_path_factory.mktemp("etcd")) as found:
        yield found


@pytest.fixture
def etcd(tmp_path: Path, cluster: Cluster) -> EtcdPlace:
    """An empty datastore in etcd."""
    return EtcdPlace(tmp_path, cluster)


@pytest.fixture
def files(tmp_path: Path) -> Place:
    """A file datastore that has been used for all there is."""
    return used(place(tmp_path, "files"))


@pytest.fixture
def back(tmp_path: Path) -> Place:
    """An empty file datastore."""
    return place(tmp_path, "back")


def place(folder: Path, name: str) -> Place:
    (folder / name).mkdir()
    return Place(folder / name)


def used(place: Place) -> Place:
    """Have real allocations made, and put into the store what records may have that nobody here knows."""
    store = place.store
    initialised(store, VERSION)
    place.pool("default-ipv4-ippool", "10.244.0.0/16", blockSize=29, futureField={"a": [1, None, 1.5, LARGE]})
    place.pool("six", "fd00::/48", blockSize=125)
    place.reserve("old", "10.244.1.0/24")
    configuration.save(store, cooldown_seconds=60)
    owners = [Owner(f"net.{name}", {"pod": name, "node": "node-1", "container": name, "interface": "eth0"})
              for name in ("a", "b", "löng" + "x" * 240, "ключ")]
    for owner in owners:
        assign(store, Request("node-1", owner, families=(4, 6), count=5))
    release(store, owners[1])
    claim(store, "node-2", parse_cidr("10.244.9.0/29"))
    host.save(store, "node-1", Host(boot="0b9f-boot"), host.load(store, "node-1")[1])
    store.create(keys.node("node-1"), {"metadata": {"name": "node-1", "labels": {"": "empty", "é": "\u2028\x00"}}})
    store.create(keys.workload_endpoint("default", "node--1-cni-a-eth0"), {"metadata": {"name": "a"}, "spec": {}})
    store.create("/calico/resources/v3/projectcalico.org/bgppeers/.odd%41 name.json", {"t": True, "one": 1, "f": 1.0})
    store.create("/calico/felix/v2/no-region/host/node-1/status", {"uptime": 1e300, "large": -LARGE})
    [block, *_] = list(store.records(keys.blocks(4)))
    store.update(block.key, {**block.value, "sequenceNumber": LARGE, "unknown": {"deep": [[{}]]}}, block.revision)
    return place


def contents(store: Store) -> dict[str, str]:
    """Return every record as text, which tells 1, 1.0 and true apart, and the order of fields."""
    return {record.key: json.dumps(record.value) for record in store.records("/calico/")}


def locked(place: P) -> P:
    assert place.ok("datastore", "migrate", "lock") == "Datastore locked.\n"
    return place


def export(place: AnyPlace, name: str = "export") -> Path:
    file = place.folder / name
    place.ok("datastore", "migrate", "export", "-f", str(file))
    return file


def bring(place: AnyPlace, file: Path) -> str:
    return place.ok("datastore", "migrate", "import", "-f", str(file))


def test_from_files_to_etcd_and_back(files: Place, etcd: EtcdPlace, back: Place) -> None:
    """All that was there is there, to the bit; exports of the three are equal, too."""
    before = contents(locked(files).store)
    first = export(files)
    assert "The datastore is equal to the export, and locked" in bring(etcd, first)
    assert contents(etcd.store) == before == contents(files.store)
    second = export(etcd)
    bring(back, second)
    assert contents(back.store) == before
    assert first.read_bytes() == second.read_bytes() == export(back).read_bytes()
    for key, wanted in ((keys.HOSTS + "node-1", "0b9f-boot"), (keys.affinities("node-2", 4) + "10.244.9.0-29", "conf"),
                        (keys.HANDLES + "net.a", '/29": 5')):
        assert wanted in before[key]
    assert str(LARGE) in json.dumps(before)


def test_work_goes_on_where_it_was(files: Place, etcd: EtcdPlace) -> None:
    """Closed while it moves; then the new one gives what is free, to the nodes that have the blocks."""
    guid = locked(files).answer("datastore", "migrate", "lock")["clusterGUID"]
    bring(etcd, export(files))
    for store in (files.store, etcd.store):
        with pytest.raises(NotReady):
            require_ready(store)
    assert etcd.answer("datastore", "migrate", "unlock") == {"clusterGUID": guid, "locked": False}
    assert require_ready(etcd.store) == cluster_of(etcd.store)
    with pytest.raises(NotReady):
        require_ready(files.store)
    taken = {address for name in ("a", "ключ") for address in held(etcd.store, name)}
    assert len(taken) == 20
    [new] = assign(etcd.store, Request("node-1", Owner("net.new", {"node": "node-1"})))
    assert str(new.address) not in taken
    assert new.block in [parse_cidr(keys.block_cidr(key)) for key in files.store.keys(keys.affinities("node-1", 4))]
    release(etcd.store, Owner("net.a", {"pod": "a", "container": "a", "interface": "eth0"}))
    assert keys.handle("net.a") not in etcd.store.keys(keys.HANDLES)


def held(store: Store, name: str) -> list[str]:
    """Return the addresses of an owner, from the blocks alone."""
    return [str(parse_cidr(record.value["cidr"]).first + at) for family in (4, 6)
            for record in store.records(keys.blocks(family))
            for at, index in enumerate(record.value["allocations"])
            if index is not None and record.value["attributes"][index]["handle_id"] == f"net.{name}"]


def test_what_commands_answer(files: Place, etcd: EtcdPlace) -> None:
    assert files.answer("datastore", "migrate", "lock")["locked"] is True
    file = files.folder / "out"
    told = files.answer("datastore", "migrate", "export", "-f", str(file))
    assert told["records"] == len(contents(files.store)) == sum(told["counts"].values())
    assert told["counts"] == told["counts"] | {
        "ippools": 2, "ipreservations": 1, "hosts": 1, "ipamconfig": 1, "handles": 3, "others": 1, "nodes": 1}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = etcd.answer("datastore", "migrate", "import", "-f", str(file))
    assert done == {**told, "written": told["records"], "alreadyThere": 0, "removed": 0, "locked": True}
    again = etcd.answer("datastore", "migrate", "import", "-f", str(file))
    assert (again["written"], again["alreadyThere"]) == (0, told["records"])


def test_one_that_is_in_use_again_is_not_locked_by_an_import(files: Place, etcd: EtcdPlace) -> None:
    file = export(locked(files))
    bring(etcd, file)
    for place in (etcd, files):
        place.ok("datastore", "migrate", "unlock")
        assert "is the export's already" in place.fails("datastore", "migrate", "import", "-f", str(file))
        assert require_ready(place.store)


def test_by_stdout_and_stdin(files: Place, etcd: EtcdPlace) -> None:
    """The text is alone on stdout; what is said about it is on stderr."""
    result = locked(files).run("datastore", "migrate", "export")
    assert (result.exit_code, result.stderr.count("\n")) == (0, 1)
    assert result.stderr.startswith("Exported ")
    assert result.stdout_bytes == export(files).read_bytes()
    done = CliRunner().invoke(main, ["-c", str(etcd.config), "datastore", "migrate", "import", "-f", "-"],
                              input=result.stdout_bytes)
    assert done.exit_code == 0, done.output
    assert contents(etcd.store) == contents(files.store)


def test_the_text(back: Place) -> None:
    """As docs/migrate.md has it: a header, a line for each record in the order of keys, a digest of all before it."""
    back.pool("web", "10.0.0.0/24")
    head, *lines, end = [json.loads(line) for line in export(locked(back)).read_text().splitlines()]
    assert head == {"format": "calico-datastore", "version": 1, "clusterGUID": cluster_guid(back.store),
                    "calicoctl": VERSION, "records": 3,
                    "counts": {"clusterinformations": 1, "felixconfigurations": 1, "ippools": 1}}
    assert [line["key"] for line in lines] == back.store.keys("/calico/")
    assert end.keys() == {"records", "sha256"}


def cluster_guid(store: Store) -> str:
    found = cluster_of(store)
    assert found
    return found.guid


def test_an_open_datastore_is_not_exported(files: Place, back: Place, etcd: EtcdPlace) -> None:
    """Nor one that nobody has used, as which a misspelt directory is seen; nothing is made there."""
    for source in (files, etcd):
        assert "calicoctl datastore migrate lock" in source.fails("datastore", "migrate", "export")
    result = back.run("datastore", "migrate", "export")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 2)
    assert "does not exist yet" in result.stderr
    assert not back.directory.exists()


def test_who_waits_at_a_terminal_sees_a_bar(files: Place) -> None:
    file = files.folder / "out"
    stdout, shown = with_terminal("-m", "calicoctl", "-c", str(locked(files).config), "datastore", "migrate", "export",
                                  "-f", str(file))
    assert stdout.startswith("Exported ")
    assert "Checking" in shown
    assert "Exporting" in shown


@pytest.mark.parametrize("kind", ["files", "etcd"])
def test_damaged_records_are_named(kind: str, request: pytest.FixtureRequest, cluster: Cluster) -> None:
    """All of them at once, also one whose key nothing tells any more; and no file is left."""
    source: AnyPlace = request.getfixturevalue(kind)
    locked(source)
    if isinstance(source, EtcdPlace):
        for name in ("one", "two"):
            put(cluster, keys.ippool(name), b"{")
        told = [keys.ippool("one"), keys.ippool("two")]
    else:
        store = source.store
        assert isinstance(store, FileStore)
        damaged = [store.path(key) for key in store.keys(keys.HANDLES) if "x" * 240 in key or key.endswith("net.a")]
        for path in damaged:
            Path(path).write_bytes(b"{")
        told = [keys.handle("net.a"), next(path for path in damaged if "%~" in path)]
    file = source.folder / "out"
    message = source.fails("datastore", "migrate", "export", "-f", str(file))
    assert message.startswith("2 records (")
    assert all(name in message for name in told)
    assert not file.exists()


def put(cluster: Cluster, key: str, value: bytes) -> None:
    cluster.ask("/v3/kv/put", {"key": b64encode(key.encode()).decode(), "value": b64encode(value).decode()})


def test_a_target_as_it_is_when_it_is_new(files: Place, etcd: EtcdPlace) -> None:
    """What a datastore is made with is replaced, and a default pool that the other had not, removed."""
    initialised(etcd.store, "v0")
    etcd.pool("default-ipv4-ippool", "192.168.0.0/16")
    etcd.pool("default-ipv6-ippool", "fd01::/48")
    assert cluster_guid(etcd.store) != cluster_guid(files.store)
    file = export(locked(files))
    assert "1 others were removed." in bring(etcd, file)
    assert contents(etcd.store) == contents(files.store)


@pytest.mark.parametrize("own", ["pool", "block", "handle", "same key"])
def test_a_target_in_use_is_not_touched(files: Place, etcd: EtcdPlace, own: str) -> None:
    initialised(etcd.store, VERSION)
    if own == "pool":
        etcd.pool("mine", "172.16.0.0/16")
    elif own == "block":
        etcd.block("10.244.0.0/26", held=[1])
    elif own == "handle":
        etcd.store.create(keys.handle("net.mine"), {"block": {}})
    else:
        etcd.reserve("old", "10.9.9.9")
    file, before = export(locked(files)), contents(etcd.store)
    message = etcd.fails("datastore", "migrate", "import", "-f", str(file))
    assert "the datastore has 1 record (/calico/" in message
    assert "Nothing was changed" in message
    assert contents(etcd.store) == before
    assert require_ready(etcd.store)


def test_true_is_not_one(back: Place, etcd: EtcdPlace) -> None:
    """A value that Python takes for equal is another one."""
    back.store.create(keys.node("n"), {"a": 1, "b": 2})
    file = export(locked(back))
    for value, is_same in (({"a": True, "b": 2}, False), ({"a": 1.0, "b": 2}, False), ({"b": 2, "a": 1}, True)):
        etcd.cluster.wipe()
        etcd.store.create(keys.node("n"), value)
        assert (etcd.run("datastore", "migrate", "import", "-f", str(file)).exit_code == 0) == is_same


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "empty": lambda lines: [],
    "something else": lambda lines: [b"a: b\n"],
    "no header": lambda lines: lines[1:],
    "another version": lambda lines: [lines[0].replace(b'"version":1', b'"version":2'), *lines[1:]],
    "another format": lambda lines: [lines[0].replace(b"calico-", b"other-"), *lines[1:]],
    "header only": lambda lines: lines[:1],
    "cut in a line": lambda lines: [*lines[:2], lines[2][:20]],
    "cut between lines": lambda lines: lines[:3],
    "no last newline": lambda lines: [*lines[:-1], lines[-1][:-1]],
    "no trailer": lambda lines: lines[:-1],
    "a record less": lambda lines: [lines[0], *lines[2:]],
    "a record twice": lambda lines: [lines[0], lines[1], *lines[1:]],
    "another order": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "another value": lambda lines: [*lines[:2], lines[2].replace(b"1", b"2", 1), *lines[3:]],
    "another GUID": lambda lines: [lines[0].replace(b"GUID\":\"", b"GUID\":\"0"), *lines[1:]],
    "more behind it": lambda lines: [*lines, lines[1]],
    "a key of somebody else": lambda lines: [lines[0], b'{"key":"/other","value":{}}\n', *lines[1:]],
    "a value that is none": lambda lines: [lines[0], b'{"key":"/calico/a","value":[]}\n', *lines[1:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_not_as_it_was_written(files: Place, etcd: EtcdPlace, change: str) -> None:
    file = export(locked(files))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(CHANGES[change](lines)))
    message = etcd.fails("datastore", "migrate", "import", "-f", str(file))
    assert message.startswith(str(file))
    assert contents(etcd.store) == {}


def test_every_cut_is_told(back: Place, etcd: EtcdPlace) -> None:
    """Wherever a file ends before its end."""
    back.pool("web", "10.0.0.0/24")
    file = export(locked(back))
    whole = file.read_bytes()
    for size in random.Random(7).sample(range(len(whole)), 40):
        file.write_bytes(whole[:size])
        etcd.fails("datastore", "migrate", "import", "-f", str(file))
    assert contents(etcd.store) == {}


def test_files_that_are_not_there(files: Place) -> None:
    none = str(files.folder / "none" / "file")
    assert none in files.fails("datastore", "migrate", "import", "-f", none)
    assert none in locked(files).fails("datastore", "migrate", "export", "-f", none)
    assert "-f" in files.misused("datastore", "migrate", "import")


def test_an_export_replaces_a_file_whole_or_not_at_all(files: Place) -> None:
    file = files.folder / "out"
    file.write_text("precious")
    files.fails("datastore", "migrate", "export", "-f", str(file))
    assert file.read_text() == "precious"
    assert list(files.folder.glob("tmp*")) == []


@pytest.mark.parametrize("target", ["etcd", "back"])
def test_an_import_that_was_killed_is_finished_by_another(
    files: Place, target: str, request: pytest.FixtureRequest
) -> None:
    """At moments all over it, by SIGKILL. In between the datastore is closed, cannot be opened, and is not exported."""
    to: AnyPlace = request.getfixturevalue(target)
    for at in range(400):
        files.store.create(keys.handle(f"net.many-{at:03}"), {"block": {"10.244.7.0/29": 1}, "pad": "x" * 20_000})
    file, wanted = export(locked(files)), contents(files.store)
    command, parts = [sys.executable, "-m", "calicoctl", "-c", str(to.config)], 0
    for share in range(7):
        child = subprocess.Popen([*command, "datastore", "migrate", "import", "-f", str(file)],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until, least = time.monotonic() + 20, len(wanted) * share // 7
        while child.poll() is None and len(to.store.keys("/calico/")) <= least and time.monotonic() < until:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        if child.wait() == 0:
            break
        there = contents(to.store)
        if there and there.get(CLUSTER) != wanted[CLUSTER]:
            parts += 1
            assert IMPORTING in there[CLUSTER]
            assert {key: value for key, value in there.items() if key != CLUSTER}.items() <= wanted.items()
            with pytest.raises(NotReady):
                require_ready(to.store)
            for verb in ("unlock", "export"):
                assert "has not come to its end" in to.fails("datastore", "migrate", verb)
    assert parts
    bring(to, file)
    assert contents(to.store) == wanted
    assert to.ok("datastore", "migrate", "unlock") == "Datastore unlocked.\n"


class Killed(Exception):
    """The process ends here."""


class Dying(FileStore):
    """A store whose process is killed after so many records were written."""

    writes = 0

    def create(self, key: str, value: Json) -> Record:
        """Be killed before it, or write."""
        self._write_one()
        return super().create(key, value)

    def update(self, key: str, value: Json, revision: int) -> Record:
        """Be killed before it, or write."""
        self._write_one()
        return super().update(key, value, revision)

    def commit(self, *changes: Change) -> None:
        """Write them one by one, as a commit that is killed does."""
        for change in changes:
            self._write_one()
            super().commit(change)

    def _write_one(self) -> None:
        if not self.writes:
            raise Killed
        self.writes -= 1


@pytest.mark.parametrize("is_new", [True, False])
def test_wherever_an_import_dies(files: Place, tmp_path: Path, is_new: bool) -> None:
    """After each of its writes the datastore is untouched, or closed and not to be opened, until another has finished.

    Into one that is new to the world, and into one that has what it is made with, of which a pool must go.
    """
    file, wanted = export(locked(files)), contents(files.store)
    for writes in range(len(wanted) + (2 if is_new else 3)):
        to = place(tmp_path, f"to-{writes}")
        if not is_new:
            to.store.create(keys.FELIX_CONFIGURATION, {"spec": {}})
            initialised(to.store, "v0")
            to.pool("default-ipv6-ippool", "fd01::/48")
        before, dying = contents(to.store), Dying(str(to.directory))
        dying.writes = writes
        with file.open("rb") as text, suppress(Killed):
            import_all(Reading(text, "f"), dying, lambda items, label, count: items)
            assert dying.writes == 0
        if writes == 0:
            assert contents(to.store) == before
        elif contents(to.store) != wanted:
            assert "has not come to its end" in to.fails("datastore", "migrate", "unlock")
            with pytest.raises(NotReady):
                require_ready(to.store)
        bring(to, file)
        assert contents(to.store) == wanted
    assert writes == len(wanted) + (1 if is_new else 2)


def test_a_part_of_one_export_takes_no_other(files: Place, etcd: EtcdPlace, back: Place) -> None:
    """What an import has left is somebody's: another file's import is refused."""
    file = export(locked(files))
    initialised(back.store, VERSION)
    other = export(locked(back))
    information = json.loads(contents(files.store)[CLUSTER])
    etcd.store.create(CLUSTER, {**information, "metadata": {"annotations": {IMPORTING: "x"}}})
    etcd.store.create(keys.handle("net.a"), json.loads(contents(files.store)[keys.handle("net.a")]))
    assert "record" in etcd.fails("datastore", "migrate", "import", "-f", str(other))
    bring(etcd, file)
    assert contents(etcd.store) == contents(files.store)


def test_somebody_who_writes_meanwhile_is_noticed(files: Place, back: Place) -> None:
    """A program that does not heed the lock: the import does not end well, and the datastore stays closed."""
    class Careless(FileStore):
        def commit(self, *changes: Change) -> None:
            super().commit(*changes)
            if keys.handle("net.careless") not in self.keys(keys.HANDLES):
                self.create(keys.handle("net.careless"), {"block": {}})

    file = export(locked(files))
    with file.open("rb") as text, pytest.raises(BadRequest, match=r"net\.careless.* not as in the export"):
        import_all(Reading(text, "f"), Careless(str(back.directory)), lambda items, label, count: items)
    assert "has not come to its end" in back.fails("datastore", "migrate", "unlock")


def test_a_record_that_etcd_does_not_take(back: Place, etcd: EtcdPlace) -> None:
    """Larger than a request may be: the record is named, and what is there stays closed."""
    back.store.create(keys.node("large"), {"x": "y" * 2_000_000})
    message = etcd.fails("datastore", "migrate", "import", "-f", str(export(locked(back))))
    assert "1 record (/calico/resources/v3/projectcalico.org/nodes/large) could not be written: " in message
    assert "has not come to its end" in etcd.fails("datastore", "migrate", "unlock")


def test_locks_are_taken_and_given_back(etcd: EtcdPlace) -> None:
    """Also of a datastore that nobody has used; twice is no error."""
    for verb, word, state in (("lock", "locked", True), ("lock", "locked", True), ("unlock", "unlocked", False)):
        assert etcd.ok("datastore", "migrate", verb) == f"Datastore {word}.\n"
        assert etcd.answer("datastore", "migrate", verb)["locked"] is state


def cni(command: str, container: str, **datastore: str) -> Json:
    """Run calico-ipam as a runtime does; return its result, or its error."""
    conf = {"cniVersion": "1.0.0", "name": "net", "nodename": "node-1", "log_level": "error",
            "ipam": {"type": "calico-ipam"}, **datastore}
    env = {"PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0",
           "CNI_NETNS": "/none/pod", "CNI_PATH": "/none", "NO_DEFAULT_POOLS": "true"}
    done = subprocess.run([sys.executable, "-m", "ipam"], input=json.dumps(conf), env=env, capture_output=True,
                          text=True, check=False)
    found: Json = json.loads(done.stdout) if done.stdout else {}
    return found


def test_what_pods_notice(tmp_path: Path, etcd: EtcdPlace) -> None:
    """The whole move, with the plugin as a process: verbs wait, then go on in etcd, and no address is given twice."""
    files = place(tmp_path, "files")
    files.pool("web", "10.7.0.0/29", blockSize=29)
    old = {"datastore_type": "file", "datastore_dir": str(files.directory)}
    new = {"datastore_type": "etcdv3", "etcd_endpoints": ",".join(etcd.cluster.etcd.endpoints),
           "ipam_lock_file": str(tmp_path / "run" / "ipam.lock")}
    given = [cni("ADD", f"pod{at}", **old)["ips"][0]["address"] for at in range(3)]
    file = export(locked(files))
    for command, where in (("ADD", old), ("DEL", old), ("ADD", new), ("DEL", new)):
        bring(etcd, file)
        answer = cni(command, "pod1", **where)
        assert (answer["code"], "migrate unlock" in json.dumps(answer)) == (11, True), answer
    assert export(files, "again").read_bytes() == file.read_bytes()
    etcd.ok("datastore", "migrate", "unlock")
    assert cni("ADD", "pod0", **old)["code"] == 11
    more = [cni("ADD", f"pod{at}", **new)["ips"][0]["address"] for at in range(3, 8)]
    assert len({*given, *more}) == 8
    assert "code" in cni("ADD", "pod8", **new)
    assert cni("DEL", "pod1", **new) == {}
    assert cni("ADD", "pod8", **new)["ips"][0]["address"] == given[1]
