"""Out of one datastore and into another: what is asked of them, in which order it is written, and that nothing is lost.

While records are being written into a datastore, its ClusterInformation is that of the export, closed and with a mark.
The last write takes the mark away. So one that has a part of the records only is never opened, and says what it is.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from calicoctl.migrate.text import EVERYTHING, Header, Reading, counts_of, order
from calicoctl.table import printable
from cni_calico.version import VERSION
from datastore import keys
from datastore.api import Change, Corrupt, Missing, Unwritable
from datastore.cluster import cluster_of, set_ready
from datastore.frozen import frozen
from datastore.jsontext import dumps
from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from calicoctl.migrate.text import Item
    from datastore.api import Json, Record, Store, Torn
    from datastore.cluster import Cluster

    Shown = Callable[[Iterable[Any], str, int], Iterable[Any]]  # items, with a bar that has a label, and their count

MADE_BY_ITSELF = (keys.CLUSTER_INFORMATION, keys.FELIX_CONFIGURATION,
                  keys.ippool("default-ipv4-ippool"), keys.ippool("default-ipv6-ippool"))
IMPORTING = "calicoctl.projectcalico.org/importing"  # the mark: an annotation, whose value is the export's digest
BATCH_CHANGES, BATCH_BYTES = 64, 512 * 1024  # of one commit; etcd takes 128 changes, and 1.5 MB with its base64
NAMED = 5  # records that a message names


@frozen
class Pair:
    """What an export and a datastore have at a key: a value and a record, or None where there is nothing."""

    key: str
    wanted: Json | None
    found: Record | None

    @property
    def is_same(self) -> bool:
        """Whether both have it, with equal values; 1, 1.0 and true are not equal."""
        return self.wanted is not None and self.found is not None and _text(self.wanted) == _text(self.found.value)


@frozen
class Imported:
    """How many records were written, were there already, and were removed as the export does not have them."""

    written: int
    present: int
    removed: int


def lock(store: Store) -> Cluster:
    """Close a datastore for changes; return what it is. Raises StoreError."""
    set_ready(store, False, VERSION)
    return _known(store)


def unlock(store: Store) -> Cluster:
    """Open a datastore for changes; return what it is. Raises BadRequest when it has a part of an import only."""
    _require_no_part(store)
    set_ready(store, True, VERSION)
    return _known(store)


@contextmanager
def closed(store: Store) -> Iterator[Cluster]:
    """Hold off this node's writers of a datastore, which must be locked. Raises BadRequest, StoreError."""
    _require_no_part(store)
    cluster = cluster_of(store)
    if cluster is None or not cluster.locked:
        raise BadRequest("the datastore is open for changes, of which an export would have some and not others; "
                         "first: calicoctl datastore migrate lock")
    with store.exclusive():
        yield cluster


def survey(store: Store, guid: str, shown: Shown) -> Header:
    """Return what an export of this datastore begins with, once all its records have been found to be readable.

    Raises Corrupt, which names the records that are damaged.
    """
    torn: list[Torn] = []
    found = shown(store.scan(EVERYTHING, torn.append), "Checking", len(store.keys(EVERYTHING)))
    counts = counts_of(record.key for record in found)
    if torn:
        raise Corrupt(f"{_some([item.key or item.file for item in torn])} of the datastore cannot be read; "
                      "mend them (`calicoctl ipam check --repair`, or from a copy), or remove them")
    return Header(guid, VERSION, counts)


def records(store: Store, header: Header, shown: Shown) -> Iterable[Record]:
    """Return all records in the order of their keys."""
    return shown(store.records(EVERYTHING), "Exporting", header.records)


def import_all(export: Reading, store: Store, shown: Shown) -> Imported:
    """Make a datastore equal to an export, and leave it locked. Whoever is killed in between is finished by another.

    Raises BadRequest when the datastore has records of its own, before anything is changed, or is not equal in the end;
    StoreError.
    """
    with store.exclusive():
        plan = _plan(export, store, shown)
        if plan.written or plan.removed:
            _put(store, keys.CLUSTER_INFORMATION, _marked(export))
            for batch in _batches(_changes(export, store, shown)):
                _commit(store, batch)
            _require_equal(export, store, shown)
            _put(store, keys.CLUSTER_INFORMATION, export.information)
    return plan


def _plan(export: Reading, store: Store, shown: Shown) -> Imported:
    """Return what there is to do; raises BadRequest when what is there is neither the export's nor made by itself."""
    cluster = cluster_of(store)
    if cluster and cluster.guid == export.header.guid and not cluster.locked:
        raise BadRequest(f"the datastore is the export's already, cluster {printable(cluster.guid)}, and open for "
                         "changes. Nothing was changed")
    written = present = removed = 0
    own: list[str] = []
    for pair in _pairs(export, store, shown, "Comparing"):
        if pair.is_same:
            present += 1
            continue
        if pair.found and pair.key not in MADE_BY_ITSELF:
            own.append(pair.key)
        written += pair.wanted is not None
        removed += pair.wanted is None
    if own:
        raise BadRequest(f"the datastore has {_some(own)} of its own, which the export does not have so; "
                         "import into an empty one. Nothing was changed")
    return Imported(written, present, removed)


def _changes(export: Reading, store: Store, shown: Shown) -> Iterator[Change]:
    """Yield what makes the datastore equal to the export, all but ClusterInformation."""
    for pair in _pairs(export, store, shown, "Importing"):
        if not pair.is_same and pair.key != keys.CLUSTER_INFORMATION:
            yield Change(pair.key, pair.wanted, pair.found.revision if pair.found else None)


def _batches(changes: Iterable[Change]) -> Iterator[list[Change]]:
    batch: list[Change] = []
    size = 0
    for change in changes:
        more = len(change.key) + len(dumps(change.value))
        if batch and (len(batch) == BATCH_CHANGES or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(change)
        size += more
    if batch:
        yield batch


def _commit(store: Store, batch: Sequence[Change]) -> None:
    try:
        store.commit(*batch)
    except Unwritable as error:
        raise Unwritable(f"{_some([change.key for change in batch])} could not be written: {error}; run the import "
                         "again once that is solved, it goes on from here") from error


def _require_equal(export: Reading, store: Store, shown: Shown) -> None:
    other = [pair.key for pair in _pairs(export, store, shown, "Verifying")
             if not pair.is_same and pair.key != keys.CLUSTER_INFORMATION]
    if other:
        raise BadRequest(f"{_some(other)} of the datastore are not as in the export after it was imported: something "
                         "else writes to it; stop that, and run the import again")


def _pairs(export: Reading, store: Store, shown: Shown, label: str) -> Iterator[Pair]:
    """Yield what both have at each key that one of them has, in the order of the keys."""
    wanted: Iterator[Item] = iter(shown(export.items(), label, export.header.records))
    found = store.records(EVERYTHING)
    item, record = next(wanted, None), next(found, None)
    while item or record:
        if item and (record is None or order(item[0]) < order(record.key)):
            yield Pair(*item, None)
            item = next(wanted, None)
        elif record and (item is None or order(record.key) < order(item[0])):
            yield Pair(record.key, None, record)
            record = next(found, None)
        elif item:
            yield Pair(*item, record)
            item, record = next(wanted, None), next(found, None)


def _put(store: Store, key: str, value: Json) -> None:
    """Store a value whatever is there; raises Conflict, Exists when others write at the same time."""
    try:
        record = store.get(key)
    except Missing:
        store.create(key, value)
    else:
        store.update(key, value, record.revision)


def _marked(export: Reading) -> Json:
    """Return the ClusterInformation of a datastore that is being imported into."""
    metadata = export.information.get("metadata") or {}
    annotations = {**(metadata.get("annotations") or {}), IMPORTING: export.sha256}
    return {**export.information, "metadata": {**metadata, "annotations": annotations}}


def _require_no_part(store: Store) -> None:
    """Raise BadRequest when the datastore has a part of an import only."""
    try:
        metadata = store.get(keys.CLUSTER_INFORMATION).value.get("metadata") or {}
    except Missing:
        return
    digest = (metadata.get("annotations") or {}).get(IMPORTING)
    if digest:
        raise BadRequest("an import into this datastore has not come to its end; run it again, with the file whose "
                         f"sha256 is {digest}")


def _known(store: Store) -> Cluster:
    """Return what a datastore says of itself that has just been locked or unlocked."""
    cluster = cluster_of(store)
    if cluster is None:
        raise Missing(f"{keys.CLUSTER_INFORMATION} was removed just now")
    return cluster


def _some(names: Sequence[str]) -> str:
    """Return how many records there are, and the names of the first."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    listed = ", ".join(map(printable, names[:NAMED]))
    return f"{len(names)} record{'' if len(names) == 1 else 's'} ({listed}{more})"


def _text(value: Json) -> str:
    """Return a value in a form that only equal ones have, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True)
