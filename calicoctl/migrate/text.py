"""The text that a datastore is exported to. Each line is a JSON object in ASCII; the last one tells that it is whole.

    {"format":"calico-datastore","version":1,"clusterGUID":"…","calicoctl":"…","records":2,"counts":{"ippools":1,…}}
    {"key":"/calico/…","value":{…}}                                  one for each record, in the order of the keys
    {"records":2,"sha256":"…"}                                       the digest of all the bytes before this line

Nothing in it depends on when, where or from which kind of datastore it was made: exports of equal datastores are equal.
"""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING

from calicoctl.resources.fields import is_utf8
from datastore import keys
from datastore.frozen import frozen
from datastore.jsontext import dumps, loads
from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO

    from datastore.api import Json, Record

FORMAT, VERSION = "calico-datastore", 1
EVERYTHING = "/calico/"  # the prefix of all keys
SORTS = ((keys.BLOCKS, "blocks"), (keys.HANDLES, "handles"), (keys.IPAM_CONFIG, "ipamconfig"))
Item = tuple[str, "Json"]  # a key and its value


@frozen
class Header:
    """What an export is of. counts: how many records there are of each sort."""

    guid: str
    calicoctl: str
    counts: Mapping[str, int]

    @property
    def records(self) -> int:
        """How many records there are."""
        return sum(self.counts.values())


def counts_of(names: Iterable[str]) -> dict[str, int]:
    """Return how many keys there are of each sort, in the order of the sorts' names."""
    return dict(sorted(Counter(map(_sort, names)).items()))


def _sort(key: str) -> str:
    """Return what kind of record a key is of: a resource's plural, or what address management has."""
    if key.startswith(f"{keys.RESOURCES}/"):
        return key[len(keys.RESOURCES) + 1 :].partition("/")[0]
    if key.startswith(keys.HOSTS):
        return "affinities" if "/block/" in key else "hosts"
    return next((sort for prefix, sort in SORTS if key.startswith(prefix)), "others")


class Writing:
    """An export as it is written. sha256: its digest, once all lines have been taken."""

    sha256 = ""

    def __init__(self, header: Header) -> None:
        self.header = header

    def lines(self, records: Iterable[Record]) -> Iterator[str]:
        """Yield the lines; raises BadRequest when the records are not as many as the header says."""
        digest, count = sha256(), 0
        head = {"format": FORMAT, "version": VERSION, "clusterGUID": self.header.guid,
                "calicoctl": self.header.calicoctl, "records": self.header.records, "counts": self.header.counts}
        line = _line(head)
        digest.update(line)
        yield line.decode()
        for count, record in enumerate(records, 1):  # noqa: B007  # how many there were
            line = _line({"key": record.key, "value": record.value})
            digest.update(line)
            yield line.decode()
        if count != self.header.records:
            raise BadRequest(f"the datastore had {self.header.records} records, and {count} when they were exported: "
                             "something still writes to it; try again")
        self.sha256 = digest.hexdigest()
        yield _line({"records": count, "sha256": self.sha256}).decode()


class Reading:
    """An export in a file that can be read again from its beginning. name: of the file, for messages.

    Raises BadRequest when it is not a whole one, of a closed datastore, in a version that is known here.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self.header = self._header()
        self.information: Json = {}
        self.sha256 = self._check()
        if self.information.get("spec", {}).get("datastoreReady") is not False:
            raise self._wrong(f"does not have {keys.CLUSTER_INFORMATION} of a locked datastore")

    def items(self) -> Iterator[Item]:
        """Yield the key and value of each record, in the order of the keys."""
        self._file.seek(0)
        self._file.readline()
        for line in self._file:
            body = loads(line)
            if "key" not in body:
                return
            yield body["key"], body["value"]

    def _wrong(self, what: str) -> BadRequest:
        return BadRequest(f"{self._name} {what}")

    def _header(self) -> Header:
        self._file.seek(0)
        head = _parsed(self._file.readline())
        if head is None or head.get("format") != FORMAT:
            raise self._wrong("is no export of a datastore (calicoctl datastore migrate export)")
        if head.get("version") != VERSION:
            raise self._wrong(f"is an export of version {head.get('version')!r}; this calicoctl reads {VERSION}")
        try:
            return Header(str(head["clusterGUID"]), str(head["calicoctl"]),
                          {str(sort): int(count) for sort, count in head["counts"].items()})
        except (KeyError, AttributeError, TypeError, ValueError):
            raise self._wrong("has a damaged first line") from None

    def _check(self) -> str:
        """Return the digest, if the file is whole, as it was written, and its keys are in order; keep what it is of."""
        self._file.seek(0)
        digest, last = sha256(self._file.readline()), b""
        for number, line in enumerate(self._file, 2):
            body = _parsed(line)
            if body is None or not line.endswith(b"\n"):
                raise self._wrong(f"is cut off, or was changed, in line {number}")
            if "key" not in body:
                self._check_end(body, number - 2, digest.hexdigest())
                return digest.hexdigest()
            last = self._check_record(body, number, last)
            digest.update(line)
        raise self._wrong("is cut off: it has no last line with a digest")

    def _check_record(self, body: Json, number: int, last: bytes) -> bytes:
        """Return the place of a record's key in the order, which must be behind the last one's."""
        key, value = body["key"], body.get("value")
        if not (isinstance(key, str) and key.startswith(EVERYTHING) and all(key[1:].split("/")) and is_utf8(key)
                and isinstance(value, dict)):
            raise self._wrong(f"does not have a record in line {number}")
        if order(key) <= last:
            raise self._wrong(f"is not in the order of its keys in line {number}")
        if key == keys.CLUSTER_INFORMATION:
            self.information = value
        return order(key)

    def _check_end(self, end: Json, count: int, digest: str) -> None:
        if end.get("sha256") != digest or end.get("records") != count or count != self.header.records:
            raise self._wrong("was changed since it was written: its last line has another digest, or another count")
        if self._file.read(1):
            raise self._wrong("goes on behind its last line")


def order(key: str) -> bytes:
    """Return what keys are put in order by: the bytes that etcd has for them."""
    return key.encode("utf-8", "surrogateescape")


def _line(value: Json) -> bytes:
    return dumps(value) + b"\n"


def _parsed(line: bytes) -> Json | None:
    """Return the object in a line, None if there is none."""
    try:
        value = loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
