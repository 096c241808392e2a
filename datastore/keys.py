"""Calico's etcd key paths (libcalico-go lib/backend/model), and which of the records there must survive a power cut."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from datastore.api import Json

IPAM = "/calico/ipam/v2"
RESOURCES = "/calico/resources/v3/projectcalico.org"

IPPOOLS = f"{RESOURCES}/ippools/"
WORKLOAD_ENDPOINTS = f"{RESOURCES}/workloadendpoints/"
BLOCKS = f"{IPAM}/assignment/"
HANDLES = f"{IPAM}/handle/"
HOSTS = f"{IPAM}/host/"
IPAM_CONFIG = f"{IPAM}/config"
IPRESERVATIONS = f"{RESOURCES}/ipreservations/"
NODES = f"{RESOURCES}/nodes/"
CLUSTER_INFORMATION = f"{RESOURCES}/clusterinformations/default"
FELIX_CONFIGURATION = f"{RESOURCES}/felixconfigurations/default"

ALLOCATION_STATE = (BLOCKS, HANDLES, HOSTS, WORKLOAD_ENDPOINTS)
POD = ("boot", "container", "interface")  # attributes that a pod's allocation has, and nobody else's


def outlives_boot(key: str, value: Json | None) -> bool:
    """Tell whether a write must survive a power cut; value None is a removal.

    What people configured must. What pods have need not: no pod outlives a boot, and before the first address of the
    next one is given, what a power cut left of these records is set right (cni_calico/reclaim.py). Two things among
    them must: a block in which somebody else has an address, which is his also after the boot; and that a block is
    gone, since another, of another size, may be cut across its place by then.
    """
    if not key.startswith(ALLOCATION_STATE):
        return True
    return key.startswith(BLOCKS) and (value is None or _has_more_than_pods(value))


def _has_more_than_pods(block: Json) -> bool:
    """Tell whether a block has an owner who is no pod; one that cannot be read may have."""
    try:
        return not all(item.get("releasedAt") or boot_of(item["secondary"]) for item in block["attributes"] or ())
    except (AttributeError, KeyError, TypeError):
        return True


def boot_of(owner: Mapping[str, str]) -> str:
    """Return the boot that an allocation with these attributes ends with, empty for one that is no pod's."""
    return owner["boot"] if all(map(owner.get, POD)) else ""


def blocks(family: int) -> str:
    """Prefix of all blocks of IPv4 (4) or IPv6 (6)."""
    return f"{BLOCKS}ipv{family}/block/"


def block(family: int, cidr: str) -> str:
    """Key of the block with this CIDR."""
    return blocks(family) + cidr.replace("/", "-")


def block_cidr(key: str) -> str:
    """CIDR of the block at this key (or of the affinity: both end alike)."""
    return key.rpartition("/")[2].replace("-", "/")


def affinities(node: str, family: int) -> str:
    """Prefix of all blocks that a node has or is claiming."""
    return f"{IPAM}/host/{node}/ipv{family}/block/"


def affinity(node: str, family: int, cidr: str) -> str:
    """Key that says that the node has, or is claiming, this block."""
    return affinities(node, family) + cidr.replace("/", "-")


def affinity_node(key: str) -> str:
    """Node of the affinity, or of the host record, at this key."""
    return key[len(HOSTS) :].partition("/")[0]


def host(node: str) -> str:
    """Key of what a node remembers from one assignment to the next."""
    return HOSTS + node


def handle(handle_id: str) -> str:
    """Key of the count of addresses that one owner holds in each block."""
    return HANDLES + handle_id


def ippool(name: str) -> str:
    """Key of an IPPool resource."""
    return IPPOOLS + name


def workload_endpoint(namespace: str, name: str) -> str:
    """Key of a WorkloadEndpoint resource."""
    return f"{WORKLOAD_ENDPOINTS}{namespace}/{name}"


def ipreservation(name: str) -> str:
    """Key of an IPReservation resource."""
    return IPRESERVATIONS + name


def node(name: str) -> str:
    """Key of a Node resource."""
    return NODES + name
