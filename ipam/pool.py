"""Pools: which there are, which may be used, what blocks they are cut into, and the default one of a new datastore."""

from __future__ import annotations

import time

from datastore import keys
from datastore.api import Corrupt, Exists, Missing
from datastore.frozen import frozen
from datastore.resources import node_labels_of, pool_of
from ipam.cidr import Cidr, parse_cidr
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from datastore.api import Json, Store
    from datastore.resources import Pool
    from ipam.cidr import Address

DEFAULT_CIDR = "192.168.0.0/16"
FALLBACK_CIDRS = tuple(f"172.{second}.0.0/16" for second in range(16, 32))  # Calico's, where the host uses the default
BLOCK_SIZES = {4: (20, 32), 6: (116, 128)}
DEFAULT_BLOCK_SIZE = {4: 26, 6: 122}
RESERVED = ("169.254.0.0/16", "fe80::/10")
EVERY = "all()"
WORKLOAD = "Workload"
USES = {WORKLOAD: "workloads", "Tunnel": "tunnels", "LoadBalancer": "load balancers"}
MODES = {"": "Never", "off": "Never", "never": "Never", "crosssubnet": "CrossSubnet", "always": "Always"}


def all_pools(store: Store, family: int) -> list[Pool]:
    """Return every pool of the family, in name order. Raises Corrupt."""
    pools = map(pool_of, store.records(keys.IPPOOLS))
    return [sound(pool) for pool in pools if (":" in pool.cidr) == (family == 6)]


def sound(pool: Pool) -> Pool:
    """Return the pool if blocks can be cut from it; raises Corrupt, naming it."""
    try:
        cidr = parse_cidr(pool.cidr)
    except BadRequest as error:
        raise Corrupt(f"pool {pool.name} cannot be used: {error}") from error
    low, high = BLOCK_SIZES[cidr.family]
    if not max(low, cidr.prefix) <= pool.block_size <= high:
        raise Corrupt(f"pool {pool.name} {pool.cidr} cannot be cut into blocks of /{pool.block_size}; correct that")
    return pool


@frozen
class Criteria:
    """What a pool must suit: the node, the pools named per family, the use, and the labels of the pod's namespace.

    namespace None means that the pod is in none that is known: no namespaceSelector matches it.
    """

    node: str
    requested: Mapping[int, Sequence[str]] = {}
    use: str = WORKLOAD
    namespace: Mapping[str, str] | None = None


def usable(store: Store, pools: Sequence[Pool], criteria: Criteria, family: int) -> list[Pool]:
    """Return the pools to assign from: those requested by name or CIDR, else every one that suits (`why_not`).

    Selectors and assignmentMode do not bind a request; allowedUses does (Calico: determinePools). Raises BadRequest
    for a requested pool that is not there or disabled, or when none of them is for the use; Corrupt.
    """
    requested = criteria.requested.get(family, ())
    if not requested:
        return [pool for pool in pools if why_not(store, pool, criteria) is None]
    found = [_requested(pools, wanted, family) for wanted in dict.fromkeys(requested)]
    chosen = [pool for pool in found if refusal_of_use(pool, criteria.use) is None]
    if not chosen:
        names = ", ".join(f'"{pool.name}"' for pool in found)
        raise BadRequest(f"requested pools cannot be used: {names}: {refusal_of_use(found[0], criteria.use)}")
    return chosen


def _requested(pools: Sequence[Pool], wanted: str, family: int) -> Pool:
    cidr = str(parse_cidr(wanted)) if "/" in wanted else ""
    pool = next((pool for pool in pools if wanted == pool.name or cidr == pool.cidr), None)
    if pool is None:
        known = ", ".join(f"{pool.name} {pool.cidr}" for pool in pools) or "none"
        raise BadRequest(f'requested IPv{family} pool "{wanted}" does not exist; IPv{family} pools are: {known}')
    reason = refusal(pool)
    if reason:
        raise BadRequest(f'requested pool "{wanted}" cannot be used: {reason}')
    return pool


def refusal(pool: Pool) -> str | None:
    """Return why nothing at all may be assigned from a pool, or None."""
    return "disabled" if pool.disabled else pool.refusal or None


def refusal_of_use(pool: Pool, use: str) -> str | None:
    """Return why a pool is not for this use, or None (Calico: allowedUses; none means Workload and Tunnel)."""
    if use in (pool.allowed_uses or (WORKLOAD, "Tunnel")):
        return None
    return f"not for {USES.get(use, use)} (allowedUses)"


def why_not(store: Store, pool: Pool, criteria: Criteria) -> str | None:
    """Return why a pool is not used unless a request names it, or None when it is. Raises Corrupt."""
    reason = refusal(pool)
    if reason:
        return reason
    if pool.assignment_mode != "Automatic":
        return f"assignmentMode {pool.assignment_mode}"
    if not selects_node(store, pool, criteria.node):
        return f"nodeSelector {pool.node_selector} does not match node {criteria.node}"
    if pool.namespace_selector and not _matches(pool, pool.namespace_selector, criteria.namespace):
        return f"namespaceSelector {pool.namespace_selector} does not match the pod's namespace"
    return refusal_of_use(pool, criteria.use)


def selects_node(store: Store, pool: Pool, node: str) -> bool:
    """Tell whether a pool's nodeSelector matches a node, whose labels are its Node resource's. Raises Corrupt."""
    if pool.node_selector == EVERY:
        return True
    try:
        labels = node_labels_of(store.get(keys.node(node)))
    except Missing:
        labels = {}
    return _matches(pool, pool.node_selector, labels)


def check_selectors(pool: Pool) -> None:
    """Raise Corrupt, naming the pool, when a selector of it cannot be read."""
    for selector in (pool.node_selector, pool.namespace_selector):
        _matches(pool, selector, {})


def _matches(pool: Pool, selector: str, labels: Mapping[str, str] | None) -> bool:
    from ipam.selector import parse  # most pools have none

    try:
        return labels is not None and parse(selector)(labels)
    except BadRequest as error:
        raise Corrupt(f"pool {pool.name} has a selector that cannot be read: {error}; correct it") from error


def pool_of_address(pools: Iterable[Pool], address: Address) -> Pool | None:
    """Return the pool that an address lies in."""
    return next((pool for pool in pools if address in parse_cidr(pool.cidr)), None)


def seed_default_pools(
    store: Store,
    env: Mapping[str, str],
    families: Iterable[int],
    host_networks: Callable[[], Iterable[str]] = tuple,
) -> list[str]:
    """Create the default pool of each of these families that has no pool; return the names of those created.

    Settings are calico-node's: CALICO_IPV4POOL_CIDR (`none` for no pool) and its companions, NO_DEFAULT_POOLS.
    `host_networks` tells the CIDRs the host has routes to: where the IPv4 default overlaps one, the first free
    172.16-31.0.0/16 is taken. Raises BadRequest naming the bad setting.
    """
    created = []
    for family in families:
        if not seedable(env, family) or all_pools(store, family):
            continue
        resource = default_pool(env, family, host_networks)
        name = resource["metadata"]["name"]
        try:
            store.create(keys.ippool(name), resource)
        except Exists:
            continue  # another process was faster
        created.append(name)
    return created


@frozen
class _Settings:
    """What the environment says of one family's default pool."""

    env: Mapping[str, str]
    family: int

    def text(self, name: str, default: str = "") -> str:
        return self.env.get(self.variable(name)) or default

    def variable(self, name: str) -> str:
        return f"CALICO_IPV{self.family}POOL_{name}"

    def mode(self, name: str) -> str:
        text = self.text(name)
        if text.lower() not in MODES:
            raise BadRequest(f'{self.variable(name)}="{text}": expected Never, CrossSubnet or Always')
        return MODES[text.lower()]

    def truth(self, name: str, default: bool) -> bool:
        text = self.text(name, str(default)).lower()
        if text not in ("true", "false"):
            raise BadRequest(f'{self.variable(name)}="{text}": expected true or false')
        return text == "true"

    def block_size(self) -> int:
        text = self.text("BLOCK_SIZE", str(DEFAULT_BLOCK_SIZE[self.family]))
        low, high = BLOCK_SIZES[self.family]
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise BadRequest(f'{self.variable("BLOCK_SIZE")}="{text}": expected a prefix length from {low} to {high}')
        return int(text)


def seedable(env: Mapping[str, str], family: int) -> bool:
    """Tell whether the environment lets a default pool of the family be made."""
    refused = env.get("NO_DEFAULT_POOLS", "").lower() == "true"
    return not refused and env.get(f"CALICO_IPV{family}POOL_CIDR", "").lower() != "none"


def default_pool(env: Mapping[str, str], family: int, host_networks: Callable[[], Iterable[str]]) -> Json:
    """Return the IPPool resource to create; raises BadRequest."""
    settings = _Settings(env, family)
    cidr, block_size = settings.text("CIDR") or _free_cidr(family, host_networks), settings.block_size()
    validate(cidr, family, block_size, settings.variable("CIDR"))
    ipip, vxlan = settings.mode("IPIP"), settings.mode("VXLAN")
    if ipip != "Never" and (vxlan != "Never" or family == 6):
        raise BadRequest(f'{settings.variable("IPIP")}="{ipip}": cannot be used with VXLAN, nor with IPv6')
    return {
        "kind": "IPPool",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {
            "name": f"default-ipv{family}-ippool",
            "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
        "spec": {
            "cidr": cidr,
            "blockSize": block_size,
            "ipipMode": ipip,
            "vxlanMode": vxlan,
            "natOutgoing": settings.truth("NAT_OUTGOING", family == 4),
            "nodeSelector": settings.text("NODE_SELECTOR", "all()"),
            "disableBGPExport": settings.truth("DISABLE_BGP_EXPORT", False),
            "allowedUses": ["Workload", "Tunnel"],
            "assignmentMode": "Automatic",
        },
    }


def validate(cidr: str, family: int, block_size: int, setting: str) -> None:
    """Raise BadRequest, naming the setting, unless blocks can be cut from this range (Calico: IPPool validation)."""
    import netaddr

    try:
        network = netaddr.IPNetwork(cidr, expand_partial=False)
    except (netaddr.AddrFormatError, ValueError):
        raise BadRequest(f'{setting}="{cidr}" is not a CIDR') from None
    if network.version != family:
        raise BadRequest(f'{setting}="{cidr}" is not an IPv{family} CIDR')
    if str(network.cidr) != cidr:
        raise BadRequest(f'{setting}="{cidr}" has bits set behind its prefix; did you mean {network.cidr}?')
    if network.prefixlen > block_size:
        raise BadRequest(f'{setting}="{cidr}" is smaller than one block (/{block_size})')
    for reserved in map(netaddr.IPNetwork, RESERVED):
        if network.version == reserved.version and (network in reserved or reserved in network):
            raise BadRequest(f'{setting}="{cidr}" overlaps {reserved}, which is reserved for link-local addresses')


def _free_cidr(family: int, host_networks: Callable[[], Iterable[str]]) -> str:
    """Return the default range of the family, out of the way of the host's own networks."""
    if family == 6:
        from secrets import token_bytes

        return str(Cidr(6, int.from_bytes(b"\xfd" + token_bytes(5) + bytes(10), "big"), 48))  # RFC 4193 section 3.2.2
    taken = [parse_cidr(text) for text in host_networks()]
    for candidate in (DEFAULT_CIDR, *FALLBACK_CIDRS):
        if not any(cidr.prefix and parse_cidr(candidate).overlaps(cidr) for cidr in taken):
            return candidate
    raise BadRequest("every default pool range overlaps a network of this host; set CALICO_IPV4POOL_CIDR")
