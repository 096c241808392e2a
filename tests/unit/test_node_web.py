"""The agent over HTTP: real sockets, well-behaved and other clients."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from calico_node.web import MOST_CONNECTIONS, NotLoopback, Web


class State:
    """What the agent says of itself."""

    def __init__(self) -> None:
        self.alive = True
        self.reasons: Sequence[str] = ()
        self.registry = CollectorRegistry()
        self.gauge = Gauge("answer", "What it is.", registry=self.registry)
        self.gauge.set(42)


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def web(state: State) -> Iterator[Web]:
    """A server on a free port."""
    served = Web("127.0.0.1", 0, state.registry, lambda: state.alive, lambda: state.reasons)
    served.start()
    yield served
    served.stop()


def ask(web: Web, path: str, method: str = "GET", **headers: str) -> tuple[int, str, http.client.HTTPMessage]:
    with closing(http.client.HTTPConnection(*web.address, timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers


def raw(web: Web, data: bytes) -> socket.socket:
    connection = socket.create_connection(web.address, timeout=10)
    connection.sendall(data)
    return connection


def eventually(true: Callable[[], bool]) -> None:
    while not true():  # the test's own timeout ends it
        time.sleep(0.01)


def threads() -> int:
    return len([thread for thread in threading.enumerate() if "process_request_thread" in thread.name])


def test_metrics_as_text(web: Web) -> None:
    status, text, headers = ask(web, "/metrics")
    assert (status, headers.get_content_type()) == (200, "text/plain")
    assert [family.name for family in text_string_to_metric_families(text)] == ["answer"]
    assert headers["Content-Length"] == str(len(text))


def test_metrics_as_openmetrics(web: Web) -> None:
    status, text, headers = ask(web, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert (status, headers.get_content_type()) == (200, "application/openmetrics-text")
    families = open_families(text)  # type: ignore[no-untyped-call]
    assert [family.name for family in families] == ["answer"]


def test_a_query_is_passed_over(web: Web) -> None:
    assert ask(web, "/healthz?verbose=1")[:2] == (200, "ok\n")


def test_health(web: Web, state: State) -> None:
    assert ask(web, "/healthz")[:2] == (200, "ok\n")
    state.alive = False
    assert ask(web, "/healthz")[:2] == (503, "not alive\n")


def test_readiness_says_why_not_a_line_each(web: Web, state: State) -> None:
    assert ask(web, "/readyz")[:2] == (200, "ready\n")
    state.reasons = ["what was queued is being done", "the datastore\ncannot be read"]
    assert ask(web, "/readyz")[:2] == (503, "what was queued is being done\nthe datastore cannot be read\n")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing"])
def test_head_is_get_without_a_body(web: Web, path: str) -> None:
    got, text, headers = ask(web, path)
    status, nothing, head = ask(web, path, "HEAD")
    assert (status, nothing, head["Content-Length"]) == (got, "", headers["Content-Length"])
    assert len(text) == int(headers["Content-Length"])


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metric", "/%6detrics"])
def test_what_is_not_there(web: Web, path: str) -> None:
    assert ask(web, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_what_may_not_be_done(web: Web, method: str) -> None:
    status, _, headers = ask(web, "/metrics", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert ask(web, "/nothing", method)[0] == 404


def test_a_page_that_cannot_be_made(web: Web, state: State) -> None:
    def bug() -> float:
        raise RuntimeError("it is broken")

    state.gauge.set_function(bug)
    assert ask(web, "/metrics")[:2] == (500, "unexpected RuntimeError: it is broken\n")
    assert ask(web, "/healthz")[0] == 200


@pytest.mark.parametrize("garbage", [
    b"\n", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    b"\x00" * 1000 + b"\n",
    b"GET " + b"/" * 70000 + b" HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    b"GET / HTTP/1.0\r\na: " + b"b" * 70000 + b"\r\n\r\n", b"BREW /metrics HTTP/1.0\r\n\r\n",
])
def test_garbage(web: Web, garbage: bytes) -> None:
    """It is refused or the connection ends, and the next one is served."""
    with raw(web, garbage) as connection:
        connection.shutdown(socket.SHUT_WR)
        try:
            said = connection.recv(1 << 16)
        except ConnectionResetError:
            said = b""
        assert b" 200 " not in said.partition(b"\n")[0]
    assert ask(web, "/healthz")[0] == 200
    eventually(lambda: threads() == 0)


def test_clients_that_go_away(web: Web) -> None:
    for _ in range(50):
        raw(web, b"GET /metrics HTTP/1.0\r\n\r\n").close()
    eventually(lambda: threads() == 0)
    assert ask(web, "/healthz")[0] == 200


@pytest.fixture
def impatient(state: State) -> Iterator[Web]:
    """A server that waits half a second for its clients."""
    served = Web("127.0.0.1", 0, state.registry, lambda: True, list, patience=0.5)
    served.start()
    yield served
    served.stop()


def test_a_client_that_drips_is_ended(impatient: Web) -> None:
    """However often it says something: the whole connection has so much time and no more."""
    begun = time.monotonic()
    with raw(impatient, b"GET /metrics HTTP/1.0\r\n") as connection, pytest.raises(OSError):
        while time.monotonic() < begun + 30:
            connection.sendall(b"a")
            time.sleep(0.05)
    eventually(lambda: threads() == 0)
    assert ask(impatient, "/healthz")[0] == 200


def test_clients_that_say_nothing_take_no_more_than_their_share(impatient: Web) -> None:
    idle = [raw(impatient, b"") for _ in range(MOST_CONNECTIONS)]
    eventually(lambda: threads() == MOST_CONNECTIONS)
    with raw(impatient, b"") as one_more:
        assert one_more.recv(1) == b""
    eventually(lambda: threads() == 0)
    assert ask(impatient, "/healthz")[0] == 200
    for connection in idle:
        connection.close()


def test_a_client_that_does_not_read(impatient: Web, state: State) -> None:
    Gauge("wide", "x" * 20_000_000, registry=state.registry)
    with raw(impatient, b"GET /metrics HTTP/1.0\r\n\r\n"):
        eventually(lambda: threads() == 1)
        eventually(lambda: threads() == 0)


def test_stopping_ends_connections_and_frees_the_port(state: State) -> None:
    web = Web("127.0.0.1", 0, state.registry, lambda: True, list)
    web.start()
    with raw(web, b"") as idle:
        eventually(lambda: threads() == 1)
        web.stop()
        assert idle.recv(1) == b""
    assert threads() == 0
    again = Web(*web.address, state.registry, lambda: True, list)
    again.stop()  # one that was never started, too
    with pytest.raises(OSError):
        socket.create_connection(web.address, timeout=1)


def test_a_port_that_is_taken(web: Web, state: State) -> None:
    with pytest.raises(OSError):
        Web(*web.address, state.registry, lambda: True, list)


def test_others_may_ask_only_where_that_is_said(state: State) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(NotLoopback, match=host):
            Web(host, 0, state.registry, lambda: True, list)
    web = Web("0.0.0.0", 0, state.registry, lambda: True, list, others_allowed=True)
    web.start()
    assert ask(web, "/healthz")[0] == 200
    web.stop()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_ways_to_say_loopback(state: State, host: str) -> None:
    try:
        web = Web(host, 0, state.registry, lambda: True, list)
    except OSError:
        pytest.skip(f"there is no {host} here")
    web.start()
    assert ask(web, "/healthz")[0] == 200
    web.stop()
