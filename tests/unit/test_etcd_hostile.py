"""Servers that are no etcd, broken ones, slow ones: whatever comes, a call ends, and as a StoreError."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import Any

import pytest

from datastore.api import Refused, StoreError, Unreachable, Unwritable
from datastore.etcdanswer import Failed, understood
from datastore.etcdclient import Compacted, Patience
from datastore.etcdconnection import MOST_BYTES, Connection
from datastore.etcdstream import lines

from .hostile_kit import (
    BOUND,
    CHUNKED,
    HEADER,
    OK_HEAD,
    RANGE,
    STATUS,
    WATCH,
    Server,
    always,
    answer,
    client,
    ended,
    error,
)

TXN = "/v3/kv/txn"
ASKED: dict[str, dict[str, Any]] = {
    RANGE: {"key": "eA=="},
    TXN: {"compare": [{"key": "eA=="}], "success": [{"request_put": {"key": "eA=="}}],
          "failure": [{"request_range": {"key": "eA=="}}]},
    STATUS: {},
}
KV = {"key": "eA==", "value": "e30=", "mod_revision": "5"}
UNSOUND: dict[str, object] = {
    "html": b"<html>", "list": [], "null": None, "deep": b"[" * 200_000, "digits": b"9" * 5000,
    "no-utf": b'{"\xff": 1}',
    "no-header": {}, "header-list": {"header": []}, "header-null": {"header": None}, "header-empty": {"header": {}},
    "revision-text": {"header": {"revision": "x"}}, "revision-long": {"header": {"revision": "9" * 5000}},
    "revision-negative": {"header": {"revision": "-1"}}, "revision-list": {"header": {"revision": []}},
    "kvs-text": {"header": HEADER, "kvs": "abc"}, "kvs-object": {"header": HEADER, "kvs": {"a": 1}},
    "kvs-null": {"header": HEADER, "kvs": [None]}, "kvs-empty": {"header": HEADER, "kvs": [{}]},
    "count": {"header": HEADER, "count": []}, "more": {"header": HEADER, "more": True},
    "key-number": {"header": HEADER, "kvs": [{**KV, "key": 5}]},
    "key-base64": {"header": HEADER, "kvs": [{**KV, "key": "eA="}]},
    "value-number": {"header": HEADER, "kvs": [{**KV, "value": 7}]},
    "value-unicode": {"header": HEADER, "kvs": [{**KV, "value": "\u00e9"}]},
    "mod-revision": {"header": HEADER, "kvs": [{**KV, "mod_revision": "x"}]},
    "responses-text": {"header": HEADER, "responses": "x"}, "responses-null": {"header": HEADER, "responses": [None]},
    "response-list": {"header": HEADER, "responses": [{"response_range": []}]},
    "response-kvs": {"header": HEADER, "responses": [{"response_range": {"kvs": 1}}]},
    "errors": {"header": HEADER, "errors": 5},
}


@pytest.mark.parametrize("path", [RANGE, TXN])
@pytest.mark.parametrize("name", UNSOUND)
def test_answers_that_are_none(name: str, path: str) -> None:
    """Not one of them reaches a caller, who would stumble over it."""
    assert_unsound(path, UNSOUND[name])


def assert_unsound(path: str, body: object, **changes: object) -> None:
    said = answer(body).partition(b"\r\n\r\n")[2]
    with pytest.raises(Failed, match="answered 200 with what is no etcd's JSON") as caught:
        understood("http://a:1", {**ASKED[path], **changes}, 200, said)
    assert caught.value.sent
    assert not caught.value.lasting


def test_who_answers_so_is_unreachable() -> None:
    """Again and again, until patience is at its end."""
    with Server(always(answer(UNSOUND["header-list"]))) as server, pytest.raises(Unreachable, match=server.url):
        client(server).call(RANGE, ASKED[RANGE], Patience(0.3))


@pytest.mark.parametrize("body", [
    {"header": HEADER}, {"header": HEADER, "succeeded": True}, {"header": HEADER, "succeeded": True, "responses": []},
    {"header": HEADER, "responses": [{}, {}]}, {"header": HEADER, "succeeded": "yes", "responses": [{}]},
])
def test_as_many_responses_as_operations(body: object) -> None:
    assert_unsound(TXN, body)


def test_a_transaction_that_compares_nothing_succeeds() -> None:
    assert_unsound(TXN, {"header": HEADER, "responses": [{"response_range": {}}]}, compare=[], success=[{}, {}])


@pytest.mark.parametrize(("path", "body"), [
    (RANGE, {"header": HEADER}), (RANGE, {"header": HEADER, "kvs": [KV], "more": True, "count": "7"}),
    (TXN, {"header": HEADER, "succeeded": True, "responses": [{"response_put": {"header": HEADER}}]}),
    (TXN, {"header": HEADER, "responses": [{"response_range": {"header": HEADER, "kvs": [KV], "count": "1"}}]}),
])
def test_answers_of_etcd(path: str, body: object) -> None:
    """They are given as they are, with their revision."""
    with Server(always(answer(body))) as server:
        found = client(server).call(path, ASKED[path], Patience(5))
        assert (found.body, found.revision) == (body, 5)


BAD_HTTP = [
    b"", b"garbage\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"HTTP/1.1 2x0 OK\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\n{}",
    OK_HEAD + b"a: b\r\n" * 200 + b"\r\n", OK_HEAD + b"a: " + b"b" * 70_000 + b"\r\n\r\n",
    OK_HEAD + b"Content-Length: 99999999999999\r\n\r\n{", OK_HEAD + b"Content-Length: " + b"9" * 4000 + b"\r\n\r\n{",
    OK_HEAD + b"Content-Length: -5\r\n\r\n{", OK_HEAD + b"Content-Length: 30\r\n\r\n{}",
    CHUNKED + b"fffffffffff0\r\n{", CHUNKED + b"f" * 20 + b"\r\n{", CHUNKED + b"f" * 60_000 + b"\r\n{",
    CHUNKED + b"zz\r\n{", CHUNKED + b"-1\r\n{", CHUNKED + b"-5\r\n{", CHUNKED + b"2\r\n{}", CHUNKED + b"\xff\r\n",
]


@pytest.mark.parametrize("said", BAD_HTTP, ids=map(str, range(len(BAD_HTTP))))
def test_http_that_is_none(said: bytes) -> None:
    """Sizes that are announced are not believed, and what does not come whole is not used."""
    with Server(always(said, hangs_up=True)) as server, pytest.raises(Unreachable, match=server.url):
        client(server).call(STATUS, {}, Patience(0.1))


@pytest.mark.parametrize("head", [
    OK_HEAD + b"Content-Length: 999999999\r\n\r\n", CHUNKED + b"fffffff0\r\n", CHUNKED + b"-1\r\n"])
def test_more_than_fits(head: bytes) -> None:
    """What goes on and on is read up to a limit, however fast it comes."""
    def flood(sock: socket.socket, request: bytes) -> bool:
        sock.sendall(head)
        for _ in range((MOST_BYTES >> 20) + 8):
            sock.sendall(b" " * (1 << 20))
        return True

    with Server(flood) as server, contextlib.closing(Connection(server.url)) as connection:
        connection.within(BOUND)
        connection.connect()
        with pytest.raises(OSError, match=f"more than {MOST_BYTES} bytes"):
            connection.ask(STATUS, b"{}", {})


@pytest.mark.parametrize("head", [
    b"", OK_HEAD, OK_HEAD + b"Content-Length: 1000\r\n\r\n", CHUNKED + b"fff\r\n", CHUNKED])
def test_a_byte_at_a_time(head: bytes) -> None:
    """An answer has one deadline, not one for each piece of it: neither for its head nor for its body."""
    def drip(sock: socket.socket, request: bytes) -> None:
        sock.sendall(head)
        for _ in range(1000):
            time.sleep(0.1)
            sock.sendall(b"1")

    with Server(drip) as server:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="no answer in time"):
            client(server).call(STATUS, {}, Patience(0.5))
        assert ended(began)


def test_login_and_silence_share_the_time() -> None:
    """Whoever lets us in late has less time left for the answer; the deadline is the attempt's, not each step's."""
    def late(sock: socket.socket, request: bytes) -> None:
        time.sleep(0.5 if b"/auth/" in request else BOUND)
        sock.sendall(answer({"token": "t"}))

    with Server(late) as server:
        patience = Patience(1)
        with pytest.raises(Unreachable, match="no answer in time"):
            client(server, username="u", password="p").call(STATUS, {}, patience)
        assert -BOUND < patience.left <= 0.1


class Guard:
    """Gives tokens t1, t2 … and takes those alone that are not `spent`; others are refused in so many words."""

    def __init__(self, refusal: bytes, *spent: str) -> None:
        self._refusal, self._spent, self.given = refusal, spent, 0

    def __call__(self, sock: socket.socket, request: bytes) -> None:
        if b"/auth/" in request:
            self.given += 1
            sock.sendall(answer({"header": {}, "token": f"t{self.given}"}))
            return
        token = request.split(b"Authorization: ")[1].split(b"\r\n")[0].decode()
        sock.sendall(self._refusal if token in self._spent else answer({"header": HEADER}))


STALE = [error(16, "etcdserver: invalid auth token"), error(3, "etcdserver: revision of auth store is old")]


@pytest.mark.parametrize("refusal", STALE, ids=["invalid", "old"])
def test_stale_tokens(refusal: bytes) -> None:
    """Once there is a new one asked for; if that will not do either, that is what is said."""
    guard = Guard(refusal, "t1")
    with Server(guard) as server:
        assert client(server, username="u", password="p").call(RANGE, ASKED[RANGE], Patience(5)).revision == 5
    assert guard.given == 2
    with Server(Guard(refusal, "t1", "t2")) as server, pytest.raises(Refused, match="takes no token that it gave"):
        client(server, username="u", password="p").call(RANGE, ASKED[RANGE], Patience(5))


@pytest.mark.parametrize("token", [5, ["t"], "a\r\nb: c", "\u00e9"])
def test_what_is_no_token(token: object) -> None:
    """It is neither sent nor kept."""
    heard = []

    def give(sock: socket.socket, request: bytes) -> None:
        heard.append(b"Authorization" in request)
        sock.sendall(answer({"token": token}))

    with Server(give) as server, pytest.raises(Unreachable, match=server.url):
        client(server, username="u", password="p").call(STATUS, {}, Patience(0.2))
    assert heard
    assert not any(heard)


COMPACTED = error(11, "etcdserver: mvcc: required revision has been compacted")


@pytest.mark.parametrize("said", [
    *STALE, COMPACTED, error(9, "etcdserver: authentication is not enabled"),
    error(5, "x" * 5000), answer({"code": [], "message": {}}, "500 No"), answer({"error": None}), answer({"error": {}}),
])
def test_errors_out_of_place(said: bytes) -> None:
    """An error that nothing was done for is one all the same, with or without a name and password."""
    for more in ({}, {"username": "u", "password": "p"}):
        with Server(always(said)) as server, pytest.raises(Unwritable) as caught:
            client(server, **more).call(RANGE, ASKED[RANGE], Patience(0.2))
        assert isinstance(caught.value, StoreError)
        assert len(str(caught.value)) < 1000


def test_compacted() -> None:
    """It is said of a revision that was asked for, and only then."""
    with Server(always(COMPACTED)) as server, pytest.raises(Compacted):
        client(server).call(RANGE, {**ASKED[RANGE], "revision": "3"}, Patience(5))


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


RESULTS: list[bytes] = [
    b"[1]", b"5", b"x", b"[" * 200_000, b"9" * 5000, b'{"result": null}', b'{"result": []}',
    b'{"result": {"events": {}}}',
    b'{"result": {"events": [{}]}}', b'{"result": {"events": [{"kv": {}}]}}', b'{"result": {"events": [null]}}',
    b'{"result": {"events": [{"kv": {"key": 5, "mod_revision": "5"}}]}}', b'{"result": {"header": []}}',
    b'{"result": {"header": {"revision": "x"}}}', b'{"result": {"compact_revision": "x"}}',
]


BAD_STREAMS = [
    *(CHUNKED + chunk(line + b"\n") for line in RESULTS), b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b"garbage\r\n\r\n",
    answer({}), CHUNKED + b"zz\r\n", CHUNKED + b"-5\r\nabc\r\n", CHUNKED + b"fffffffff\r\n", CHUNKED + b"1" * 5000,
]


@pytest.mark.parametrize("said", BAD_STREAMS, ids=map(str, range(len(BAD_STREAMS))))
def test_streams_that_are_none(said: bytes) -> None:
    """Whoever reads gets a ValueError, and who follows a stream sees it end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sending = threading.Thread(target=theirs.sendall, args=(said,))
        sending.start()
        with pytest.raises(ValueError, match=r"."):
            list(lines(ours, BOUND))
        sending.join()
    with Server(always(said)) as server:  # and says nothing more
        assert list(client(server).stream(WATCH, {}, Patience(5), BOUND)) == []


def test_a_stream_of_etcd() -> None:
    """Objects in any pieces, those of errors and changes; the end is the end."""
    objects: list[dict[str, Any]] = [
        {"result": {"header": HEADER, "created": True}}, {"result": {"header": HEADER, "events": [{"kv": KV}]}},
        {"result": {"canceled": True, "compact_revision": "7"}}, {"error": {"grpc_code": 14}}]
    said = b"".join(json.dumps(item).encode() + b"\n" for item in objects)
    whole = CHUNKED + chunk(said[:50]) + chunk(said[50:]) + b"0\r\n\r\n"

    def say(sock: socket.socket, request: bytes) -> None:
        for at in range(0, len(whole), 7):
            sock.sendall(whole[at : at + 7])

    with Server(say) as server:
        assert list(client(server).stream(WATCH, {}, Patience(5), BOUND)) == objects


def test_a_stream_that_drips_is_silent() -> None:
    """Bytes that make no object do not pass for a word."""
    def drip(sock: socket.socket, request: bytes) -> None:
        sock.sendall(CHUNKED + b"ffff\r\n")
        for _ in range(1000):
            time.sleep(0.02)
            sock.sendall(b" ")

    with Server(drip) as server:
        stream = client(server).stream(WATCH, {}, Patience(5), 0.2)
        assert [next(stream), next(stream)] == [{}, {}]
        stream.close()  # type: ignore[attr-defined]  # it is a generator
