"""An audit as a file that `calicoctl ipam release` can act on later. Keys are Calico's (calicoctl commands/ipam).

A report belongs to one datastore: the GUID in its ClusterInformation. What is released from it is what is leaked in all
reports given, and still is the very same giving of the address (its sequence number).
"""

from __future__ import annotations

import json
import reprlib
from contextlib import suppress

from datastore import keys
from datastore.api import Corrupt, Missing
from datastore.frozen import frozen
from datastore.model import block_of
from ipam.audit.finding import HANDLE_EMPTY
from ipam.audit.survey import FAMILIES, in_use
from ipam.block import check, host_affinity
from ipam.cidr import parse_address
from ipam.errors import BadRequest
from ipam.release import Wanted

NAMES: dict[type, str] = {str: "a string", int: "a whole number", dict: "a mapping", list: "a list"}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    from datastore.api import Json, Store
    from datastore.cluster import Cluster
    from datastore.model import Attribute, Block
    from ipam.audit.audit import Audit
    from ipam.cidr import Address

    T = TypeVar("T")


@frozen
class Report:
    """What one or several reports agree on. leaked: by address; handles: id -> revision."""

    guid: str
    versions: frozenset[str]
    revisions: frozenset[str]
    leaked: Mapping[Address, Wanted]
    handles: Mapping[str, str]


def lines(store: Store, audit: Audit, cluster: Cluster, version: str) -> Iterator[str]:
    """Yield a report's JSON text, an allocation to a line: no more than a block of it is ever in memory."""
    head: Json = {
        "version": version,
        "clusterGUID": cluster.guid,
        "datastoreLocked": cluster.locked,
        "clusterInformationRevision": cluster.revision,
        "clusterType": cluster.type,
        "leakedHandles": [
            {"ID": item.subject, "UID": None, "Revision": str(getattr(item.detail, "revision", ""))}
            for item in audit.findings if item.kind == HANDLE_EMPTY
        ],
        "findings": [
            {"kind": item.kind, "subject": item.subject, "what": item.what, "advice": item.advice}
            for item in audit.findings
        ],
    }
    yield json.dumps(head)[:-1] + ', "allocations": {'
    comma = ""
    for address, entry in entries(store, audit):
        yield f"{comma}\n{json.dumps(address)}: {json.dumps([entry])}"
        comma = ","
    yield "\n}}\n"


def entries(store: Store, audit: Audit) -> Iterator[tuple[str, Json]]:
    """Yield every allocation as a report has it; blocks that cannot be read have none. Raises Unwritable."""
    leaked = {(leak.address, leak.sequence) for leak in audit.leaks}
    for family in FAMILIES:
        for key in store.keys(keys.blocks(family)):
            with suppress(Missing, Corrupt, BadRequest):
                block = check(block_of(store.get(key)))
                for address, attribute, sequence in in_use(block, resting=True):
                    is_leaked = (address, sequence) in leaked
                    yield str(address), _entry(block, address, attribute, sequence, is_leaked)


def _entry(block: Block, address: Address, attribute: Attribute, sequence: int | None, leaked: bool) -> Json:
    owner, resting = attribute.owner, bool(attribute.released_at)
    node, pod = owner.get("node", ""), owner.get("pod", "")
    entry: Json = {
        "ip": str(address),
        "handle": attribute.handle,
        "sequenceNumber": sequence,
        "pod": pod,
        "namespace": owner.get("namespace", ""),
        "node": node,
        "type": owner.get("type") or ("pod" if pod or owner.get("container") else ""),
        "creationTimestamp": owner.get("timestamp", ""),
        "inUse": not leaked and not resting,
        "borrowed": bool(node) and block.affinity not in (None, host_affinity(node)),
        "coolingDown": resting,
        "owners": [f"{owner.get('namespace') or 'default'}/{pod}"] if pod else [],
    }
    return {**entry, "attributes": dict(owner)} if leaked else entry


def parse(text: str, name: str) -> Report:
    """Return what a report says; raises BadRequest, naming the file, when it is none."""
    try:
        return _report(json.loads(text, object_hook=_without_used))
    except (ValueError, RecursionError, BadRequest) as error:
        raise BadRequest(f"{name} is no report of `calicoctl ipam check --output`: {error}") from error


def _report(value: object) -> Report:
    lists = _of(dict, value, "allocations").values()
    leaked = [item for at, items in enumerate(lists) for item in _listed(items, f"allocations[{at}]") if item]
    wanted = [_wanted(item) for item in leaked if _at(item, "sequenceNumber") is not None]
    return Report(
        guid=_text(value, "clusterGUID"),
        versions=frozenset({_text(value, "version")}),
        revisions=frozenset({_text(value, "clusterInformationRevision")}),
        leaked={item.address: item for item in wanted},
        handles={_text(item, "ID"): _text(item, "Revision") for item in _of(list, value, "leakedHandles")},
    )


def _wanted(item: object) -> Wanted:
    """Return the release that an allocation of a report asks for; one without a handle has null there."""
    address, attributes = parse_address(_text(item, "ip")), _of(dict, item, "attributes")
    for key in attributes:
        _text(attributes, key)
    handle = None if _at(item, "handle") is None else _text(item, "handle")
    return Wanted(address, handle, _of(int, item, "sequenceNumber"))


def _at(value: object, key: str) -> Any:
    if not isinstance(value, dict):
        raise BadRequest(f"what should have {key} is {reprlib.repr(value)}")
    if key not in value:
        raise BadRequest(f"{key} is missing")
    return value[key]


def _of(wanted: type[T], value: object, key: str) -> T:
    """Return what lies at a key, if it is of exactly that type (true is no number); raises BadRequest."""
    found = _at(value, key)
    if type(found) is not wanted:
        raise BadRequest(f"{key} is {reprlib.repr(found)}: expected {NAMES[wanted]}")
    return found


def _text(value: object, key: str) -> str:
    found = _of(str, value, key)
    found.encode()  # half of a surrogate pair is no text; a ValueError, too
    return found


def _listed(items: object, name: str) -> list[Any]:
    return _of(list, {name: items}, name)


def _without_used(value: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out, while reading, the allocations that are in use or cool down: nearly all of them."""
    return None if value.get("inUse") or value.get("coolingDown") else value


def agreed(reports: Iterable[Report]) -> Report:
    """Return what all the reports say; raises BadRequest when they are of several datastores."""
    first, *rest = reports
    for other in rest:
        if other.guid != first.guid:
            raise BadRequest(f"the reports are of several datastores: clusterGUID {first.guid} and {other.guid}")
        first = Report(
            guid=first.guid,
            versions=first.versions | other.versions,
            revisions=first.revisions | other.revisions,
            leaked={at: item for at, item in first.leaked.items() if other.leaked.get(at) == item},
            handles={name: at for name, at in first.handles.items() if other.handles.get(name) == at},
        )
    return first


def require(report: Report, cluster: Cluster | None, version: str, force: bool) -> None:
    """Raise BadRequest unless the report is of this datastore, and, if not forced, of this version and up to date."""
    if cluster is None or report.guid != cluster.guid:
        mine = cluster.guid if cluster else "none"
        raise BadRequest(f"the report is of another datastore: its clusterGUID is {report.guid}, this one's is {mine}")
    if force:
        return
    if report.versions != {version}:
        raise BadRequest(f"the report was made by version {', '.join(sorted(report.versions - {version}))}, this is "
                         f"{version}; make it anew, or use --force")
    if cluster.revision not in report.revisions:
        raise BadRequest("no report is as new as the last change of ClusterInformation (revision "
                         f"{cluster.revision}); make one anew, or use --force")
