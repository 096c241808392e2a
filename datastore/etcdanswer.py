"""What etcd's gateway said: the body of a sound answer, or what an error in it means.

Of an answer only that is looked at which this package reads; whatever else is not as etcd's rpc.proto has it, whoever
answered is no etcd, or a broken one, and the attempt has come to nothing.
"""

from __future__ import annotations

import http.client
import json
from binascii import a2b_base64

from datastore.api import Refused, Unreachable, Unwritable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from datastore.api import Json

# google.golang.org/grpc/codes, by the gateway's number
CANCELED, DEADLINE, NOT_IN_A_STATE, ABORTED, OUT_OF_RANGE, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = (
    1, 4, 9, 10, 11, 13, 14, 16)
PASSING = (CANCELED, DEADLINE, ABORTED, INTERNAL, UNAVAILABLE)
OLD_TOKEN = "revision of auth store is old"  # noqa: S105  # a JWT from before users or roles changed (code 3)
MOST_TOLD = 500  # characters of a server's message
MOST_DIGITS = 19  # of an int64


class Compacted(Exception):
    """The revision asked for has been compacted away. revision: the oldest that is left, 0 where it was not told."""

    def __init__(self, revision: int = 0) -> None:
        super().__init__(f"compacted, the oldest revision is {revision}")
        self.revision = revision


class TooLarge(Unwritable):
    """A transaction has more writes, or more bytes, than the servers take."""


class Failed(Exception):
    """One attempt came to nothing. lasting: nor will the next one at this endpoint; sent: it may have been done."""

    def __init__(self, why: str, sent: bool, lasting: bool = False) -> None:
        super().__init__(why)
        self.sent, self.lasting = sent, lasting


class StaleToken(Refused):
    """A token has run out, or the server that gave it has begun anew, or who may do what has changed since."""


class NoAuthentication(Refused):
    """The cluster asks nobody for a password."""


def understood(endpoint: str, asked: Json, status: int, said: bytes) -> Json:
    """Return the body of an answer to what was asked. Raises Failed, and what an error in it means."""
    try:
        body = json.loads(said)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        if status == 200 and "error" not in body and _is_sound(asked, body):
            return body
        message = body.get("message") or body.get("error")
        if message and (status != 200 or "error" in body):
            raise _meaning(endpoint, asked, body.get("code"), str(message)[:MOST_TOLD])
    raise Failed(f"answered {status} with what is no etcd's JSON: {said[:80]!r}", sent=True)


def _meaning(endpoint: str, asked: Json, code: object, message: str) -> Exception:
    """Return what an error means."""
    if code in PASSING or "too many requests" in message:
        return Failed(message, sent=True)
    if code == UNAUTHENTICATED or OLD_TOKEN in message:
        return StaleToken(f"etcd at {endpoint} refuses a token: {message}")
    if code == NOT_IN_A_STATE and "authentication is not enabled" in message:
        return NoAuthentication(f"etcd at {endpoint} refuses: {message}")
    if code == OUT_OF_RANGE and "compacted" in message and asked.get("revision", "0") != "0":
        return Compacted()
    if "too many operations" in message or "too large" in message or "larger than max" in message:
        return TooLarge(f"etcd at {endpoint}: {message}")
    if "space exceeded" in message:
        return Unwritable(f"etcd at {endpoint} has no room left ({message}); give it more, then `etcdctl alarm disarm`")
    return Refused(f"etcd at {endpoint} refuses: {message}")


def _is_sound(asked: Json, body: Json) -> bool:
    """Tell whether an answer has the shape that its readers take for granted."""
    return (
        has_header(body, "key" in asked or "success" in asked)
        and _is_range(body)
        and _is_transaction(asked, body)
        and isinstance(body.get("errors", []), list)
    )


def has_header(body: Json, is_needed: bool) -> bool:
    """Tell whether the header, where there is one, tells a revision if any."""
    header = body.get("header", None if is_needed else {})
    return isinstance(header, dict) and is_number(header.get("revision", None if is_needed else "0"))


def _is_range(found: object) -> bool:
    """Tell whether something may be the answer for a range, also one of none of whose fields is there."""
    if not isinstance(found, dict):
        return False
    kvs = found.get("kvs", [])
    return (isinstance(kvs, list) and all(map(is_key_value, kvs)) and is_number(found.get("count", "0"))
            and (not found.get("more") or bool(kvs)))


def _is_transaction(asked: Json, body: Json) -> bool:
    """Tell whether there is a response for each operation; a transaction that compares nothing succeeds."""
    responses, succeeded = body.get("responses", []), body.get("succeeded", False)
    if not isinstance(responses, list) or not isinstance(succeeded, bool):
        return False
    if not all(isinstance(item, dict) and _is_range(item.get("response_range", {})) for item in responses):
        return False
    done = "success" if succeeded or not asked.get("compare") else "failure"
    return "success" not in asked or len(responses) == len(asked.get(done, ()))


def is_key_value(item: object) -> bool:
    """Tell whether something is a key-value that can be read, whatever its value holds."""
    return (isinstance(item, dict) and _is_base64(item.get("key")) and _is_base64(item.get("value", ""))
            and is_number(item.get("mod_revision")))


def is_number(value: object) -> bool:
    """Tell whether something is a number that is not negative, as the gateway writes it."""
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS


def _is_base64(value: object) -> bool:
    try:
        return isinstance(value, str) and a2b_base64(value) is not None
    except ValueError:
        return False


def is_lasting(error: Exception) -> bool:
    """Tell whether an error is about certificates, or a name that no host can have: it will be the same next time."""
    import ssl

    passing = (ssl.SSLEOFError, ssl.SSLZeroReturnError, TimeoutError)
    return isinstance(error, ssl.SSLError | UnicodeError | http.client.InvalidURL) and not isinstance(error, passing)


def told(error: Exception) -> str:
    """Return what happened as a phrase."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed the connection"
    if isinstance(error, UnicodeError):
        return "no host can have this name"
    verify = getattr(error, "verify_message", "")
    if verify:
        return f"its certificate is not good: {verify}"
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__


def given_up(failures: Mapping[str, Failed], doubtful: bool) -> Unwritable:
    """Return what to raise after these failures. doubtful: a write may have been made by one that failed."""
    what = "; ".join(f"{endpoint}: {failed}" for endpoint, failed in failures.items())
    if failures and all(failed.lasting for failed in failures.values()):
        return Refused(f"etcd cannot be used as configured: {what}; look at certificates and keys, and at endpoints")
    rest = "; what was being written may have been" if doubtful else ""
    return Unreachable(f"no etcd endpoint answered in time: {what}{rest}; try again when one is back")
