"""Asking one of several servers: how long, which ones, with what certificate and token, and what is shown of it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dns.message
import dns.resolver
import dns.rrset
import pytest

from datastore.api import Refused, Unreachable
from datastore.etcdclient import Client, Patience
from datastore.etcdconnection import reached
from datastore.frozen import replace
from datastore.settings import BadSettings, Etcd, Settings, from_environment
from tests.etcd import Cluster, serving

from .hostile_kit import BOUND, HEADER, RANGE, STATUS, WATCH, Server, always, answer, client, ended
from .pem_kit import LOOPBACK, SERVER, Authority


@pytest.fixture(name="cluster", scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("etcd")) as found:
        yield found


@pytest.fixture(name="mute")
def _mute() -> Iterator[list[str]]:
    """Endpoints that take connections and say nothing."""
    with ExitStack() as opened:
        listeners = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        yield [f"http://127.0.0.1:{each.getsockname()[1]}" for each in listeners]


def test_the_last_of_several_is_asked(cluster: Cluster, mute: list[str]) -> None:
    """Little patience is shared among all endpoints, so that the one that answers is asked, and first the next time."""
    client = Client(Etcd(endpoints=(*mute, cluster.members[0].url)))
    assert "version" in client.call(STATUS, {}, Patience(6)).body
    patience = Patience(2)
    assert "version" in client.call(STATUS, {}, patience).body
    assert patience.left == 2
    client.close()


def test_nobody_answers(mute: list[str]) -> None:
    """Each endpoint is named, with what it did, once patience is at its end."""
    client, began = Client(Etcd(endpoints=(*mute, "http://127.0.0.1:1"))), time.monotonic()
    with pytest.raises(Unreachable) as caught:
        client.call(STATUS, {}, Patience(1))
    assert time.monotonic() - began < 30  # not for ever: how long exactly is the machine's
    for endpoint in mute:
        assert f"{endpoint}: no answer in time" in str(caught.value)
    assert "http://127.0.0.1:1: Connection refused" in str(caught.value)


def test_tokens_that_are_signed(tmp_path: Path) -> None:
    """A token of JWT is as old as what it was signed for: another user, and a new one is asked for."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    for command in (f"genrsa -out {private} 2048", f"rsa -in {private} -pubout -out {public}"):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, timeout=60)
    signing = f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=10m"
    with serving(tmp_path, extra=("--auth-token", signing)) as cluster:
        cluster.ask("/v3/auth/user/add", {"name": "root", "password": "secret"})
        cluster.ask("/v3/auth/role/add", {"name": "root"})
        cluster.ask("/v3/auth/user/grant", {"user": "root", "role": "root"})
        cluster.ask("/v3/auth/enable", {})
        settings = Etcd(endpoints=cluster.etcd.endpoints, username="root", password="secret")
        lasting, other = Client(settings), Client(settings)
        for name in ("bob", "eve"):
            assert lasting.call(RANGE, {"key": "eA=="}, Patience(5)).revision
            other.call("/v3/auth/user/add", {"name": name, "password": "x"}, Patience(5))
        assert lasting.call(RANGE, {"key": "eA=="}, Patience(5)).revision
        lasting.close()
        other.close()


def test_patience_has_one_deadline_for_an_attempt() -> None:
    patience = Patience(10)
    assert patience.limit(99) == 10
    for _ in patience.among(["a", "b"]):
        with patience.spending():
            time.sleep(0.1)
            assert patience.limit(99) <= 9.9
            assert patience.limit(1) == 1
    assert patience.left == 10  # nothing failed
    with pytest.raises(ValueError, match="x"), patience.spending():
        time.sleep(0.1)
        raise ValueError("x")
    assert patience.left <= 9.9


def test_patience_that_is_overspent_asks_nobody() -> None:
    with Server(always(answer({"header": HEADER}))) as server:
        patience = Patience(1)
        patience.spend(5)
        assert client(server).call(STATUS, {}, patience).revision == 5
        patience.spend(7)
        with pytest.raises(Unreachable, match="none is asked any more"):
            client(server).call(STATUS, {}, patience)
        with pytest.raises(Unreachable, match="none is asked any more"):
            next(client(server).stream(WATCH, {}, patience, 1))
        assert server.requests == 1


@pytest.fixture(name="silent")
def _silent() -> Iterator[Any]:
    """An address that takes no connections, and does not refuse them: its queue is full."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield (socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname())


def test_the_addresses_of_a_name_share_the_time(silent: Any) -> None:
    """Of several that say nothing all end together; one that answers is come to."""
    began = time.monotonic()
    with pytest.raises(OSError, match="timed out"):
        reached([silent] * 4, began + 0.5)
    assert ended(began)
    with Server(always(b"")) as server:
        fine = (*silent[:4], ("127.0.0.1", server.port))
        nowhere, strange = (*silent[:4], ("127.0.0.1", 1)), (99, *silent[1:])
        reached([silent, nowhere, strange, fine], time.monotonic() + 5).close()
    with pytest.raises(ConnectionRefusedError):
        reached([strange, nowhere], time.monotonic() + 5)
    with pytest.raises(TimeoutError):
        reached([silent], time.monotonic() - 1)


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "x." + "b" * 64 + ".y"])
def test_names_that_no_host_can_have(host: str) -> None:
    """They are as wrong the next time: nobody waits for patience to end. Others are asked, of course."""
    patience = Patience(BOUND)
    with pytest.raises(Refused, match=f"http://{host}:2379: no host can have this name; look at .* endpoints"):
        Client(Etcd(endpoints=(f"http://{host}:2379",))).call(STATUS, {}, patience)
    assert patience.left > 0
    with Server(always(answer({"header": HEADER}))) as server:
        both = Client(Etcd(endpoints=(f"http://{host}:2379", server.url)))
        assert both.call(STATUS, {}, Patience(5)).revision == 5


def test_renewed_certificates_are_read(tmp_path: Path) -> None:
    """A client that lives on shows a certificate that was put in place since, and trusts an authority that was."""
    ca, shown, seen = Authority(tmp_path), tmp_path / "shown.pem", []
    server_pair, first, second = ca.issue("server", SERVER, LOOPBACK), ca.issue("first"), ca.issue("second")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_pair.cert, server_pair.key)
    context.load_verify_locations(ca.cert)
    context.verify_mode = ssl.CERT_REQUIRED

    def look(sock: socket.socket, request: bytes) -> bool:
        assert isinstance(sock, ssl.SSLSocket)
        seen.append(dict(pair[0] for pair in sock.getpeercert()["subject"])["commonName"])  # type: ignore[index,misc]
        sock.sendall(answer({"header": HEADER}).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        return True

    def show(name: str, trusted: Path) -> None:
        pair = {"first": first, "second": second}[name]
        shown.write_text(pair.cert.read_text() + pair.key.read_text())
        shutil.copy(trusted, tmp_path / "trusted.pem")

    with Server(look, tls=context) as server:
        asking = client(server, ca_cert_file=str(tmp_path / "trusted.pem"), cert_file=str(shown), key_file=str(shown))
        show("first", Authority(tmp_path, "other").cert)
        with pytest.raises(Refused, match="its certificate is not good"):
            asking.call(STATUS, {}, Patience(5))
        for name in ("first", "second"):
            show(name, ca.cert)
            asking.call(STATUS, {}, Patience(5))
        shown.unlink()
        with pytest.raises(Refused, match="No such file"):
            asking.call(STATUS, {}, Patience(5))
    assert seen == ["first", "second"]


class Names:
    """A DNS server, which dnspython asks alone: where the SRV records of any domain lead, None to say nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.port: int | None = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], self._socket.getsockname()[1]
        monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            said, who = self._socket.recvfrom(4096)
            query = dns.message.from_wire(said)
            reply, name = dns.message.make_response(query), query.question[0].name
            if self.port and not name.to_text().startswith("_etcd-client-ssl."):
                reply.answer.append(dns.rrset.from_text(name, 0, "IN", "SRV", f"0 0 {self.port} localhost."))
            if self.port is not None:
                self._socket.sendto(reply.to_wire(), who)


def test_endpoints_are_looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all have failed, as the records may lead elsewhere by now; where DNS is silent, to those that are known."""
    names = Names(monkeypatch)
    asking = Client(Etcd(discovery_srv="cluster.test"))
    with Server(always(answer({"header": HEADER}), hangs_up=True)) as server:
        names.port = 1
        with pytest.raises(Unreachable, match="http://localhost:1: "):
            asking.call(STATUS, {}, Patience(0.2))
        names.port = server.port
        assert asking.call(STATUS, {}, Patience(5)).revision == 5
    names.port = None
    for _ in range(2):
        with pytest.raises(Unreachable, match=f"http://localhost:{server.port}: "):
            asking.call(STATUS, {}, Patience(0.3))
    with pytest.raises(Unreachable, match="cannot be looked up"):
        Client(Etcd(discovery_srv="cluster.test")).call(STATUS, {}, Patience(0.3))


def test_secrets_are_not_shown() -> None:
    """Neither in what a value looks like, nor in what is said of an endpoint that has a password in it."""
    etcd = Etcd(username="u", password="geheim", key="geheim", cert="CERT")
    for shown in (repr(etcd), repr(Settings(etcd=etcd))):
        assert "geheim" not in shown
        assert "password='...'" in shown
        assert "username='u'" in shown
    assert "password=''" in repr(replace(etcd, password=""))


@pytest.mark.parametrize("url", [
    "https://root:geheim@10.0.0.1:2379", "http://a:1,http://root:geheim@b:1", "http://root:ge,geheim@b:1",
    "root:geheim@b", "http:/root:geheim@b", "http://root:geheim@", "http://x@y:geheim@b:1", "http://b:1/geheim@",
])
def test_passwords_in_endpoints_are_not_shown(url: str) -> None:
    with pytest.raises(BadSettings, match="name and password are settings of their own") as caught:
        from_environment({"ETCD_ENDPOINTS": url})
    assert "geheim" not in str(caught.value)
    with pytest.raises(BadSettings) as caught:
        from_environment({"ETCD_AUTHORITY": url})
    assert "geheim" not in str(caught.value)
