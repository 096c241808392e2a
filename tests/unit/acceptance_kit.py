"""What the acceptance tests share: pools, nodes and requests in few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from datastore import keys
from datastore.api import Store
from ipam.assign import Filled, Request, assign, auto_assign, ensure_block
from ipam.cidr import parse_address
from ipam.handle import Owner

from .allocator_reader import read

A, B = "host-a", "host-b"


def add_pool(store: Store, name: str, cidr: str, block_size: int = 0, **spec: Any) -> None:
    """Create a pool, or replace it."""
    remove(store, keys.ippool(name))
    spec = {"cidr": cidr, "blockSize": block_size or (122 if ":" in cidr else 26), **spec}
    store.create(keys.ippool(name), {"metadata": {"name": name}, "spec": spec})


def label(store: Store, node: str, labels: Mapping[str, str]) -> None:
    """Give a node labels, in place of those it has."""
    remove(store, keys.node(node))
    store.create(keys.node(node), {"metadata": {"name": node, "labels": dict(labels)}})


def reserve(store: Store, name: str, *cidrs: str) -> None:
    store.create(keys.ipreservation(name), {"metadata": {"name": name}, "spec": {"reservedCIDRs": list(cidrs)}})


def remove(store: Store, key: str) -> None:
    if key in store.keys(key.rpartition("/")[0] + "/"):
        store.delete(key, store.get(key).revision)


def owner(name: str) -> Owner:
    return Owner(f"net.{name}", {"network": "net", "container": name, "interface": "eth0"})


def request(node: str, name: str, **more: Any) -> Request:
    return Request(node, owner(name), env={"NO_DEFAULT_POOLS": "true"}, **more)


def auto(store: Store, node: str, name: str, count: int = 1, family: int = 4, **more: Any) -> Filled:
    return auto_assign(store, request(node, name, count=count, **more), family)


def given(filled: Filled) -> list[str]:
    return [str(item.address) for item in filled.assigned]


def one(store: Store, node: str, name: str, family: int = 4, **more: Any) -> str:
    """Return the one address that the node gets for a pod."""
    (address,) = given(auto(store, node, name, 1, family, **more))
    return address


def named(store: Store, node: str, name: str, address: str, **more: Any) -> str:
    """Return the address asked for by name."""
    asked = parse_address(address)
    (item,) = assign(store, request(node, name, families=(asked.family,), addresses=(asked,), **more))
    return str(item.address)


def ensured(store: Store, node: str, family: int = 4, **more: Any) -> str:
    return str(ensure_block(store, request(node, "none", **more), family))


def blocks(store: Store, node: str | None) -> list[str]:
    """Return the blocks of a node, or those that are nobody's."""
    affinity = f"host:{node}" if node else None
    return sorted(cidr for cidr, block in read(store).blocks.items() if block.affinity == affinity)


def within(addresses: Iterable[str], cidr: str) -> int:
    """Return how many of the addresses lie in a range."""
    import ipaddress

    return sum(ipaddress.ip_address(address) in ipaddress.ip_network(cidr) for address in addresses)
