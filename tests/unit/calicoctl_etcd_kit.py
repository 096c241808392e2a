"""A datastore in a real etcd, for tests of calicoctl that run it as people do (calicoctl_kit.py)."""

from __future__ import annotations

import json
from pathlib import Path

from datastore import open_store
from tests.etcd import Cluster

from .calicoctl_kit import AnyPlace


class EtcdPlace(AnyPlace):
    """A datastore in etcd, which is emptied first, and a configuration file that leads to it."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        cluster.wipe()
        self.folder = folder
        self.cluster = cluster
        self.store = open_store(cluster.settings(folder))
        self.config = folder / "etcd.cfg"
        self.config.write_text(json.dumps({
            "apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig",
            "spec": {"datastoreType": "etcdv3", "etcdEndpoints": ",".join(cluster.etcd.endpoints)},
        }))
