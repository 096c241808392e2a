"""The default pools of a new datastore, and the blocks a pool is cut into."""

from __future__ import annotations

from itertools import pairwise

import pytest

from datastore import keys
from datastore.memory import MemoryStore
from datastore.resources import Pool
from ipam.errors import BadRequest
from ipam.pool import all_pools, seed_default_pools
from ipam.walk import block_count, blocks_from, fnv1, start_of


def seeded(env: dict[str, str], families: tuple[int, ...] = (4,), networks: tuple[str, ...] = ()) -> dict[str, Pool]:
    store = MemoryStore()
    names = seed_default_pools(store, env, families, lambda: networks)
    pools = {pool.name: pool for family in (4, 6) for pool in all_pools(store, family)}
    assert sorted(names) == sorted(pools)
    return pools


def test_defaults() -> None:
    """Without settings there is Calico's IPv4 pool; an IPv6 one, with a random unique local range, when asked for."""
    pools = seeded({}, (4, 6))
    assert (pools["default-ipv4-ippool"].cidr, pools["default-ipv4-ippool"].block_size) == ("192.168.0.0/16", 26)
    v6 = pools["default-ipv6-ippool"]
    assert v6.cidr.startswith("fd")
    assert (v6.cidr.endswith("::/48"), v6.block_size) == (True, 122)
    assert set(seeded({})) == {"default-ipv4-ippool"}


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (("192.168.1.0/24",), "172.16.0.0/16"),
        (("192.168.0.0/16", "172.16.0.0/12"), None),
        (("0.0.0.0/0", "10.0.0.0/8"), "192.168.0.0/16"),
        (("192.0.0.0/8", "172.16.5.0/24", "172.17.0.0/16"), "172.18.0.0/16"),
    ],
)
def test_out_of_the_host_s_way(networks: tuple[str, ...], expected: str | None) -> None:
    """The default range is not one the host has a route to: pods would shadow the LAN's addresses."""
    if expected is None:
        with pytest.raises(BadRequest, match="CALICO_IPV4POOL_CIDR"):
            seeded({}, networks=networks)
    else:
        assert seeded({}, networks=networks)["default-ipv4-ippool"].cidr == expected


def test_settings() -> None:
    """Each setting of the environment reaches the IPPool resource, in Calico's words."""
    store = MemoryStore()
    seed_default_pools(store, {
        "CALICO_IPV4POOL_CIDR": "10.1.0.0/16", "CALICO_IPV4POOL_BLOCK_SIZE": "28",
        "CALICO_IPV4POOL_IPIP": "CrossSubnet", "CALICO_IPV4POOL_VXLAN": "off", "CALICO_IPV4POOL_NAT_OUTGOING": "false",
        "CALICO_IPV4POOL_NODE_SELECTOR": "all()", "CALICO_IPV4POOL_DISABLE_BGP_EXPORT": "true",
        "CALICO_IPV6POOL_CIDR": "fd00:1::/64",
    }, (4, 6))
    value = store.get(keys.ippool("default-ipv4-ippool")).value
    assert (value["kind"], value["apiVersion"]) == ("IPPool", "projectcalico.org/v3")
    assert value["spec"] == {
        "cidr": "10.1.0.0/16", "blockSize": 28, "ipipMode": "CrossSubnet", "vxlanMode": "Never", "natOutgoing": False,
        "nodeSelector": "all()", "disableBGPExport": True, "allowedUses": ["Workload", "Tunnel"],
        "assignmentMode": "Automatic",
    }
    assert store.get(keys.ippool("default-ipv6-ippool")).value["spec"]["natOutgoing"] is False


@pytest.mark.parametrize("env", [{"NO_DEFAULT_POOLS": "true"}, {"CALICO_IPV4POOL_CIDR": "none"}])
def test_no_pool(env: dict[str, str]) -> None:
    """The environment may ask for no default pool."""
    assert seeded(env) == {}


def test_an_existing_pool_stays() -> None:
    """A family that has a pool, by whatever name, gets no default one."""
    store = MemoryStore()
    store.create(keys.ippool("mine"), {"metadata": {"name": "mine"}, "spec": {"cidr": "10.0.0.0/24"}})
    assert seed_default_pools(store, {"CALICO_IPV6POOL_CIDR": "fd00::/64"}, (4, 6)) == ["default-ipv6-ippool"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CALICO_IPV4POOL_CIDR", "10.0.0.0"),
        ("CALICO_IPV4POOL_CIDR", "10.0.0.1/24"),
        ("CALICO_IPV4POOL_CIDR", "x"),
        ("CALICO_IPV4POOL_CIDR", "10/8"),
        ("CALICO_IPV4POOL_CIDR", "fd00::/64"),
        ("CALICO_IPV4POOL_CIDR", "10.0.0.0/27"),
        ("CALICO_IPV4POOL_CIDR", "169.254.0.0/17"),
        ("CALICO_IPV4POOL_CIDR", "0.0.0.0/0"),
        ("CALICO_IPV6POOL_CIDR", "fe80::/64"),
        ("CALICO_IPV6POOL_CIDR", "fd00::/123"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "19"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "33"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "x"),
        ("CALICO_IPV4POOL_IPIP", "sometimes"),
        ("CALICO_IPV4POOL_NAT_OUTGOING", "perhaps"),
    ],
)
def test_bad_settings_are_named(name: str, value: str) -> None:
    """A bad setting is refused, naming variable and value."""
    with pytest.raises(BadRequest) as caught:
        seeded({name: value}, (4, 6))
    assert name in str(caught.value)
    assert value in str(caught.value)


def test_encapsulations_exclude_each_other() -> None:
    """IPIP and VXLAN cannot both be on."""
    with pytest.raises(BadRequest, match="VXLAN"):
        seeded({"CALICO_IPV4POOL_IPIP": "Always", "CALICO_IPV4POOL_VXLAN": "Always"})


def test_blocks_of_a_pool() -> None:
    """A node walks all blocks of a pool once, from a start of its own, which stays the same."""
    pool = Pool("p", "10.0.0.0/24", 26)
    inside = {f"10.0.0.{n}/26" for n in (0, 64, 128, 192)}
    walks = [[str(block) for block in blocks_from(pool, f"node-{n}")] for n in range(40)]
    assert all(set(walk) == inside and len(walk) == 4 for walk in walks)
    assert {walk[0] for walk in walks} == inside
    assert walks[0] == [str(block) for block in blocks_from(pool, "node-0")]
    assert block_count(pool) == 4
    assert block_count(Pool("p", "fd00::/64", 122)) == 2**58


def test_nodes_with_like_names_begin_far_apart() -> None:
    """Of a hundred numbered nodes hardly two begin within ten blocks of each other in a large pool."""
    starts = sorted(start_of(f"node-{n}", 2**14) for n in range(100))
    assert sum(second - first < 10 for first, second in pairwise(starts)) < 15


@pytest.mark.parametrize(("text", "value"), [("", 0x811C9DC5), ("a", 0x050C5D7E), ("foobar", 0x31F0B262)])
def test_fnv(text: str, value: int) -> None:
    """The hash is FNV-1 (its published test vectors)."""
    assert fnv1(text.encode()) == value
