"""TLS to real etcd servers that want certificates of their clients, with real PEM files (tests/unit/pem_kit.py)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datastore import open_store
from datastore.api import Refused, Store, Unreachable
from datastore.frozen import replace
from datastore.settings import ETCD, Etcd, Settings
from tests.etcd import Member
from tests.netns.machine import eventually

from .pem_kit import LOOPBACK, SERVER, Authority, Pair, openssl, running


class World:
    """One authority, a client's certificate, and a server that is up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority(folder)
        self.client = self.ca.issue("client")
        server = self.ca.issue("server", SERVER, f"{LOOPBACK},DNS:localhost")
        self.member = self.ca.member("m0", folder, server)
        self.etcd = self.ca.etcd(self.member, shows=self.client)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    found = World(tmp_path_factory.mktemp("tls"))
    with running(found.member, etcd=found.etcd):
        yield found


def store(etcd: Etcd, folder: Path, seconds: float = 20.0) -> Store:
    return open_store(Settings(kind=ETCD, etcd=etcd, lock_file=str(folder / "ipam.lock")), seconds=seconds)


def refusal(etcd: Etcd, folder: Path) -> str:
    """Return what is said of settings that will not do; it is said at once, not when patience is at its end."""
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        store(etcd, folder, seconds=60).check_writable()
    assert time.monotonic() - began < 30
    return str(caught.value)


def texts(etcd: Etcd) -> dict[str, str]:
    """Return the same PEM as texts instead of files."""
    return {name: Path(getattr(etcd, f"{name}_file")).read_text() for name in ("ca_cert", "cert", "key")}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_files(world: World, host: str, tmp_path: Path) -> None:
    """A record is written and read; the certificate is for an address and a name."""
    etcd = replace(world.etcd, endpoints=(f"https://{host}:{world.member.ports[0]}",))
    store(etcd, tmp_path).create(f"/calico/{host}", {"x": 1})
    assert store(etcd, tmp_path).get(f"/calico/{host}").value == {"x": 1}


def test_texts(world: World, tmp_path: Path) -> None:
    """PEM in the settings themselves does as well, and is written to no disk."""
    before = sorted(tmp_path.iterdir())
    store(Etcd(endpoints=world.etcd.endpoints, **texts(world.etcd)), tmp_path).check_writable()
    mixed = replace(world.etcd, key_file="", key=world.client.key.read_text())
    store(mixed, tmp_path).check_writable()
    assert sorted(tmp_path.iterdir()) == before
    assert not [fd for fd in os.listdir("/proc/self/fd") if "memfd:etcd" in _target(fd)]


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_wrong_authority(world: World, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    for etcd in (replace(world.etcd, ca_cert_file=str(other.cert)), replace(world.etcd, ca_cert_file="")):
        message = refusal(etcd, tmp_path)
        assert f"{world.member.url}: its certificate is not good: unable to get local issuer certificate" in message
        assert "look at certificates and keys" in message


def test_certificates_that_the_server_does_not_take(world: World, tmp_path: Path) -> None:
    """An expired one, one of another authority, and none at all."""
    strangers = Authority(tmp_path, "other").issue("stranger")
    for shown in (world.ca.issue("expired", days=-1), strangers, None):
        message = refusal(world.ca.etcd(world.member, shows=shown), tmp_path)
        assert f"etcd cannot be used as configured: {world.member.url}: " in message
        assert "certificate" in message


@pytest.mark.parametrize(("change", "message"), [
    ({"ca_cert_file": "/nonexistent/ca"}, "CA certificate /nonexistent/ca cannot be used: No such file or directory"),
    ({"ca_cert_file": "/proc/version"}, "CA certificate /proc/version cannot be used: "),
    ({"ca_cert_file": "", "ca_cert": "\u00e9"}, "CA certificate in the settings cannot be used: "),
    ({"ca_cert_file": "", "ca_cert": "no PEM"}, "CA certificate in the settings cannot be used: "),
    ({"key_file": "/nonexistent/key"}, "with key /nonexistent/key cannot be used: No such file or directory"),
    ({"cert_file": "/nonexistent/cert"}, "client certificate /nonexistent/cert with key "),
    ({"key_file": "", "key": "no PEM"}, "with key in the settings cannot be used: "),
    ({"cert_file": "", "cert": "\ud800"}, "client certificate in the settings with key "),
])
def test_what_is_no_certificate(world: World, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """The file is named, and why it will not do."""
    assert message in refusal(replace(world.etcd, **change), tmp_path)


def test_key_of_another_certificate(world: World, tmp_path: Path) -> None:
    other = world.ca.issue("other")
    message = refusal(replace(world.etcd, key_file=str(other.key)), tmp_path)
    assert f"client certificate {world.client.cert} with key {other.key} cannot be used: " in message


def test_key_with_a_passphrase(world: World, tmp_path: Path) -> None:
    """Nobody is there to type it."""
    locked = tmp_path / "locked.key"
    openssl("pkcs8", "-topk8", "-in", world.client.key, "-out", locked, "-passout", "pass:x")
    assert f"with key {locked} cannot be used: " in refusal(replace(world.etcd, key_file=str(locked)), tmp_path)


def started(member: Member) -> Member:
    """Start a server that nobody could ask whether it serves, and wait for its port."""
    member.cluster = f"{member.name}={member.peer}"
    member.start()
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((member.host, member.ports[0])).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.02)
        else:
            return member


@pytest.mark.parametrize(("names", "days", "message"), [
    (LOOPBACK, -1, "its certificate is not good: certificate has expired"),
    ("DNS:elsewhere", 2, "its certificate is not good: IP address mismatch, certificate is not valid for '127.0.0.1'"),
])
def test_server_that_is_not_trusted(world: World, tmp_path: Path, names: str, days: int, message: str) -> None:
    member = started(world.ca.member("m", tmp_path, world.ca.issue(f"server{days}", SERVER, names, days)))
    try:
        assert message in refusal(world.ca.etcd(member, shows=world.client), tmp_path)
    finally:
        member.stop()


def test_server_whose_gateway_may_not_ask_itself(world: World, tmp_path: Path) -> None:
    """With serverAuth alone in its certificate, etcd's gateway has no way to etcd: docs/install-cni.md says so."""
    member = started(world.ca.member("m", tmp_path, world.ca.issue("gateway", "serverAuth", LOOPBACK)))

    def silence() -> str:
        with pytest.raises(Unreachable) as caught:
            store(world.ca.etcd(member, shows=world.client), tmp_path, seconds=1).check_writable()
        return str(caught.value)

    try:
        assert eventually(lambda: f"{member.url}: connection closed" in silence(), seconds=30)
    finally:
        member.stop()


def test_one_of_several_servers_is_trusted(world: World, tmp_path: Path) -> None:
    """What is wrong with one server does not keep the others from serving, in whatever order."""
    bad = started(world.ca.member("m", tmp_path, world.ca.issue("bad", SERVER, LOOPBACK, -1)))
    try:
        for urls in ((bad.url, world.member.url), (world.member.url, bad.url)):
            store(replace(world.etcd, endpoints=urls), tmp_path).check_writable()
    finally:
        bad.stop()


def test_new_certificates_at_the_same_place(world: World, tmp_path: Path) -> None:
    """A process that starts after a renewal shows the new one."""
    shown = Pair(tmp_path / "cert", tmp_path / "key")
    for old, new in ((world.ca.issue("old", days=-1), False), (world.ca.issue("new"), True)):
        shown.cert.write_bytes(old.cert.read_bytes())
        shown.key.write_bytes(old.key.read_bytes())
        etcd = world.ca.etcd(world.member, shows=shown)
        if new:
            store(etcd, tmp_path).check_writable()
        else:
            refusal(etcd, tmp_path)
