"""Reading and writing resources: what `get`, `create`, `apply`, `replace`, `delete`, `patch` and `label` do.

The way a resource is merged with the stored one is Calico's (calicoctl resourcemgr/resourcemgr.go): the spec is
replaced, labels and annotations are added to, the rest of the metadata stays. So do fields that are not known here.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from calicoctl.resources import kinds, rules
from calicoctl.resources.documents import resource as read_resource
from calicoctl.resources.fields import carry, check, identity, known
from calicoctl.resources.findings import refuse
from calicoctl.resources.patch import patched
from calicoctl.resources.poolrules import overlaps, pool_spec
from datastore import keys
from datastore.api import Conflict, Corrupt, Exists, Missing
from datastore.model import IpamConfig, config_json, config_of
from ipam import configuration
from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from calicoctl.resources.kinds import Kind
    from datastore.api import Json, Record, Store

TRIES = 100


def get(store: Store, kind: Kind, metadata: Json) -> Json:
    """Return the resource as people see it, its revision in metadata.resourceVersion. Raises Missing, Corrupt."""
    return shown(kind, _record(store, kind, metadata))


def listed(store: Store, kind: Kind, namespace: str = "") -> Iterator[Json]:
    """Yield all resources of a kind in name order (those of one namespace, if it is given). Raises Corrupt."""
    if kind is kinds.IPAMCONFIGURATION:
        try:
            yield get(store, kind, {"name": "default"})
        except Missing:
            return
    prefix = kind.prefix + (f"{namespace}/" if namespace else "")
    for record in store.records(prefix) if prefix.endswith("/") else ():
        yield shown(kind, record)


def create(store: Store, resource: Json) -> None:
    """Store a new resource; raises Exists, BadRequest, Corrupt."""
    kind, given = kinds.of(resource), resource["metadata"]
    if given.get("resourceVersion"):
        raise BadRequest("error with field metadata.resourceVersion (must not be set for a resource that is new)")
    metadata = {name: given[name] for name in ("name", "namespace", "labels", "annotations") if name in given}
    new = {**resource, "metadata": metadata}
    if kind is kinds.IPPOOL:
        new.pop("status", None)  # it was another pool's, or another datastore's
    _value(kind, rules.checked(kind, new, None, store), None)  # what is wrong leaves nothing, not even a lock file
    with store.exclusive():
        value = _value(kind, rules.checked(kind, new, None, store), None)
        try:
            store.create(kind.key(metadata), value)
        except Exists:
            raise Exists(f"resource already exists: {identity(kind.name, metadata)}") from None


def replace(store: Store, resource: Json) -> None:
    """Replace a stored resource; raises Missing, BadRequest, Corrupt, and Conflict if its resourceVersion is old."""
    kind, given = kinds.of(resource), resource["metadata"]

    def change(stored: Json) -> Json:
        merged = {name: {**stored["metadata"].get(name, {}), **given.get(name, {})}
                  for name in ("labels", "annotations") if name in stored["metadata"] or name in given}
        status = {"status": stored["status"]} if "status" in stored else {}
        return {**status, **resource, "metadata": {**stored["metadata"], **merged}}

    _update(store, kind, given, change)


def apply(store: Store, resource: Json) -> None:
    """Create a resource, or replace the stored one. Raises as `create` and `replace` do."""
    kind, metadata = kinds.of(resource), resource["metadata"]
    if not _exists(store, kind, metadata):
        with suppress(Exists):  # somebody else was faster: replace theirs
            create(store, {**resource, "metadata": {**metadata, "resourceVersion": ""}})
            return
    replace(store, resource)


def patch(store: Store, kind: Kind, metadata: Json, text: str, how: str) -> None:
    """Change a part of a stored resource (patch.py). Raises Missing, BadRequest, Conflict, Corrupt."""

    def change(stored: Json) -> Json:
        outcome = read_resource(patched(stored, text, how))
        _require_version(kind, outcome["metadata"], stored["metadata"])
        _require_identity(outcome, stored)
        return outcome

    _update(store, kind, metadata, change)


def label(store: Store, kind: Kind, metadata: Json, change: Callable[[Json], Json]) -> None:
    """Change the labels of a stored resource. Raises what `change` does, and Missing, BadRequest, Corrupt."""

    def change_resource(stored: Json) -> Json:
        return {**stored, "metadata": {**stored["metadata"], "labels": change(stored["metadata"].get("labels", {}))}}

    _update(store, kind, metadata, change_resource)


def validate(store: Store, resource: Json, before: Iterable[Json] = ()) -> None:
    """Raise BadRequest or Corrupt if `apply` would, after it had those before; nothing is written."""
    kind, metadata = kinds.of(resource), resource["metadata"]
    try:
        stored = _sound(kind, _record(store, kind, metadata))
    except Missing:
        stored = None
    complete = rules.checked(kind, resource, stored, store)
    if kind is kinds.IPPOOL:
        refuse(overlaps(complete, (item for item in before if kinds.of(item) is kind)))
    _value(kind, complete, None)


def delete(store: Store, resource: Json) -> None:
    """Remove a resource with what hangs on it; raises Missing, Corrupt, and Conflict if its resourceVersion is old.

    A pool's blocks leave their nodes, and a node's blocks leave it, first (ipam/remove.py). A node may have blocks
    though nobody has made a resource of it: then these are what is deleted.
    """
    from ipam import remove

    kind, metadata = kinds.of(resource), resource["metadata"]
    has_blocks = kind is kinds.NODE and bool(store.keys(f"{keys.host(metadata['name'])}/"))
    record = None if has_blocks and not _exists(store, kind, metadata) else _record(store, kind, metadata)
    if record:
        _require_version(kind, metadata, {**metadata, "resourceVersion": str(record.revision)})
    if kind is kinds.IPPOOL and record:
        _sound(kind, record)
        remove.delete_pool(store, metadata["name"])
        return
    if kind is kinds.NODE:
        remove.remove_node(store, metadata["name"])
    if record:
        _delete(store, record, identity(kind.name, metadata))


def _delete(store: Store, record: Record, who: str) -> None:
    try:
        store.delete(record.key, record.revision)
    except Conflict:
        raise Conflict(f"update conflict: {who}") from None


def _exists(store: Store, kind: Kind, metadata: Json) -> bool:
    try:
        store.get(kind.key(metadata))
    except Missing:
        return False
    return True


def shown(kind: Kind, record: Record) -> Json:
    """Return the resource in a record as people see and write it: no field but those of its kind, Calico's defaults."""
    if kind is kinds.IPAMCONFIGURATION:
        value: Json = {"metadata": {}, "spec": configuration.spec_of(config_of(record))}
    else:
        value = known(record.value, kind.schema)
    *_, namespace, name = ("", "default") if kind is kinds.IPAMCONFIGURATION else record.key.split("/")
    named = {"name": name, **({"namespace": namespace} if kind.namespaced else {})}
    metadata, spec = value.get("metadata"), value.get("spec")
    return {
        "apiVersion": kinds.API_VERSION, "kind": kind.name,
        "metadata": {**named, **(metadata if isinstance(metadata, dict) else {}),
                     "resourceVersion": str(record.revision)},
        "spec": _shown_spec(kind, spec if isinstance(spec, dict) else {}),
        **({"status": value["status"]} if "status" in value else {}),
    }


def _shown_spec(kind: Kind, spec: Json) -> Json:
    try:
        check(spec, kind.spec, "spec")
        return pool_spec(spec) if kind is kinds.IPPOOL else spec
    except BadRequest:
        return spec  # what is damaged is shown as it is


def _record(store: Store, kind: Kind, metadata: Json) -> Record:
    try:
        return store.get(kind.key(metadata))
    except Missing as error:
        who = identity(kind.name, metadata)
        raise Missing(f"resource does not exist: {who} with error: {error}") from None


def _sound(kind: Kind, record: Record) -> Json:
    """Return the resource in a record that is to be changed; raises Corrupt when it is not what its key says."""
    stored = shown(kind, record)
    try:
        check(stored, kind.schema, "")
        if kind is kinds.IPPOOL:
            pool_spec(stored["spec"])
    except BadRequest as error:
        raise Corrupt(f"record {record.key} is no sound {kind.name} ({error}); repair it before its use") from error
    return stored


def _update(store: Store, kind: Kind, metadata: Json, change: Callable[[Json], Json]) -> None:
    for _ in range(TRIES):
        record = _record(store, kind, metadata)
        stored = _sound(kind, record)
        _require_version(kind, metadata, stored["metadata"])
        value = _value(kind, rules.checked(kind, change(stored), stored, store), record)
        try:
            store.update(record.key, value, record.revision)
            return
        except Conflict:
            continue  # it changed meanwhile: decide anew
    raise Conflict(f"update conflict: {identity(kind.name, metadata)}")


def _value(kind: Kind, resource: Json, record: Record | None) -> Json:
    """Return what to store for a resource, in place of the record if there is one. Raises BadRequest, Corrupt."""
    if kind is kinds.IPAMCONFIGURATION:
        stored = config_of(record) if record else IpamConfig()
        return config_json(configuration.from_spec(resource["spec"], stored))
    metadata = {name: item for name, item in resource["metadata"].items() if name != "resourceVersion"}
    value = {**resource, "metadata": metadata if record else {**metadata, **_birth()}}
    return dict(carry(record.value, value, kind.schema)) if record else value


def _birth() -> Json:
    """Return what Calico notes of a resource that is new."""
    from uuid import uuid4

    return {"uid": str(uuid4()), "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def _require_version(kind: Kind, given: Json, stored: Json) -> None:
    version: Any = given.get("resourceVersion")
    if version and version != stored["resourceVersion"]:
        raise Conflict(f"update conflict: {identity(kind.name, stored)}: resource version {version} is out of date, "
                       f"it is {stored['resourceVersion']} now")


def _require_identity(outcome: Json, stored: Json) -> None:
    for name in ("name", "namespace", "uid", "creationTimestamp"):
        if outcome["metadata"].get(name) != stored["metadata"].get(name):
            raise BadRequest(f"metadata.{name} cannot be changed")
    if outcome["kind"] != stored["kind"]:
        raise BadRequest("kind cannot be changed")
