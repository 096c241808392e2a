"""Where state lives: Calico's records at Calico's keys, each with a revision to compare and swap on.

`open_store` is the only thing callers need to know about the kinds of datastore there are.
"""

from __future__ import annotations

from datastore.api import Store, UnsupportedDatastore
from datastore.settings import ETCD, FILE, Settings

SECONDS = 20.0  # how long a verb waits in all for servers that do not answer: a runtime waits two minutes or more


def open_store(settings: Settings, rebuilt: bool = False, seconds: float = SECONDS) -> Store:
    """Return the store that the settings tell of; nothing is created, locked or asked yet.

    rebuilt: whoever uses it sets right after a reboot what pods had, which therefore need not survive a power cut.
    seconds: how long all its calls together may wait for a server that does not answer.
    Raises UnsupportedDatastore for the kinds that this release does not have.
    """
    if settings.kind == FILE:
        from datastore.file import FileStore

        return FileStore(settings.directory, rebuilt=rebuilt)
    if settings.kind == ETCD:
        from datastore.etcd import open_etcd

        return open_etcd(settings, seconds)
    raise UnsupportedDatastore(settings.kind)
