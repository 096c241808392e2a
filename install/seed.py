"""What a datastore has from the start, so that the first pod finds it: its GUID, and the default address pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni_calico.netlink import host_networks
from cni_calico.version import VERSION
from datastore import open_store
from datastore.api import StoreError, Unreachable
from datastore.cluster import initialised
from datastore.file import FileStore
from datastore.lock import library_lock
from datastore.settings import ETCD, FILE
from datastore.settings import Settings as Datastore
from install.errors import InstallError
from ipam.errors import IpamError
from ipam.pool import seed_default_pools

if TYPE_CHECKING:
    from datastore.api import Store
    from install.report import Report
    from install.settings import Settings

LATER = ("if this is a new cluster, run install-cni again then: the first pod would create a default pool, by the "
         "runtime's environment instead of this one")


def place(settings: Settings) -> str:
    """Return what to call the datastore, empty for one that is left alone."""
    if settings.etcd:
        return f"etcd at {settings.etcd.discovery_srv or ', '.join(settings.etcd.endpoints)}"
    return str(settings.datastore_dir) if settings.datastore_type == FILE else ""


def seed(settings: Settings, report: Report) -> None:
    """Create what the datastore lacks: the pools are those of CALICO_IPV4POOL_CIDR and its companions.

    A family that has a pool keeps it. That etcd does not answer is a warning: a host may come up before its etcd. That
    it refuses us is an error. Raises InstallError.
    """
    store = _store(settings)
    if store is None:
        return
    families = (4, 6) if settings.environment.get("CALICO_IPV6POOL_CIDR") else (4,)
    try:
        initialised(store, VERSION)
        for pool in seed_default_pools(store, settings.environment, families, host_networks):
            report.add("create", f"pool {pool}")
    except Unreachable as error:
        report.warnings.append(f"nothing is seeded: {error}; {LATER}")
    except (IpamError, StoreError, OSError) as error:
        raise InstallError(f"cannot seed the pools in {place(settings)}: {error}") from error


def _store(settings: Settings) -> Store | None:
    if settings.etcd:
        lock_file = str(settings.placeholders["IPAM_LOCK_FILE"])
        return open_store(Datastore(ETCD, etcd=settings.etcd, lock_file=lock_file), seconds=settings.seed_seconds)
    if settings.datastore_type == FILE:
        return FileStore(str(settings.datastore_dir), lock=library_lock)
    return None
