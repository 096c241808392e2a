"""Name and password at a real etcd, and several endpoints of which not all serve."""

from __future__ import annotations

import json
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datastore import open_store
from datastore.api import Refused, Store, Unreachable
from datastore.frozen import replace
from datastore.settings import ETCD, Etcd, Settings
from tests.etcd import Cluster, free_port, serving

READ_AND_WRITE = 2
USERS = {"root": "root", "calico": "calico", "reader": "reader"}  # each with the role of the same name


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An etcd that asks for passwords: `calico` may do everything below /calico/, `reader` may only read there."""
    with serving(tmp_path_factory.mktemp("auth")) as cluster:
        for name in USERS:
            cluster.ask("/v3/auth/role/add", {"name": name})
            cluster.ask("/v3/auth/user/add", {"name": name, "password": password(name)})
            cluster.ask("/v3/auth/user/grant", {"user": name, "role": name})
        for name, kind in (("calico", READ_AND_WRITE), ("reader", 0)):
            whole: dict[str, Any] = {"key": b64(b"/calico/"), "range_end": b64(b"/calico0"), "permType": kind}
            cluster.ask("/v3/auth/role/grant", {"name": name, "perm": whole})
        cluster.ask("/v3/auth/enable", {})
        yield cluster


def password(name: str) -> str:
    return f'{name}\'s "password" \u00e9'


def b64(text: bytes) -> str:
    return b64encode(text).decode()


def store(cluster: Cluster, folder: Path, name: str, **changes: str) -> Store:
    etcd = replace(cluster.etcd, **{"username": name, "password": password(name) if name else "", **changes})
    return open_store(Settings(kind=ETCD, etcd=etcd, lock_file=str(folder / "ipam.lock")))


def test_name_and_password(guarded: Cluster, tmp_path: Path) -> None:
    """A record is written by one process and read by another; the password may hold anything."""
    store(guarded, tmp_path, "calico").create("/calico/first", {"x": 1})
    store(guarded, tmp_path, "calico").check_writable()
    assert store(guarded, tmp_path, "reader").get("/calico/first").value == {"x": 1}


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("calico", {"password": "wrong"}, "authentication failed, invalid user ID or password"),
    ("stranger", {}, "authentication failed, invalid user ID or password"),
    ("", {}, "user name is empty"),
])
def test_who_is_not_let_in(guarded: Cluster, tmp_path: Path, name: str, changes: dict[str, str], message: str) -> None:
    """What etcd says of it is told, with the endpoint, and without the password."""
    with pytest.raises(Refused, match=f"etcd at {guarded.members[0].url} refuses: .*{message}") as caught:
        store(guarded, tmp_path, name, **changes).get("/calico/first")
    assert "wrong" not in str(caught.value)


def test_no_permission(guarded: Cluster, tmp_path: Path) -> None:
    """Neither where the role ends, nor to write what may only be read."""
    with pytest.raises(Refused, match="refuses: etcdserver: permission denied"):
        store(guarded, tmp_path, "reader").create("/calico/second", {})
    with pytest.raises(Refused, match="refuses: etcdserver: permission denied"):
        store(guarded, tmp_path, "calico").create("/other", {})


def test_a_password_where_none_is_asked_for(tmp_path: Path) -> None:
    """Settings may name a user before authentication is turned on."""
    with serving(tmp_path) as cluster:
        store(cluster, tmp_path, "calico").create("/calico/x", {})


def test_tokens_end_with_the_server(guarded: Cluster, tmp_path: Path) -> None:
    """A store that lives on, as in the agent, is let in again by a server that has begun anew."""
    lasting = store(guarded, tmp_path, "calico")
    record = lasting.create("/calico/lasting", {"x": 1})
    guarded.members[0].stop()
    guarded.members[0].start()
    guarded.wait()
    assert lasting.update(record.key, {"x": 2}, record.revision).value == {"x": 2}


def test_a_new_password(guarded: Cluster, tmp_path: Path) -> None:
    """A token that is in use ends with the password that it was given for; the new password is taken."""
    lasting = store(guarded, tmp_path, "reader")
    lasting.keys("/calico/")
    token = guarded.ask("/v3/auth/authenticate", {"name": "root", "password": password("root")})["token"]
    _changed(guarded, token, "reader", "new")
    with pytest.raises(Refused, match="authentication failed"):
        lasting.keys("/calico/")
    store(guarded, tmp_path, "reader", password="new").keys("/calico/")
    _changed(guarded, token, "reader", password("reader"))


def _changed(cluster: Cluster, token: str, name: str, new: str) -> None:
    request = urllib.request.Request(f"{cluster.members[0].url}/v3/auth/user/changepw",
                                     json.dumps({"name": name, "password": new}).encode(), {"Authorization": token})
    urllib.request.urlopen(request, timeout=5).close()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("three"), 3) as cluster:
        yield cluster


def test_a_dead_server_is_passed_over(three: Cluster, tmp_path: Path) -> None:
    """Whichever it is, with a store that is new and one that has used it."""
    lasting = store(three, tmp_path, "")
    record = lasting.create("/calico/x", {"round": -1})
    for number, member in enumerate(three.members):
        member.kill()
        record = lasting.update(record.key, {"round": number}, record.revision)
        assert store(three, tmp_path, "").get(record.key) == record
        member.start()
        three.wait()


def test_a_server_that_never_was(three: Cluster, tmp_path: Path) -> None:
    """Nobody listens there; the other one serves at once."""
    nobody = f"http://127.0.0.1:{free_port()}"
    etcd = Etcd(endpoints=(nobody, three.members[1].url))
    open_store(Settings(kind=ETCD, etcd=etcd, lock_file=str(tmp_path / "l")), seconds=1).check_writable()


def test_nobody_serves(tmp_path: Path) -> None:
    """The error names every endpoint, and what became of it."""
    urls = tuple(f"http://127.0.0.1:{free_port()}" for _ in range(2))
    alone = open_store(Settings(kind=ETCD, etcd=Etcd(endpoints=urls), lock_file=str(tmp_path / "l")), seconds=0.5)
    with pytest.raises(Unreachable) as caught:
        alone.check_writable()
    assert all(f"{url}: Connection refused" in str(caught.value) for url in urls)
