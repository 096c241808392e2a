"""What a node remembers from one assignment to the next: hints and marks that save work, and decide nothing."""

from __future__ import annotations

from datastore import keys
from datastore.api import Conflict, Corrupt, Exists, Missing
from datastore.model import Host, host_json, host_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.api import Store

Remembered = tuple[Host, int | None]


def load(store: Store, node: str) -> Remembered:
    """Return what the node remembers and the revision of its record, None when it has none that can be read."""
    try:
        record = store.get(keys.host(node))
        return host_of(record), record.revision
    except (Missing, Corrupt):
        return Host(), None


def save(store: Store, node: str, host: Host, revision: int | None) -> bool:
    """Store what the node remembers; False when another writer was faster, or the record is damaged."""
    key = keys.host(node)
    try:
        if revision is None:
            store.create(key, host_json(host))
        else:
            store.update(key, host_json(host), revision)
    except (Conflict, Exists, Missing):
        return False
    return True
