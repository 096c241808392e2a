"""What is done to a node's datastore beside calico-ipam: by `calico`, which records endpoints, and by who is no pod."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from cni_calico import endpoint
from cni_calico.args import Attachment
from cni_calico.node import boot_id
from datastore import keys
from datastore.file import FileStore
from datastore.resources import endpoint_json
from ipam.assign import Request, assign
from ipam.find import holdings
from ipam.handle import Owner
from ipam.release import release_handle

NODE = "n1"


def tunnel(root: str, name: str) -> None:
    """Give an IPv4 address to one who is no pod, as a tunnel's device has it."""
    assign(FileStore(root), Request(NODE, Owner(name, {"node": NODE, "type": "vxlanTunnelAddress"}), env=os.environ))


def no_tunnel(root: str, name: str) -> None:
    release_handle(FileStore(root), name)


def upgraded(root: str, name: str) -> None:
    """Give an IPv4 address to a container of which no interface is known, as the upgrade from host-local may."""
    owner = Owner(f"net.{name}", {"node": NODE, "boot": boot_id(), "network": "net", "container": name})
    assign(FileStore(root), Request(NODE, owner, env=os.environ))


def wired(root: str, name: str) -> None:
    """Record a pod that has its addresses, as `calico` does once it is wired."""
    store, attachment = FileStore(root, rebuilt=True), Attachment("net", name, "eth0")
    held = tuple(str(item.address) for item in holdings(store, attachment.owner({})))
    record = endpoint.endpoint_for(NODE, "", "", attachment, held)
    store.create(keys.workload_endpoint(record.namespace, record.name), endpoint_json(record))


def unwired(root: str, name: str) -> None:
    store = FileStore(root, rebuilt=True)
    endpoint.forget(store, endpoint.find(store, Attachment("net", name, "eth0")))


DEEDS: Mapping[str, Callable[[str, str], None]] = {
    "tunnel": tunnel, "no-tunnel": no_tunnel, "upgraded": upgraded, "wired": wired, "unwired": unwired,
}

if __name__ == "__main__":
    DEEDS[sys.argv[1]](*sys.argv[2:])
