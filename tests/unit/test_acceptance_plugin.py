"""Calico's acceptance list: the IPAM plugin, its verbs as a runtime calls them, without root.

Set aside: the 13 KubeVirt rows and the host affinity upgrade (marker file, labels of BlockAffinity objects), which need
Kubernetes. And removing on DEL what a handle of Calico v2 (`<namespace>.<pod>`, or the container id) holds: no store of
this plugin is that old, and such a handle may be that of another network's container, `<network>.<container>`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni_calico.errors import ADDRESS_IN_USE, INVALID_CONFIG, NO_ADDRESS
from cni_calico.skel import run
from datastore.file import FileStore
from ipam.__main__ import CALICO_IPAM

from .acceptance_kit import add_pool
from .allocator_reader import read, sound

Json = dict[str, Any]
Verb = Callable[..., Json]


class Node:
    """A node with a datastore of its own, whose runtime calls calico-ipam."""

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(str(folder / "ds"))

    def call(self, verb: str, container: str = "c1", args: str = "", **ipam: Any) -> Json:
        """Run a verb; return the result, or the error object, which has a `code`."""
        conf = {"cniVersion": "1.0.0", "name": "net", "type": "ptp", "nodename": "n1", "datastore_dir": self.store.root,
                "ipam": {"type": "calico-ipam", **ipam}}
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_NETNS": "/none",
               "CNI_PATH": "/none", "CNI_ARGS": args, "NO_DEFAULT_POOLS": "true"}
        stdout = io.BytesIO()
        code = run(CALICO_IPAM, env, io.BytesIO(json.dumps(conf).encode()), stdout)
        answer: Json = json.loads(stdout.getvalue() or b"{}")
        assert ("code" in answer) == bool(code)
        return answer

    def add(self, container: str = "c1", args: str = "", **ipam: Any) -> list[str]:
        """Return the addresses that ADD gives."""
        answer = self.call("ADD", container, args, **ipam)
        assert "code" not in answer, answer
        return [ip["address"].partition("/")[0] for ip in answer["ips"]]

    def refused(self, container: str = "c1", args: str = "", **ipam: Any) -> Json:
        """Return the error that ADD ends with; nobody but who held addresses before holds any."""
        before = sound(self.store)
        error = self.call("ADD", container, args, **ipam)
        assert "code" in error
        assert sound(self.store) == before
        return error


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node with a pool of each family."""
    node = Node(tmp_path)
    add_pool(node.store, "p4", "10.0.0.0/24")
    add_pool(node.store, "p6", "fd00::/120")
    return node


@pytest.mark.parametrize(
    ("ipam", "families"),
    [
        ({}, "4"),
        ({"assign_ipv4": "true"}, "4"),
        ({"assign_ipv4": "true", "assign_ipv6": "false"}, "4"),
        ({"assign_ipv4": "false", "assign_ipv6": "true"}, "6"),
        ({"assign_ipv4": "true", "assign_ipv6": "true"}, "46"),
    ],
)
def test_families(node: Node, ipam: Json, families: str) -> None:
    """Table: without configuration one IPv4 address, IPv4 by configuration, IPv6 only, one of each."""
    addresses = node.add(**ipam)
    assert "".join("6" if ":" in address else "4" for address in addresses) == families
    assert sound(node.store, unfinished=False) == dict.fromkeys(addresses, "c1")


@pytest.mark.parametrize("family", [4, 6])
def test_a_family_without_a_pool(tmp_path: Path, family: int) -> None:
    """No pool of one family: the ADD fails, and there is no stray assignment of the other."""
    node = Node(tmp_path)
    add_pool(node.store, "p", "10.0.0.0/24" if family == 6 else "fd00::/120")
    error = node.refused(assign_ipv4="true", assign_ipv6="true")
    assert error["code"] == NO_ADDRESS
    assert f"IPv{family}" in error["msg"]
    assert read(node.store).handles == {}


def test_a_given_pool(node: Node) -> None:
    """A given pool, by name or CIDR, and one of several: the address is of it."""
    add_pool(node.store, "second", "10.2.0.0/24")
    add_pool(node.store, "third", "10.3.0.0/24")
    assert node.add("c1", ipv4_pools=["10.2.0.0/24"])[0].startswith("10.2.")
    assert node.add("c2", ipv4_pools=["third"])[0].startswith("10.3.")
    assert node.add("c3", ipv4_pools=["second", "third"])[0].startswith("10.2.")


def test_a_disabled_pool(node: Node) -> None:
    """A disabled pool is never assigned from: not by itself, not for a family, and not when it is requested."""
    add_pool(node.store, "p4", "10.0.0.0/24", disabled=True)
    assert node.refused()["code"] == NO_ADDRESS
    assert "disabled" in node.refused(ipv4_pools=["p4"])["msg"]
    add_pool(node.store, "q4", "10.1.0.0/24")
    assert all(node.add(f"c{number}")[0].startswith("10.1.") for number in range(3))


@pytest.mark.parametrize("pools", [["not a pool"], ["10.77.0.0/24"], ["p4", "none"], ["p6"]])
def test_an_invalid_pool(node: Node, pools: list[str]) -> None:
    """An invalid pool, as a name and as a CIDR, alone or beside a good one: an error that names it."""
    error = node.refused(ipv4_pools=pools)
    assert error["code"] == INVALID_CONFIG
    assert pools[-1] in error["msg"]


def test_an_explicit_address(node: Node) -> None:
    """An explicit address is given as asked for, to nobody else while it is held, and again after its delete."""
    assert node.add("c1", "IP=10.0.0.77") == ["10.0.0.77"]
    error = node.refused("c2", "IP=10.0.0.77")
    assert error["code"] == ADDRESS_IN_USE
    assert "c1" in error["msg"]
    assert node.call("DEL", "c1") == {}
    assert node.add("c2", "IP=10.0.0.77") == ["10.0.0.77"]
    assert sound(node.store, unfinished=False) == {"10.0.0.77": "c2"}


def test_an_explicit_address_of_a_pool_that_is_not_for_workloads(node: Node) -> None:
    """An explicit address of a pool that disallows workloads is refused, with the reason."""
    add_pool(node.store, "tunnels", "10.5.0.0/24", allowedUses=["Tunnel"])
    assert "allowedUses" in node.refused("c1", "IP=10.5.0.7")["msg"]


def test_delete(node: Node) -> None:
    """DEL with nothing allocated succeeds, before any ADD and again after; it takes away its container's only."""
    assert node.call("DEL") == {}
    node.add("c1", assign_ipv6="true")
    other = node.add("c2")
    for _ in range(2):
        assert node.call("DEL", "c1") == {}
    assert sound(node.store, unfinished=False) == dict.fromkeys(other, "c2")
    assert list(read(node.store).handles) == ["net.c2"]


def test_attributes(node: Node) -> None:
    """An address tells whose it is: node, pod, namespace and time, as Calico stores them."""
    (address,) = node.add("c1", "K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;IgnoreUnknown=1")
    told = read(node.store).addresses[address].owner
    assert (told["node"], told["pod"], told["namespace"]) == ("n1", "web", "shop")
    assert told["timestamp"].endswith(" +0000 UTC")
