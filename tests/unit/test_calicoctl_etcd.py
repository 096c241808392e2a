"""calicoctl on etcd: every command as on files, splits larger than a transaction, and servers that are gone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from calicoctl.__main__ import main
from calicoctl.config import DEFAULT_FILE
from datastore import keys
from datastore.api import Change, Conflict, Record, Store
from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from ipam.split import MOST_PARTS, split
from tests.etcd import Cluster, free_port, serving

from .calicoctl_etcd_kit import EtcdPlace
from .calicoctl_kit import AnyPlace, Place, pod

MOMENT = re.compile(r"\b\d\d:\d\d:\d\d\b|\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?")
POOL = {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "east"},
        "spec": {"cidr": "10.1.0.0/16"}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server for all tests here; each finds it empty."""
    with serving(tmp_path_factory.mktemp("etcd")) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path, cluster: Cluster) -> EtcdPlace:
    """An empty datastore in etcd."""
    return EtcdPlace(tmp_path, cluster)


def fill(place: AnyPlace) -> None:
    place.pool("default-ipv4-ippool", "10.244.0.0/16")
    place.pool("six", "fd00::/48", blockSize=122)
    place.block("10.244.0.0/26", held={0: pod("web-1", "n1"), 3: pod("web-2", "n2")})
    place.block("10.244.0.64/26", None, [1])
    place.block("fd00::/122", held=[5])
    place.reserve("old", "10.244.1.0/24")


@pytest.mark.parametrize("arguments", [
    ("ipam", "show"), ("ipam", "show", "--show-blocks"), ("ipam", "show", "--show-borrowed"),
    ("ipam", "show", "--show-configuration"), ("ipam", "show", "--ip=10.244.0.3"), ("ipam", "show", "--ip=10.244.9.9"),
    ("ipam", "show", "--map", "--node=n1"), ("ipam", "show", "--html=-", "--node=n1"), ("ipam", "show", "-o", "json"),
    ("ipam", "show", "-o", "yaml"), ("get", "ippools", "-o", "wide"), ("get", "reservation", "old", "-o", "yaml"),
    ("get", "ippool", "-o", "custom-columns=NAME,CIDR"), ("get", "wep", "-A"), ("get", "nodes"),
])
def test_answers_are_the_same_as_on_files(place: EtcdPlace, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "files").mkdir()
    files = Place(tmp_path / "files")
    answers = []
    each: AnyPlace
    for each in (place, files):
        fill(each)
        answers.append([MOMENT.sub("", line) for line in each.ok(*arguments, NO_COLOR="1").splitlines()
                        if "resourceVersion" not in line])
    assert answers[0] == answers[1] != []


def test_an_etcd_with_nothing_in_it(place: EtcdPlace) -> None:
    """No hint: only of a directory it can be seen, without asking, that there is none yet."""
    assert place.answer("ipam", "show") == {"pools": [], "blocksWithoutPool": []}
    assert place.store.keys("/calico/") == []


def test_a_resource_s_life(place: EtcdPlace) -> None:
    file = place.folder / "pool.json"
    file.write_text(json.dumps(POOL))
    assert place.ok("validate", "-f", str(file)) == "Successfully validated 1 'IPPool' resource(s)\n"
    assert place.ok("create", "-f", str(file)) == "Successfully created 1 'IPPool' resource(s)\n"
    assert "already exists: IPPool(east)" in place.fails("create", "-f", str(file))
    place.ok("apply", "-f", str(file))
    seen = place.ok("get", "ippool", "east", "-o", "json")
    assert int(json.loads(seen)["metadata"]["resourceVersion"]) == place.store.get(keys.ippool("east")).revision
    place.ok("patch", "ippool", "east", "-p", '{"spec": {"natOutgoing": true}}')
    place.ok("label", "ippool", "east", "rack=r1")
    file.write_text(seen)
    assert "update conflict: IPPool(east)" in place.fails("replace", "-f", str(file))
    now = place.store.get(keys.ippool("east")).value
    assert (now["metadata"]["labels"], now["spec"]["natOutgoing"]) == ({"rack": "r1"}, True)
    assert place.ok("delete", "ippool", "east") == "Successfully deleted 1 'IPPool' resource(s)\n"
    assert place.store.keys("/calico/") == []


def test_how_addresses_are_given_out(place: EtcdPlace) -> None:
    place.ok("ipam", "configure", "--strictaffinity=true", "--max-blocks-per-host=4")
    assert place.store.get(keys.IPAM_CONFIG).value["strict_affinity"] is True
    assert place.answer("ipam", "show", "--show-configuration")["maxBlocksPerHost"] == 4


def test_check_and_release(place: EtcdPlace) -> None:
    """A report is of one etcd: of the GUID that it was given for it."""
    fill(place)
    report = place.folder / "report.json"
    found = place.run("ipam", "check", "-o", str(report), "--node=n1")
    assert (found.exit_code, found.stderr) == (3, "")
    assert json.loads(report.read_text())["clusterGUID"] == place.store.get(
        keys.CLUSTER_INFORMATION).value["spec"]["clusterGUID"]
    assert "Successfully released IP address 10.244.0.3\n" in place.ok("ipam", "release", "--ip=10.244.0.3")
    assert place.ok("ipam", "release", "--ip=10.244.0.3") == "10.244.0.3 is not assigned\n"
    assert place.run("ipam", "release", f"--from-report={report}").exit_code == 0


def test_names_are_completed(place: EtcdPlace) -> None:
    fill(place)
    env = {"_CALICOCTL_COMPLETE": "bash_complete", "COMP_CWORD": "5",
           "COMP_WORDS": f"calicoctl -c {place.config} get ippools de"}
    assert CliRunner(env=env).invoke(main, [], prog_name="calicoctl").stdout == "plain,default-ipv4-ippool\n"


@pytest.mark.skipif(os.path.exists(DEFAULT_FILE), reason=f"{DEFAULT_FILE} is there and would count")
def test_etcd_by_the_environment(place: EtcdPlace) -> None:
    fill(place)
    for env in ({}, {"DATASTORE_TYPE": "etcdv3"}):
        found = process("get", "ippools", ETCD_ENDPOINTS=",".join(place.cluster.etcd.endpoints), **env)
        assert (found.returncode, found.stderr) == (0, "")
        assert "default-ipv4-ippool" in found.stdout


def process(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "calicoctl", *arguments], env={"PATH": os.environ["PATH"], **env},
                          capture_output=True, text=True, check=False)


def pools(store: Store) -> list[str]:
    return [record.value["spec"]["cidr"] for record in store.records(keys.IPPOOLS)]


def test_a_pool_of_which_the_parts_are_more_than_a_transaction_takes(place: EtcdPlace) -> None:
    """And of which 128 are more than a request may have bytes."""
    place.pool("web", "10.0.0.0/8")
    record = place.store.get(keys.ippool("web"))
    place.store.update(record.key, {**record.value, "metadata": {"name": "web", "annotations": {"a": "x" * 20_000}}},
                       record.revision)
    said = place.ok("ipam", "split", "--name=web", str(MOST_PARTS)).splitlines()
    assert len(said) == MOST_PARTS + 1
    assert said[-1] == "Created split-web-1023 with CIDR 10.255.192.0/18."
    assert sorted(pools(place.store)) == sorted(f"10.{at // 4}.{at % 4 * 64}.0/18" for at in range(MOST_PARTS))


class Killed(Exception):
    """The process ends here."""


class Dying(EtcdStore):
    """A store whose process is killed before one of its transactions, or after it, without knowing."""

    transactions = 0
    hears = True

    def update(self, key: str, value: dict[str, Any], revision: int) -> Record:
        """Write, and live, or not."""
        with self._dying():
            return super().update(key, value, revision)

    def commit(self, *changes: Change) -> None:
        """Write, and live, or not."""
        with self._dying():
            super().commit(*changes)

    def delete(self, key: str, revision: int) -> None:
        """Write, and live, or not."""
        with self._dying():
            super().delete(key, revision)

    @contextmanager
    def _dying(self) -> Iterator[None]:
        if self.transactions == 0 and self.hears:
            raise Killed
        self.transactions -= 1
        yield
        if self.transactions < 0:
            raise Killed


@pytest.mark.parametrize("hears", [True, False])
@pytest.mark.parametrize("transactions", range(6))
def test_a_split_that_was_killed_is_finished_by_another(place: EtcdPlace, transactions: int, hears: bool) -> None:
    """Disabling, four transactions with 128 parts, removal: after each the pools cover the range, and none is cut."""
    place.pool("web", "10.0.0.0/16")
    dying = Dying(Client(place.cluster.etcd), str(place.folder / "ipam.lock"))
    dying.transactions, dying.hears = transactions, hears
    with pytest.raises(Killed):
        split(dying, "web", 128)
    made = [cidr for cidr in pools(place.store) if cidr != "10.0.0.0/16"]
    assert len(made) == 32 * max(0, min(transactions + (not hears) - 1, 4))
    if "10.0.0.0/16" in pools(place.store):
        place.ok("ipam", "split", "--name=web", "128")
    assert len(pools(place.store)) == 128
    assert "10.0.0.0/16" not in pools(place.store)


def test_another_node_s_change_in_between(place: EtcdPlace) -> None:
    """The lock is this node's; the revision tells of others."""
    class Rivalled(EtcdStore):
        def commit(self, *changes: Change) -> None:
            super().commit(*changes)
            record = place.store.get(keys.ippool("web"))
            place.store.update(record.key, {**record.value, "status": {}}, record.revision)

    place.pool("web", "10.0.0.0/16")
    rivalled = Rivalled(Client(place.cluster.etcd), str(place.folder / "ipam.lock"))
    with pytest.raises(Conflict, match="web has changed since it was read"):
        split(rivalled, "web", 2)
    assert place.store.get(keys.ippool("web")).value["status"] == {}


def test_no_server(tmp_path: Path) -> None:
    """Whatever is asked: one line, which names the endpoints, and exit code 1, also for many resources."""
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    config, pools, none = tmp_path / "calicoctl.cfg", tmp_path / "pools.json", tmp_path / "none"
    config.write_text(json.dumps({"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig",
                                  "spec": {"etcdEndpoints": ",".join(urls)}}))
    pools.write_text(json.dumps([{**POOL, "metadata": {"name": f"p{at}"}} for at in range(50)]))
    commands = [("ipam", "show"), ("ipam", "show", "--map"), ("ipam", "check"), ("ipam", "release", "--ip=10.0.0.1"),
                ("ipam", "configure", "--strictaffinity=true"), ("ipam", "split", "--name=p", "2"), ("get", "ippools"),
                ("apply", "-f", str(pools)), ("delete", "ippool", *(f"p{at}" for at in range(50))),
                ("get", "ippool", *(f"p{at}" for at in range(50))), ("patch", "node", "n", "-p", "{}"),
                ("datastore", "migrate", "lock"), ("datastore", "migrate", "export", "-f", str(none))]
    running = [subprocess.Popen([sys.executable, "-m", "calicoctl", "-c", str(config), *command], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    for command, child in zip(commands, running, strict=True):
        stdout, stderr = child.communicate()
        assert (child.returncode, stderr.count("\n")) == (1, 1), (command, stdout, stderr)
        assert stderr.startswith("calicoctl: error: "), command
        assert all(stderr.count(url) == 1 for url in urls), (command, stderr)
        assert "no etcd endpoint answered in time" in stderr, command
    assert not none.exists()


def test_a_password_that_is_wrong(tmp_path: Path) -> None:
    """The server refuses: told at once, and without the password."""
    with serving(tmp_path / "etcd") as cluster:
        for path, body in (("user/add", {"name": "root", "password": "right"}), ("role/add", {"name": "root"}),
                           ("user/grant", {"user": "root", "role": "root"}), ("enable", {})):
            cluster.ask(f"/v3/auth/{path}", body)
        spec = {"etcdEndpoints": cluster.etcd.endpoints[0], "etcdUsername": "root"}
        place = Place(tmp_path)
        for password in ("right", "wrong-one"):
            place.config.write_text(json.dumps({"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig",
                                                "spec": {**spec, "etcdPassword": password}}))
            if password == "right":
                assert place.ok("get", "ippools").startswith("NAME")
            else:
                message = place.fails("get", "ippool", "a", "b", "c")
                assert cluster.etcd.endpoints[0] in message
                assert message.count("refuses") == 1
                assert password not in message
