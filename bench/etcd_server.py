"""Real etcd servers of the benchmark's own, each in a folder of its own; they end with the process, however it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datastore.etcd import EtcdStore
from datastore.etcdclient import Client
from datastore.settings import Etcd
from datastore.snapshot import Cache
from tests.etcd import Cluster, Member

QUOTA = 8 << 30  # bytes; etcd's default is 2 GiB
OPTIONS = (f"--quota-backend-bytes={QUOTA}", "--auto-compaction-mode=revision", "--auto-compaction-retention=10000",
           "--snapshot-count=20000")  # fmt: skip
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class Server:
    """One etcd server with one member. synced: whether every write waits for the disk, as etcd's default is."""

    def __init__(self, folder: Path, name: str, synced: bool = False) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        synced_too: Sequence[str] = ("--unsafe-no-fsync=false",) if synced else ()
        self._cluster = Cluster([Member(name, self.folder, extra=(*OPTIONS, *synced_too), prefix=ENDS_WITH_US)])
        self._clients: dict[str, tuple[Client, Cache]] = {}
        self._cluster.start()

    @property
    def url(self) -> str:
        """Where clients ask."""
        return self._cluster.members[0].url

    def store(self, node: str, url: str = "") -> EtcdStore:
        """Return a new store as a verb of the agent on this node has it, with what it keeps. url: of a proxy."""
        if url not in self._clients:
            self._clients[url] = Client(Etcd(endpoints=(url or self.url,))), Cache()
        client, cache = self._clients[url]
        return EtcdStore(client, str(self.folder / node / "ipam.lock"), cache=cache)

    def megabytes(self) -> float:
        """Return how large its database is, MB."""
        return int(self._cluster.ask("/v3/maintenance/status", {})["dbSize"]) / 1e6

    def wipe(self) -> None:
        """Remove every key."""
        self._cluster.wipe()

    def close(self) -> None:
        """End it."""
        for client, _ in self._clients.values():
            client.close()
        self._cluster.stop()
