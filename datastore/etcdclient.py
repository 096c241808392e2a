"""Calls to an etcd cluster over its JSON gateway (etcd's api-guide, "grpc gateway"; etcd 3.4 and later).

A call goes to one endpoint after the other until one answers or patience is at its end. Of the gateway's JSON: 64-bit
numbers are strings, false and empty fields are left out, keys and values are in base64.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import contextmanager
from threading import Lock
from urllib.parse import urlsplit

from datastore.api import Refused, Unreachable, Unwritable
from datastore.etcdstream import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from datastore.api import Json
    from datastore.settings import Etcd

CONNECT_SECONDS = 3.0  # for TCP, and again for TLS: with half a second each way that is still enough
ANSWER_SECONDS = 5.0  # then another endpoint is asked: this one may be paused, or have lost the others
LAST_SECONDS = 1.0  # for each further call once patience is at its end
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5  # between rounds through the endpoints
MOST_IDLE = 64  # connections kept for each endpoint
SHORTEST = 0.05
# google.golang.org/grpc/codes, by the gateway's number
CANCELED, DEADLINE, NOT_IN_A_STATE, ABORTED, OUT_OF_RANGE, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = (
    1, 4, 9, 10, 11, 13, 14, 16)
PASSING = (CANCELED, DEADLINE, ABORTED, INTERNAL, UNAVAILABLE)
AUTHENTICATE = "/v3/auth/authenticate"
NEEDS_LEADER = {"Grpc-Metadata-hasleader": "true"}  # clientv3.WithRequireLeader: a server without one ends a stream


class Compacted(Exception):
    """The revision asked for has been compacted away. revision: the oldest that is left, 0 where it was not told."""

    def __init__(self, revision: int = 0) -> None:
        super().__init__(f"compacted, the oldest revision is {revision}")
        self.revision = revision


class TooLarge(Unwritable):
    """A transaction has more writes, or more bytes, than the servers take."""


class Patience:
    """How many seconds of waiting for servers that do not answer are left, of all calls that share it.

    others: how many servers are still to be asked after the one that is; something is left for each of them.
    """

    def __init__(self, seconds: float) -> None:
        self.left, self.others = seconds, 0

    def among(self, endpoints: list[str]) -> Iterator[str]:
        """Yield the endpoints, with patience for those that come after."""
        for number, endpoint in enumerate(endpoints):
            self.others = len(endpoints) - 1 - number
            yield endpoint

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Take what the body lasts from what is left, if it fails."""
        began = time.monotonic()
        try:
            yield
        except Exception:
            self.spend(time.monotonic() - began)
            raise

    def spend(self, seconds: float) -> None:
        """Take something from what is left."""
        self.left -= seconds

    def limit(self, most: float) -> float:
        """Return how long something may last that should not last longer than `most`."""
        return max(SHORTEST, min(most, (self.left if self.left > 0 else LAST_SECONDS) / (1 + self.others)))


class Answer:
    """What a server said. doubtful: an earlier attempt of the same call may have been carried out, unheard."""

    def __init__(self, body: Json, doubtful: bool) -> None:
        self.body, self.doubtful = body, doubtful

    @property
    def revision(self) -> int:
        """The cluster's revision when it answered."""
        return int(self.body.get("header", {}).get("revision", 0))


class _Failed(Exception):
    """One attempt came to nothing. lasting: nor will the next one at this endpoint; sent: it may have been done."""

    def __init__(self, why: str, sent: bool, lasting: bool = False) -> None:
        super().__init__(why)
        self.sent, self.lasting = sent, lasting


class Client:
    """One etcd cluster, for any number of threads. Connections are kept, and endpoints that answer preferred.

    breaks: how often a connection has broken. As long as that stays the same, the servers are those that there were.
    """

    def __init__(self, settings: Etcd) -> None:
        self._settings = settings
        self._lock = Lock()
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._endpoints: list[str] = []
        self._token = ""
        self._context: ssl.SSLContext | None = None
        self.breaks = 0

    def call(self, path: str, body: Json, patience: Patience, again: Json | None = None) -> Answer:
        """Return the answer to a request. Raises Unreachable, Refused, Compacted, TooLarge, Unwritable.

        again: for a write, what to ask in its place after an attempt that failed.
        """
        data, doubtful, pause = json.dumps(body).encode(), False, FIRST_PAUSE
        failures: dict[str, _Failed] = {}
        while True:
            for endpoint in patience.among(self._in_turn(patience)):
                try:
                    with patience.spending():
                        return Answer(self._ask(endpoint, path, data, patience), doubtful)
                except _Failed as failed:
                    failures[endpoint] = failed
                    doubtful |= failed.sent
                    data = json.dumps(again).encode() if again else data
                    self._prefer_others(endpoint)
                    if patience.left <= 0:
                        break
            if patience.left <= 0 or all(failed.lasting for failed in failures.values()):
                raise _given_up(failures, doubtful and again is not None)
            time.sleep(min(pause, max(patience.left, 0)))
            patience.spend(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def stream(self, path: str, body: Json, patience: Patience, silence: float) -> Iterator[Json]:
        """Yield what a server sends to one request until it, or this side, ends it. Raises as `call`.

        silence: how many seconds it may say nothing before an empty object is yielded in its place.
        """
        data, failures = json.dumps(body).encode(), {}
        for endpoint in patience.among(self._in_turn(patience)):
            try:
                with patience.spending():
                    token = self._authenticated(endpoint, patience)
                    connection = self._connected(endpoint, patience, new=True)
                    _send(connection, path, data, token, NEEDS_LEADER)
            except (_Failed, OSError, http.client.HTTPException) as error:
                failures[endpoint] = error if isinstance(error, _Failed) else _Failed(_told(error), sent=False)
                self._broken(endpoint)
                self._prefer_others(endpoint)
                continue
            try:
                yield from lines(connection.sock, silence)
            except (OSError, ValueError):
                self._prefer_others(endpoint)
            finally:
                connection.close()
                self._broken(endpoint)
            return
        raise _given_up(failures, doubtful=False)

    def close(self) -> None:
        """End the connections that are idle."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def __del__(self) -> None:
        """End the connections with the last store that had the client."""
        self.close()

    def _in_turn(self, patience: Patience) -> list[str]:
        """Return the endpoints, the one that answered last first."""
        with self._lock:
            if self._endpoints:
                return list(self._endpoints)
        found = list(self._settings.endpoints)
        if self._settings.discovery_srv:
            from datastore.discovery import discover

            found = discover(self._settings.discovery_srv, patience.limit(CONNECT_SECONDS))
        with self._lock:
            self._endpoints = self._endpoints or found
            return list(self._endpoints)

    def _prefer_others(self, endpoint: str) -> None:
        with self._lock:
            if len(self._endpoints) > 1 and endpoint in self._endpoints:
                self._endpoints.remove(endpoint)
                self._endpoints.append(endpoint)

    def _ask(self, endpoint: str, path: str, data: bytes, patience: Patience) -> Json:
        """Ask one endpoint, with a new token where the old one is not taken any more. Raises _Failed, Refused etc."""
        token = self._authenticated(endpoint, patience)
        try:
            return self._exchange(endpoint, path, data, patience, token)
        except _StaleToken:
            with self._lock:
                if self._token == token:
                    self._token = ""
        try:
            return self._exchange(endpoint, path, data, patience, self._authenticated(endpoint, patience))
        except _StaleToken as error:
            raise Refused(f"etcd at {endpoint} takes no token that it gave: {error}") from error

    def _authenticated(self, endpoint: str, patience: Patience) -> str:
        """Return the token that a name and password are worth, empty where none is needed."""
        name, password = self._settings.username, self._settings.password
        with self._lock:
            token = self._token
        if not name or token:
            return token
        body = json.dumps({"name": name, "password": password}).encode()
        try:
            token = str(self._exchange(endpoint, AUTHENTICATE, body, patience, "").get("token", ""))
        except _NoAuthentication:
            return ""
        with self._lock:
            self._token = token
        return token

    def _exchange(self, endpoint: str, path: str, data: bytes, patience: Patience, token: str) -> Json:
        """Send a request and return its answer."""
        connection = self._connected(endpoint, patience)
        try:
            connection.sock.settimeout(patience.limit(ANSWER_SECONDS))
            _send(connection, path, data, token)
            response = connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._broken(endpoint)
            raise _Failed(_told(error), sent=True, lasting=_is_lasting(error)) from error
        self._keep(endpoint, connection)
        return _understood(endpoint, response.status, said)

    def _connected(self, endpoint: str, patience: Patience, new: bool = False) -> http.client.HTTPConnection:
        """Return a connection, one that was kept or a new one. Raises _Failed, Refused."""
        with self._lock:
            kept = None if new else self._idle.get(endpoint)
            if kept:
                return kept.pop()
        url = urlsplit(endpoint)
        limit = patience.limit(CONNECT_SECONDS)
        connection = (
            http.client.HTTPSConnection(url.hostname or "", url.port, timeout=limit, context=self._tls())
            if url.scheme == "https" else http.client.HTTPConnection(url.hostname or "", url.port, timeout=limit)
        )
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise _Failed(_told(error), sent=False, lasting=_is_lasting(error)) from error
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _keep(self, endpoint: str, connection: http.client.HTTPConnection) -> None:
        if connection.sock is None:
            return  # the server ends it
        with self._lock:
            idle = self._idle.setdefault(endpoint, [])
            if len(idle) < MOST_IDLE:
                idle.append(connection)
                return
        connection.close()

    def _broken(self, endpoint: str) -> None:
        """Forget the connections to an endpoint of which one broke: the others will, too."""
        with self._lock:
            self.breaks += 1
            idle = self._idle.pop(endpoint, [])
        for connection in idle:
            connection.close()

    def _tls(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                from datastore.tls import context_of

                self._context = context_of(self._settings)
            return self._context


class _StaleToken(Exception):
    """A token has run out, or the server that gave it has begun anew."""


class _NoAuthentication(Exception):
    """The cluster asks nobody for a password."""


def _send(
    connection: http.client.HTTPConnection, path: str, data: bytes, token: str, more: Mapping[str, str] | None = None
) -> None:
    headers = {"Content-Type": "application/json", **(more or {}), **({"Authorization": token} if token else {})}
    connection.request("POST", path, body=data, headers=headers)


def _understood(endpoint: str, status: int, said: bytes) -> Json:
    """Return the body of an answer. Raises what an error in it means."""
    try:
        body = json.loads(said)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise _Failed(f"answered {status} with what is no etcd's JSON: {said[:80]!r}", sent=True)
    if status == 200 and "error" not in body:
        return body
    code, message = body.get("code"), str(body.get("message") or body.get("error"))
    if code in PASSING or "too many requests" in message:
        raise _Failed(message, sent=True)
    if code == UNAUTHENTICATED:
        raise _StaleToken(message)
    if code == NOT_IN_A_STATE and "authentication is not enabled" in message:
        raise _NoAuthentication
    if code == OUT_OF_RANGE and "compacted" in message:
        raise Compacted
    if "too many operations" in message or "too large" in message or "larger than max" in message:
        raise TooLarge(f"etcd at {endpoint}: {message}")
    if "space exceeded" in message:
        raise Unwritable(f"etcd at {endpoint} has no room left ({message}); give it more, then `etcdctl alarm disarm`")
    raise Refused(f"etcd at {endpoint} refuses: {message}")


def _is_lasting(error: Exception) -> bool:
    """Tell whether an error is about certificates: it will be the same next time."""
    import ssl

    passing = (ssl.SSLEOFError, ssl.SSLZeroReturnError, TimeoutError)
    return isinstance(error, ssl.SSLError) and not isinstance(error, passing)


def _told(error: Exception) -> str:
    """Return what happened as a phrase."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed the connection"
    verify = getattr(error, "verify_message", "")
    if verify:
        return f"its certificate is not good: {verify}"
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__


def _given_up(failures: dict[str, _Failed], doubtful: bool) -> Unwritable:
    what = "; ".join(f"{endpoint}: {failed}" for endpoint, failed in failures.items())
    if failures and all(failed.lasting for failed in failures.values()):
        return Refused(f"etcd cannot be used as configured: {what}; look at certificates and keys")
    rest = "; what was being written may have been" if doubtful else ""
    return Unreachable(f"no etcd endpoint answered in time: {what}{rest}; try again when one is back")
