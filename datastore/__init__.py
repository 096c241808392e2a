"""Where state lives: Calico's records at Calico's keys, each with a revision to compare and swap on.

`open_store` is the only thing callers need to know about the kinds of datastore there are.
"""

from __future__ import annotations

from datastore.api import Store, UnsupportedDatastore
from datastore.file import FileStore

DEFAULT_DIR = "/var/lib/calico/datastore"


def open_store(kind: str, directory: str) -> Store:
    """Return the store that `datastore_type` names; nothing is created or locked yet.

    Raises UnsupportedDatastore for the kinds that this release does not have.
    """
    if kind != "file":
        raise UnsupportedDatastore(kind)
    return FileStore(directory)
