"""Rtnetlink requests as bytes. Pure; constants are spelled as in the kernel's headers.

pyroute2 is the library for this and is used wherever a process lives long enough, or looks at many objects
(netlink.py). Importing it costs 140 ms, its message classes alone 26, encoding an ADD's messages another 4; these
structs cost under 1. tests/unit/test_rtmsg.py decodes every message here with pyroute2 and compares.
"""

from __future__ import annotations

from struct import Struct, calcsize, pack

from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipam.cidr import Address

# include/uapi/linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLA_F_NESTED = 0x8000
# include/uapi/linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTM_NEWRULE, RTM_DELRULE = 32, 33
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RT_TABLE_MAIN, RT_TABLE_UNSPEC = 254, 0
RTN_UNICAST = 1
RTNH_F_ONLINK = 4
RTPROT_CALICO = 80  # Felix's number for the routes it owns (felix/dataplane/linux/dataplanedefs)
# include/uapi/linux/if_link.h, veth.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_IFALIAS, IFLA_LINKINFO = 1, 3, 4, 5, 20, 18
IFLA_AF_SPEC, IFLA_GROUP = 26, 27
IFLA_INET_CONF = 1
# include/uapi/linux/ip.h: IPV4_DEVCONF_*
FORWARDING, PROXY_ARP, RP_FILTER, ROUTE_LOCALNET = 1, 3, 8, 26
IFLA_NET_NS_FD, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_EXT_MASK = 28, 31, 32, 29
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
RTEXT_FILTER_SKIP_STATS = 8
IFF_UP = 1
# include/uapi/linux/if_addr.h, neighbour.h, fib_rules.h
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_F_NODAD = 1, 2, 8, 0x02
NDA_DST, NDA_LLADDR, NUD_PERMANENT = 1, 2, 0x80
NDTA_NAME, NDTA_PARMS, NDTPA_IFINDEX, NDTPA_PROXY_DELAY = 1, 6, 1, 13
RTM_SETNEIGHTBL, RTM_NEWNETCONF, RTM_GETNETCONF = 67, 80, 82
NETCONFA_IFINDEX, NETCONFA_FORWARDING, NETCONFA_IFINDEX_ALL = 1, 2, -1  # netconf.h
FRA_SRC, FRA_TABLE, FR_ACT_TO_TBL = 2, 15, 1
AF_INET, AF_INET6 = 2, 10

_AF = {4: AF_INET, 6: AF_INET6}
_BITS = {4: 32, 6: 128}
_ATTR = Struct("=HH")
_LINK = Struct("=BxHiII")  # struct ifinfomsg
_ADDR = Struct("=BBBBi")  # struct ifaddrmsg
_ROUTE = Struct("=BBBBBBBBI")  # struct rtmsg; struct fib_rule_hdr has the same shape
_NEIGH = Struct("=BxxxiHBB")  # struct ndmsg
CREATE = NLM_F_CREATE | NLM_F_EXCL
REPLACE = NLM_F_CREATE | NLM_F_REPLACE


@frozen
class Message:
    """One request: its type and flags (NLM_F_REQUEST and _ACK are added when sent), its bytes, and what it is for."""

    type: int
    flags: int
    payload: bytes
    purpose: str


@frozen
class Veth:
    """A pair to be made: the pod's end, and the host's, which is born in the namespace of `host_netns_fd`.

    mtu 0 leaves the kernel's default.
    """

    pod_name: str
    pod_mac: bytes
    host_name: str
    host_mac: bytes
    host_netns_fd: int
    mtu: int
    queues: int


def new_veth(veth: Veth) -> Message:
    """Make the pair, from the pod's namespace; the kernel answers EEXIST when either name is taken.

    The other way round it would tell of the host's end when that has a peer in another namespace already, and look for
    that namespace's number among those of all pods (net/core/net_namespace.c, __peernet2id): 0.25 ms where there are
    10,000.
    """
    both = _u32(IFLA_NUM_TX_QUEUES, veth.queues) + _u32(IFLA_NUM_RX_QUEUES, veth.queues)
    both += _u32(IFLA_MTU, veth.mtu) if veth.mtu else b""
    peer = _LINK.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, veth.host_name) + _attr(IFLA_ADDRESS, veth.host_mac)
    peer += _u32(IFLA_NET_NS_FD, veth.host_netns_fd) + both
    data = _attr(IFLA_INFO_DATA | NLA_F_NESTED, _attr(VETH_INFO_PEER | NLA_F_NESTED, peer))
    info = _attr(IFLA_LINKINFO | NLA_F_NESTED, _text(IFLA_INFO_KIND, "veth") + data)
    pod = _LINK.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, veth.pod_name) + _attr(IFLA_ADDRESS, veth.pod_mac)
    return Message(RTM_NEWLINK, CREATE, pod + both + info, f"create veth {veth.host_name} - {veth.pod_name}")


def set_link(index: int, *, up: bool = False, alias: str = "", mac: bytes = b"") -> Message:
    """Change a link: bring it up, store an alias, set its MAC."""
    flags = IFF_UP if up else 0
    attributes = (_attr(IFLA_IFALIAS, alias.encode()) if alias else b"") + (_attr(IFLA_ADDRESS, mac) if mac else b"")
    return Message(RTM_NEWLINK, 0, _LINK.pack(0, 0, index, flags, flags) + attributes, f"set up link {index}")


def set_ipv4_conf(index: int, values: Mapping[int, int]) -> Message:
    """Set what is below /proc/sys/net/ipv4/conf/<link>, by number (IPV4_DEVCONF_*).

    On a host with thousands of namespaces a path below /proc/sys/net takes milliseconds to look up: each namespace has
    an entry of the same name in the same directory (fs/proc/proc_sysctl.c, proc_sys_compare).
    """
    conf = b"".join(_u32(kind, value) for kind, value in values.items())
    family = _attr(AF_INET | NLA_F_NESTED, _attr(IFLA_INET_CONF | NLA_F_NESTED, conf))
    payload = _LINK.pack(0, 0, index, 0, 0) + _attr(IFLA_AF_SPEC | NLA_F_NESTED, family)
    return Message(RTM_NEWLINK, 0, payload, f"set up IPv4 on link {index}")


def set_proxy_delay(index: int, milliseconds: int) -> Message:
    """Set how long the kernel may wait before it answers an ARP request in a pod's place."""
    parameters = _u32(NDTPA_IFINDEX, index) + _attr(NDTPA_PROXY_DELAY, pack("=Q", milliseconds))
    payload = pack("=BxH", AF_INET, 0) + _text(NDTA_NAME, "arp_cache") + _attr(NDTA_PARMS | NLA_F_NESTED, parameters)
    return Message(RTM_SETNEIGHTBL, 0, payload, f"set the ARP delay of link {index}")


def get_forwarding(family: int) -> Message:
    """Ask whether the namespace forwards packets of the family."""
    payload = pack("=B3x", _AF[family]) + _attr(NETCONFA_IFINDEX, pack("=i", NETCONFA_IFINDEX_ALL))
    return Message(RTM_GETNETCONF, 0, payload, f"look up IPv{family} forwarding")


def get_link(name: str) -> Message:
    """Look a link up by name, without its counters."""
    payload = _LINK.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name) + _u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return Message(RTM_GETLINK, 0, payload, f"look up link {name}")


def delete_link(name: str) -> Message:
    """Delete a link, by name: its index may be another's by now. Of a veth pair both ends go."""
    return Message(RTM_DELLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name), f"delete link {name}")


def group_link(name: str, group: int) -> Message:
    """Put a link into a group."""
    payload = _LINK.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name) + _u32(IFLA_GROUP, group)
    return Message(RTM_NEWLINK, 0, payload, f"put link {name} into group {group}")


def delete_group(group: int) -> Message:
    """Delete all links of a group, with one grace period of the kernel for all of them."""
    payload = _LINK.pack(0, 0, 0, 0, 0) + _u32(IFLA_GROUP, group)
    return Message(RTM_DELLINK, 0, payload, f"delete the links of group {group}")


def add_address(index: int, address: Address, prefix: int, scope: int = RT_SCOPE_UNIVERSE) -> Message:
    """Put an address on a link; an IPv6 one is usable at once, without duplicate address detection."""
    packed = address.packed()
    local = _attr(IFA_LOCAL, packed) if address.family == 4 else _u32(IFA_FLAGS, IFA_F_NODAD)
    payload = _ADDR.pack(_AF[address.family], prefix, 0, scope, index) + _attr(IFA_ADDRESS, packed) + local
    return Message(RTM_NEWADDR, REPLACE, payload, f"add address {address}/{prefix}")


@frozen
class Route:
    """A route: destination (None for the default one), the way there. priority 0 and table 0 leave the kernel's.

    on_link declares the gateway to be on the link, whatever other routes say of it.
    """

    family: int
    index: int
    destination: Address | None = None
    prefix: int = 0
    gateway: Address | None = None
    scope: int = RT_SCOPE_UNIVERSE
    priority: int = 0
    table: int = 0
    on_link: bool = False

    def __str__(self) -> str:
        """Return the route as `ip route` would show it."""
        to = f"{self.destination}/{self.prefix}" if self.destination else "default"
        return f"{to} via {self.gateway}" if self.gateway else to


def add_route(route: Route) -> Message:
    """Add a route; the kernel answers EEXIST when there is one of the same destination, priority and table."""
    table = route.table or RT_TABLE_MAIN
    header = _ROUTE.pack(_AF[route.family], route.prefix, 0, 0, table if table < 256 else RT_TABLE_UNSPEC,
                         RTPROT_CALICO, route.scope, RTN_UNICAST, RTNH_F_ONLINK if route.on_link else 0)
    attributes = _u32(RTA_OIF, route.index) + _u32(RTA_TABLE, table)
    attributes += _attr(RTA_DST, route.destination.packed()) if route.destination else b""
    attributes += _attr(RTA_GATEWAY, route.gateway.packed()) if route.gateway else b""
    attributes += _u32(RTA_PRIORITY, route.priority) if route.priority else b""
    return Message(RTM_NEWROUTE, CREATE, header + attributes, f"add route {route}")


def look_up_route(address: Address) -> Message:
    """Ask where the kernel would send a packet to the address."""
    header = _ROUTE.pack(_AF[address.family], _BITS[address.family], 0, 0, 0, 0, 0, 0, 0)
    return Message(RTM_GETROUTE, 0, header + _attr(RTA_DST, address.packed()), f"look up the route to {address}")


def add_neighbour(index: int, address: Address, mac: bytes) -> Message:
    """Say for good which MAC an address has on a link."""
    header = _NEIGH.pack(_AF[address.family], index, NUD_PERMANENT, 0, 0)
    payload = header + _attr(NDA_DST, address.packed()) + _attr(NDA_LLADDR, mac)
    return Message(RTM_NEWNEIGH, REPLACE, payload, f"add neighbour {address}")


def get_neighbour(index: int, address: Address) -> Message:
    """Look up an address's neighbour entry on a link."""
    header = _NEIGH.pack(_AF[address.family], index, 0, 0, 0)
    return Message(RTM_GETNEIGH, 0, header + _attr(NDA_DST, address.packed()), f"look up neighbour {address}")


def source_rule(kind: int, address: Address, table: int) -> Message:
    """Add or delete (kind) the rule that sends what comes from the address through a table."""
    header = _ROUTE.pack(_AF[address.family], 0, _BITS[address.family], 0, RT_TABLE_UNSPEC, 0, 0, FR_ACT_TO_TBL, 0)
    attributes = _attr(FRA_SRC, address.packed()) + _u32(FRA_TABLE, table)
    flags = CREATE if kind == RTM_NEWRULE else 0
    return Message(kind, flags, header + attributes, f"change rule from {address}")


def dump_addresses(family: int) -> Message:
    """List the family's addresses on all links."""
    return Message(RTM_GETADDR, NLM_F_DUMP, _ADDR.pack(_AF[family], 0, 0, 0, 0), "list addresses")


def dump_routes(family: int) -> Message:
    """List the family's routes in all tables."""
    return Message(RTM_GETROUTE, NLM_F_DUMP, _ROUTE.pack(_AF[family], 0, 0, 0, 0, 0, 0, 0, 0), "list routes")


def attributes(data: bytes, start: int) -> dict[int, bytes]:
    """Return the attributes behind a message's fixed part, by type; of repeated ones the last."""
    found = {}
    while start + _ATTR.size <= len(data):
        length, kind = _ATTR.unpack_from(data, start)
        if length < _ATTR.size:
            break
        found[kind & 0x3FFF] = data[start + _ATTR.size : start + length]
        start += (length + 3) & ~3
    return found


LINK_SIZE, ADDR_SIZE, ROUTE_SIZE, NEIGH_SIZE = calcsize("=BxHiII"), calcsize("=BBBBi"), calcsize("=BBBBBBBBI"), 12


def _attr(kind: int, data: bytes) -> bytes:
    return _ATTR.pack(_ATTR.size + len(data), kind) + data + bytes(-len(data) % 4)


def _u32(kind: int, value: int) -> bytes:
    return _attr(kind, pack("=I", value))


def _text(kind: int, value: str) -> bytes:
    return _attr(kind, value.encode(errors="surrogateescape") + b"\0")
