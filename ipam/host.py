"""What a node remembers from one assignment to the next: hints and marks that save work, and decide nothing."""

from __future__ import annotations

from datastore import keys
from datastore.api import Conflict, Corrupt, Exists, Missing, Torn
from datastore.model import Host, host_json, host_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.api import Store

Remembered = tuple[Host, int | None]


def load(store: Store, node: str) -> Remembered:
    """Return what the node remembers and the revision of its record, None when it has none that can be read."""
    try:
        record = store.get(keys.host(node))
    except (Missing, Corrupt):
        return Host(), None
    try:
        return host_of(record), record.revision
    except Corrupt:
        return Host(), record.revision


def save(store: Store, node: str, host: Host, revision: int | None) -> bool:
    """Store what the node remembers, also in the place of a damaged record, which is kept aside.

    False when another writer was faster: what he remembers is as good.
    """
    key = keys.host(node)
    try:
        if revision is None:
            store.create(key, host_json(host))
        else:
            store.update(key, host_json(host), revision)
    except (Conflict, Missing):
        return False
    except Exists:
        return _mend(store, key, host)
    return True


def _mend(store: Store, key: str, host: Host) -> bool:
    with store.exclusive():
        try:
            store.get(key)
        except Missing:
            return False
        except Corrupt as error:
            store.mend(Torn(key, "", str(error)), host_json(host))
            return True
    return False
