"""Calls to an etcd cluster over its JSON gateway (etcd's api-guide, "grpc gateway"; etcd 3.4 and later).

A call goes to one endpoint after the other until one answers or patience is at its end. Of the gateway's JSON: 64-bit
numbers are strings, false and empty fields are left out, keys and values are in base64.
"""

from __future__ import annotations

import json
import time
import weakref
from contextlib import contextmanager
from threading import Lock

from datastore.api import Refused, Unreachable
from datastore.etcdanswer import (
    Compacted,
    Failed,
    NoAuthentication,
    StaleToken,
    TooLarge,
    given_up,
    is_lasting,
    told,
    understood,
)
from datastore.etcdconnection import ERRORS, Connection
from datastore.etcdstream import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from datastore.api import Json
    from datastore.settings import Etcd

__all__ = ["Answer", "Client", "Compacted", "Patience", "TooLarge"]

CONNECT_SECONDS = 3.0  # for TCP, and again for TLS: with half a second each way that is still enough
ANSWER_SECONDS = 5.0  # then another endpoint is asked: this one may be paused, or have lost the others
LAST_SECONDS = 1.0  # for each further call once patience is at its end
FIRST_SHARE = 2 / 3  # of what is left, for the endpoint that is asked while there are others: it answered last
MOST_OVERSPENT = 10.0  # with so much more than there was nobody is asked any more
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5  # between rounds through the endpoints
MOST_IDLE = 64  # connections kept for each endpoint
SHORTEST = 0.05
AUTHENTICATE = "/v3/auth/authenticate"
NEEDS_LEADER = {"Grpc-Metadata-hasleader": "true"}  # clientv3.WithRequireLeader: a server without one ends a stream


class Patience:
    """How many seconds of waiting for servers that do not answer are left, of all calls that share it.

    others: how many servers are still to be asked after the one that is; something is left for each of them.
    """

    def __init__(self, seconds: float) -> None:
        self.left, self.others = seconds, 0
        self._began: float | None = None  # the attempt that is running

    def among(self, endpoints: list[str]) -> Iterator[str]:
        """Yield the endpoints, with patience for those that come after."""
        for number, endpoint in enumerate(endpoints):
            self.others = len(endpoints) - 1 - number
            yield endpoint

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Take what the body lasts from what is left, if it fails."""
        self._began = time.monotonic()
        try:
            yield
        except Exception:
            self.spend(self._used())
            raise
        finally:
            self._began = None

    def spend(self, seconds: float) -> None:
        """Take something from what is left."""
        self.left -= seconds

    def limit(self, most: float) -> float:
        """Return how long a step may last that should not last longer than `most`, nor its attempt than its share."""
        share = (self.left if self.left > 0 else LAST_SECONDS) * (FIRST_SHARE if self.others else 1)
        return max(SHORTEST, min(most, share - self._used()))

    def require(self) -> None:
        """Raise Unreachable where so much more than there was is spent that it is no use to ask again."""
        if self.left < -MOST_OVERSPENT:
            raise Unreachable("no etcd endpoint answered in time, so often that none is asked any more; try again "
                              "when one is back")

    def _used(self) -> float:
        """Return how long the attempt has lasted that is running."""
        return 0.0 if self._began is None else time.monotonic() - self._began


class Answer:
    """What a server said. doubtful: an earlier attempt of the same call may have been carried out, unheard."""

    def __init__(self, body: Json, doubtful: bool) -> None:
        self.body, self.doubtful = body, doubtful

    @property
    def revision(self) -> int:
        """The cluster's revision when it answered."""
        return int(self.body.get("header", {}).get("revision", 0))


class Client:
    """One etcd cluster, for any number of threads. Connections are kept, and endpoints that answer preferred.

    breaks: how often a connection has broken. As long as that stays the same, the servers are those that there were.
    """

    def __init__(self, settings: Etcd) -> None:
        self._settings = settings
        self._lock = Lock()
        self._idle: dict[str, list[Connection]] = {}
        weakref.finalize(self, _end, self._idle)  # with the last store that had the client; before they are collected
        self._endpoints: list[str] = []
        self._is_outdated = False  # the list of endpoints, perhaps: none of them served
        self._token = ""
        self._context: ssl.SSLContext | None = None
        self._files: object = None  # what the files were that the context is made of
        self.breaks = 0

    def call(self, path: str, body: Json, patience: Patience, again: Json | None = None) -> Answer:
        """Return the answer to a request. Raises Unreachable, Refused, Compacted, TooLarge, Unwritable.

        again: for a write, what to ask in its place after an attempt that failed.
        """
        patience.require()
        asked, doubtful, pause = body, False, FIRST_PAUSE
        failures: dict[str, Failed] = {}
        while True:
            for endpoint in patience.among(self._in_turn(patience)):
                try:
                    with patience.spending():
                        return Answer(self._ask(endpoint, path, asked, patience), doubtful)
                except Failed as failed:
                    failures[endpoint] = failed
                    doubtful |= failed.sent
                    asked = again or asked
                    self._prefer_others(endpoint)
                    if patience.left <= 0:
                        break
            self._look_up_anew(failures)
            if patience.left <= 0 or all(failed.lasting for failed in failures.values()):
                raise given_up(failures, doubtful and again is not None)
            time.sleep(min(pause, max(patience.left, 0)))
            patience.spend(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def stream(self, path: str, body: Json, patience: Patience, silence: float) -> Iterator[Json]:
        """Yield what a server sends to one request until it, or this side, ends it. Raises as `call`.

        silence: how many seconds it may say nothing before an empty object is yielded in its place.
        """
        patience.require()
        failures: dict[str, Failed] = {}
        for endpoint in patience.among(self._in_turn(patience)):
            try:
                with patience.spending():
                    connection = self._begun(endpoint, path, body, patience)
            except Failed as failed:
                failures[endpoint] = failed
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
        self._look_up_anew(failures)
        raise given_up(failures, doubtful=False)

    def close(self) -> None:
        """End the connections that are idle."""
        with self._lock:
            idle = dict(self._idle)
            self._idle.clear()
        _end(idle)

    def _in_turn(self, patience: Patience) -> list[str]:
        """Return the endpoints, the one that answered last first. Raises Unreachable when they cannot be looked up."""
        with self._lock:
            known = list(self._endpoints)
            if known and not self._is_outdated:
                return known
        found = self._looked_up(known, patience)
        with self._lock:
            if self._is_outdated or not self._endpoints:
                self._endpoints, self._is_outdated = found, False
            return list(self._endpoints)

    def _looked_up(self, known: list[str], patience: Patience) -> list[str]:
        """Return the endpoints as DNS or the settings have them; those that are known where DNS does not answer."""
        if not self._settings.discovery_srv:
            return known or list(self._settings.endpoints)
        from datastore.discovery import discover

        try:
            with patience.spending():
                return discover(self._settings.discovery_srv, patience.limit(CONNECT_SECONDS))
        except Unreachable:
            if known:
                return known
            raise

    def _look_up_anew(self, failures: dict[str, Failed]) -> None:
        """Have the endpoints looked up before they are asked again, if all have failed: there may be others by now."""
        with self._lock:
            self._is_outdated |= failures.keys() >= set(self._endpoints)

    def _prefer_others(self, endpoint: str) -> None:
        with self._lock:
            if len(self._endpoints) > 1 and endpoint in self._endpoints:
                self._endpoints.remove(endpoint)
                self._endpoints.append(endpoint)

    def _ask(self, endpoint: str, path: str, asked: Json, patience: Patience) -> Json:
        """Ask one endpoint, with a new token where the old one is not taken any more. Raises Failed, Refused etc."""
        token = self._authenticated(endpoint, patience)
        try:
            return self._exchange(endpoint, path, asked, patience, token)
        except StaleToken:
            with self._lock:
                if self._token == token:
                    self._token = ""
        try:
            return self._exchange(endpoint, path, asked, patience, self._authenticated(endpoint, patience))
        except StaleToken as error:
            raise Refused(f"etcd at {endpoint} takes no token that it gave: {error}") from error

    def _authenticated(self, endpoint: str, patience: Patience) -> str:
        """Return the token that a name and password are worth, empty where none is needed. Raises Failed, Refused."""
        name, password = self._settings.username, self._settings.password
        with self._lock:
            token = self._token
        if not name or token:
            return token
        asked = {"name": name, "password": password}
        try:
            token = self._exchange(endpoint, AUTHENTICATE, asked, patience, "").get("token", "")
        except NoAuthentication:
            return ""
        if not (isinstance(token, str) and token.isascii() and token.isprintable()):
            raise Failed("gave something that is no token", sent=False)
        with self._lock:
            self._token = token
        return token

    def _exchange(self, endpoint: str, path: str, asked: Json, patience: Patience, token: str) -> Json:
        """Send a request and return its answer."""
        connection = self._connected(endpoint, patience)
        connection.within(patience.limit(ANSWER_SECONDS))
        try:
            status, said = connection.ask(path, json.dumps(asked).encode(), _headers(token))
        except ERRORS as error:
            connection.close()
            self._broken(endpoint)
            raise self._failed(error, sent=True) from error
        self._keep(endpoint, connection)
        return understood(endpoint, asked, status, said)

    def _begun(self, endpoint: str, path: str, asked: Json, patience: Patience) -> Connection:
        """Send a request and return its connection, which nothing is read from yet. Raises Failed, Refused."""
        token = self._authenticated(endpoint, patience)
        connection = self._connected(endpoint, patience, new=True)
        connection.within(patience.limit(ANSWER_SECONDS))
        try:
            connection.request("POST", path, json.dumps(asked).encode(), {**_headers(token), **NEEDS_LEADER})
        except ERRORS as error:
            connection.close()
            raise self._failed(error, sent=False) from error
        return connection

    def _connected(self, endpoint: str, patience: Patience, new: bool = False) -> Connection:
        """Return a connection, one that was kept or a new one. Raises Failed, Refused."""
        with self._lock:
            kept = None if new else self._idle.get(endpoint)
            if kept:
                return kept.pop()
        context = self._tls() if endpoint.startswith("https:") else None
        connection = None
        try:
            connection = Connection(endpoint)
            connection.within(patience.limit(CONNECT_SECONDS))
            connection.connect()
            if context:
                connection.within(patience.limit(CONNECT_SECONDS))
                connection.secure(context)
        except ERRORS as error:
            if connection:
                connection.close()
            raise self._failed(error, sent=False) from error
        return connection

    def _failed(self, error: Exception, sent: bool) -> Failed:
        """Return what an error makes of an attempt. Certificates are read anew when it may be about them."""
        lasting = is_lasting(error)
        if lasting:
            with self._lock:
                self._context = None
        return Failed(told(error), sent, lasting)

    def _keep(self, endpoint: str, connection: Connection) -> None:
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
        """Return the context of the certificates as they are now. Raises Refused."""
        from datastore.tls import context_of, files_of

        files = files_of(self._settings)
        with self._lock:
            if self._context is None or self._files != files:
                self._context, self._files = context_of(self._settings), files
            return self._context


def _headers(token: str) -> dict[str, str]:
    return {"Content-Type": "application/json", **({"Authorization": token} if token else {})}


def _end(idle: Mapping[str, list[Connection]]) -> None:
    for connections in idle.values():
        for connection in connections:
            connection.close()
