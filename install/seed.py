"""The default address pools, put into the datastore so that the first pod finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni_calico.netlink import host_networks
from datastore.api import StoreError
from datastore.file import FileStore
from datastore.lock import library_lock
from install.errors import InstallError
from ipam.errors import IpamError
from ipam.pool import seed_default_pools

if TYPE_CHECKING:
    from install.settings import Settings


def seed_pools(settings: Settings) -> list[str]:
    """Create the default pools of CALICO_IPV4POOL_CIDR and its companions; return the names of those created.

    A family that has a pool keeps it. Another datastore than "file" is left alone. Raises InstallError.
    """
    if settings.datastore_type != "file":
        return []
    families = (4, 6) if settings.environment.get("CALICO_IPV6POOL_CIDR") else (4,)
    store = FileStore(str(settings.datastore_dir), lock=library_lock)
    try:
        return seed_default_pools(store, settings.environment, families, host_networks)
    except (IpamError, StoreError, OSError) as error:
        raise InstallError(f"cannot seed the pools in {settings.datastore_dir}: {error}") from error
