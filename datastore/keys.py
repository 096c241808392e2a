"""Calico's etcd key paths (libcalico-go lib/backend/model; the same paths on every datastore)."""

from __future__ import annotations

IPAM = "/calico/ipam/v2"
RESOURCES = "/calico/resources/v3/projectcalico.org"

IPPOOLS = f"{RESOURCES}/ippools/"
WORKLOAD_ENDPOINTS = f"{RESOURCES}/workloadendpoints/"
HANDLES = f"{IPAM}/handle/"
HOSTS = f"{IPAM}/host/"
IPAM_CONFIG = f"{IPAM}/config"
IPRESERVATIONS = f"{RESOURCES}/ipreservations/"
NODES = f"{RESOURCES}/nodes/"
CLUSTER_INFORMATION = f"{RESOURCES}/clusterinformations/default"


def blocks(family: int) -> str:
    """Prefix of all blocks of IPv4 (4) or IPv6 (6)."""
    return f"{IPAM}/assignment/ipv{family}/block/"


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
