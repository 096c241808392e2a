"""What Calico demands of an IPPool (libcalico-go lib/clientv3/ippool.go; the rules in the type's own description)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calicoctl.resources.findings import finding, is_network, refuse
from datastore import keys
from ipam import selector
from ipam.errors import BadRequest
from ipam.pool import BLOCK_SIZES, DEFAULT_BLOCK_SIZE, RESERVED, all_pools

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from datastore.api import Json, Store

MODES = ("Never", "Always", "CrossSubnet")
ASSIGNMENT_MODES = ("Automatic", "Manual")
WORKLOAD, TUNNEL, LOAD_BALANCER = "Workload", "Tunnel", "LoadBalancer"
DEFAULTS: Json = {"ipipMode": "Never", "vxlanMode": "Never", "natOutgoing": False, "disabled": False,
                  "disableBGPExport": False, "nodeSelector": "all()", "allowedUses": [WORKLOAD, TUNNEL],
                  "assignmentMode": "Automatic"}


def pool_spec(spec: Json) -> Json:
    """Return a pool's spec with Calico's defaults; an empty value counts as none. Raises BadRequest for a bad CIDR."""
    given = {name: value for name, value in spec.items() if value or value is False}
    network = _network(given.get("cidr") or "")
    size = {"blockSize": DEFAULT_BLOCK_SIZE[network.version]}
    normal = {"cidr": str(network)}  # as people write it, but IPv6 in its usual notation
    return {**normal, **size, **DEFAULTS, **given, **normal}


def pool_findings(name: str, spec: Json, stored: Json | None, store: Store) -> Iterator[str]:
    """Yield what is wrong with a pool's spec, which has its defaults; stored is None when it is to be created.

    Raises Corrupt.
    """
    network = _network(spec["cidr"])
    yield from _cidr_findings(network)
    yield from _block_size_findings(spec["blockSize"], network)
    yield from _mode_findings(spec, network.version)
    yield from _selector_findings(spec)
    yield from _use_findings(spec)
    if stored is None:
        yield from _neighbour_findings(name, spec, store)
    else:
        yield from _change_findings(spec, stored)


def _network(text: str) -> Any:
    """Return the netaddr network in the text, which must have a prefix length; raises BadRequest."""
    import netaddr

    if not is_network(text) or "/" not in text:
        refuse([finding("spec.cidr", text, "expected a CIDR such as 10.244.0.0/16")])
    return netaddr.IPNetwork(text)


def _cidr_findings(network: Any) -> Iterator[str]:
    import netaddr

    if network.ip != network.network:
        yield finding("spec.cidr", network, f"has bits set behind its prefix; did you mean {network.cidr}?")
    for reserved in map(netaddr.IPNetwork, RESERVED):
        if network in reserved or reserved in network:
            yield finding("spec.cidr", network, f"overlaps the link-local range {reserved}")


def _block_size_findings(size: int, network: Any) -> Iterator[str]:
    """Yield what is wrong with the size of blocks. Calico lets a disabled pool be too small; the allocator does not."""
    low, high = BLOCK_SIZES[network.version]
    if not low <= size <= high:
        yield finding("spec.blockSize", size, f"expected {low} to {high} for IPv{network.version}")
    elif network.prefixlen > size:
        yield finding("spec.cidr", network, f"is smaller than one block (/{size})")


def _mode_findings(spec: Json, family: int) -> Iterator[str]:
    for field in ("ipipMode", "vxlanMode"):
        if spec[field] not in MODES:
            yield finding(f"spec.{field}", spec[field], f"expected one of {', '.join(MODES)}")
    if spec["ipipMode"] != "Never" and spec["vxlanMode"] != "Never":
        yield finding("spec.vxlanMode", spec["vxlanMode"], "a pool has IPIP or VXLAN, not both")
    if spec["ipipMode"] != "Never" and family == 6:
        yield finding("spec.ipipMode", spec["ipipMode"], "there is no IPIP for IPv6")
    if spec["assignmentMode"] not in ASSIGNMENT_MODES:
        yield finding("spec.assignmentMode", spec["assignmentMode"], f"expected {' or '.join(ASSIGNMENT_MODES)}")


def _selector_findings(spec: Json) -> Iterator[str]:
    for field in ("nodeSelector", "namespaceSelector"):
        try:
            selector.parse(spec.get(field, ""))
        except BadRequest as error:
            yield finding(f"spec.{field}", spec[field], str(error))
    if "global(" in spec["nodeSelector"]:
        yield finding("spec.nodeSelector", spec["nodeSelector"], "global() bears on namespaces, not on nodes")
    if spec.get("namespaceSelector") and TUNNEL in spec["allowedUses"]:
        yield finding("spec.namespaceSelector", spec["namespaceSelector"],
                      "a tunnel has no namespace: take Tunnel out of allowedUses")


def _use_findings(spec: Json) -> Iterator[str]:
    uses = spec["allowedUses"]
    for use in uses:
        if use not in (WORKLOAD, TUNNEL, LOAD_BALANCER):
            yield finding("spec.allowedUses", use, f"expected {WORKLOAD}, {TUNNEL} or {LOAD_BALANCER}")
    if LOAD_BALANCER not in uses:
        return
    if set(uses) != {LOAD_BALANCER}:
        yield finding("spec.allowedUses", ", ".join(uses), f"{LOAD_BALANCER} excludes other uses")
    for field, wanted in (("ipipMode", "Never"), ("vxlanMode", "Never"), ("nodeSelector", "all()"),
                          ("disableBGPExport", False)):
        if spec.get(field, wanted) != wanted:
            yield finding(f"spec.{field}", spec[field], f"expected {wanted} in a pool for {LOAD_BALANCER}")


def _change_findings(spec: Json, stored: Json) -> Iterator[str]:
    if _network(spec["cidr"]) != _network(stored["cidr"]):
        yield finding("spec.cidr", spec["cidr"], f"cannot be changed; it is {stored['cidr']}")
    if spec["blockSize"] != stored["blockSize"]:
        yield finding("spec.blockSize", spec["blockSize"], f"cannot be changed; it is {stored['blockSize']}")
    if LOAD_BALANCER in stored["allowedUses"] and set(spec["allowedUses"]) != {LOAD_BALANCER}:
        yield finding("spec.allowedUses", ", ".join(spec["allowedUses"]), f"a pool for {LOAD_BALANCER} stays one")


def _neighbour_findings(name: str, spec: Json, store: Store) -> Iterator[str]:
    """Yield which pools a new one overlaps, and which blocks it would cut in two or join."""
    import netaddr

    network = netaddr.IPNetwork(spec["cidr"])
    for pool in all_pools(store, network.version):
        if pool.name != name and _overlap(network, _network(pool.cidr)):
            yield finding("spec.cidr", network, f"overlaps pool {pool.name}, {pool.cidr}")
    for block in map(netaddr.IPNetwork, map(keys.block_cidr, store.keys(keys.blocks(network.version)))):
        if block.prefixlen != spec["blockSize"] and (block in network or network in block):
            yield finding("spec.blockSize", spec["blockSize"], f"there is a block of another size, {block}")
            return


def overlaps(pool: Json, others: Iterable[Json]) -> Iterator[str]:
    """Yield which other pools, that are not stored, a pool overlaps. All have a sound CIDR."""
    name, network = pool["metadata"]["name"], _network(pool["spec"]["cidr"])
    for other in others:
        theirs = _network(other["spec"]["cidr"])
        if other["metadata"]["name"] != name and _overlap(network, theirs):
            yield finding("spec.cidr", network, f"overlaps pool {other['metadata']['name']}, {theirs}")


def _overlap(one: Any, other: Any) -> bool:
    return one in other or other in one
