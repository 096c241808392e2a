"""What a datastore says of itself as a whole: its GUID, and whether it is open for changes.

Calico: ClusterInformation `default`, made when a datastore is first used (libcalico-go clientv3, EnsureInitialized),
whose `datastoreReady` closes it for every node's ADD and DEL while it is moved or upgraded.
"""

from __future__ import annotations

import time

from datastore import keys
from datastore.api import Conflict, Corrupt, Exists, Missing, NotReady
from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.api import Json, Record, Store

TRIES = 100


@frozen
class Cluster:
    """The datastore's GUID, its type, whether it is closed for changes, and the revision of the record that says so."""

    guid: str
    type: str
    locked: bool
    revision: str


def cluster_of(store: Store) -> Cluster | None:
    """Return what the datastore is, None where nothing says so yet. Raises Corrupt."""
    try:
        return _cluster(store.get(keys.CLUSTER_INFORMATION))
    except Missing:
        return None


def initialised(store: Store, version: str) -> Cluster:
    """Return what the datastore is, giving it a GUID, and Felix its default settings, when it has none. Raises Corrupt.

    version: of this release, which is noted.
    """
    found = cluster_of(store)
    if found is None:
        _create(store, keys.FELIX_CONFIGURATION, "FelixConfiguration", {"logSeverityScreen": "Info"})
        _create(store, keys.CLUSTER_INFORMATION, "ClusterInformation", _information(version))
        found = _cluster(store.get(keys.CLUSTER_INFORMATION))
    return found


def require_ready(store: Store) -> Cluster | None:
    """Raise NotReady when the datastore is closed for changes; return what it is, None where nothing says so yet.

    One that cannot be read says nothing.
    """
    try:
        cluster = cluster_of(store)
    except Corrupt:
        return None
    if cluster and cluster.locked:
        raise NotReady("the datastore is closed for changes (ClusterInformation datastoreReady is false), as while it "
                       "is migrated; try again after `calicoctl datastore migrate unlock`")
    return cluster


def set_ready(store: Store, ready: bool, version: str) -> None:
    """Open the datastore for changes, or close it. Raises Corrupt, Conflict when others keep changing the record."""
    for _ in range(TRIES):
        initialised(store, version)
        record = store.get(keys.CLUSTER_INFORMATION)
        value = {**record.value, "spec": {**record.value["spec"], "datastoreReady": ready}}
        try:
            store.update(record.key, value, record.revision)
        except (Conflict, Missing):
            continue
        return
    raise Conflict(f"{keys.CLUSTER_INFORMATION} kept changing; try again")


def _information(version: str) -> Json:
    from secrets import token_hex  # once in a datastore's life

    return {"clusterGUID": token_hex(16), "clusterType": "", "calicoVersion": version, "datastoreReady": True}


def _create(store: Store, key: str, kind: str, spec: Json) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        store.create(key, {"kind": kind, "apiVersion": "projectcalico.org/v3",
                           "metadata": {"name": "default", "creationTimestamp": now}, "spec": spec})
    except Exists:
        return


def _cluster(record: Record) -> Cluster:
    spec = record.value.get("spec")
    if not isinstance(spec, dict) or not spec.get("clusterGUID"):
        raise Corrupt(f"record {record.key} has no clusterGUID; repair it")
    return Cluster(str(spec["clusterGUID"]), str(spec.get("clusterType") or ""), spec.get("datastoreReady") is False,
                   str(record.revision))
