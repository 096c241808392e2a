"""Where state lives: Calico's records at Calico's keys, each with a revision to compare and swap on.

`open_store` is the only thing callers need to know about the kinds of datastore there are.
"""

from __future__ import annotations

from datastore.api import Store, UnsupportedDatastore
from datastore.file import FileStore

DEFAULT_DIR = "/var/lib/calico/datastore"


def open_store(kind: str, directory: str, rebuilt: bool = False) -> Store:
    """Return the store that `datastore_type` names; nothing is created or locked yet.

    rebuilt: whoever uses it sets right after a reboot what pods had, which therefore need not survive a power cut.
    Raises UnsupportedDatastore for the kinds that this release does not have.
    """
    if kind != "file":
        raise UnsupportedDatastore(kind)
    return FileStore(directory, rebuilt=rebuilt)
