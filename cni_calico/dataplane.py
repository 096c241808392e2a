"""Wiring one pod, taking the wire away, and looking whether it is as it was made. Calico's layout (felix, cni-plugin):

    pod: eth0 has the address as /32, a route to 169.254.1.1 and the default route through it. Nobody owns that
    address; a permanent neighbour entry gives it the host end's MAC, so it works without ARP (and on a host without
    any default route, where proxy ARP would not answer for it).
    host: cali… has MAC ee:ee:ee:ee:ee:ee, a route and a permanent neighbour entry for the pod's address.

For IPv6 the host end's link-local address takes the place of 169.254.1.1.
"""

from __future__ import annotations

import os
import time
from errno import EEXIST

from cni_calico import netns, rtmsg, sysctl
from cni_calico.config import GATEWAY
from cni_calico.errors import ALREADY_ATTACHED, DRIFT, KERNEL, CniError, reason
from cni_calico.netlink import Socket
from cni_calico.rtmsg import Route, Veth
from cni_calico.world import World
from datastore.frozen import frozen, replace
from datastore.undo import Undo
from ipam.cidr import BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni_calico.args import Attachment
    from cni_calico.netlink import Link, RouteEntry
    from cni_calico.rtmsg import Message
    from ipam.cidr import Address, Cidr

HOST_MAC = bytes.fromhex("ee" * 6)
LINK_LOCAL_PREFIX = 64
FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
# Of the host's end. rp_filter is strict: a pod cannot send from another's address.
IPV4_CONF = {rtmsg.ROUTE_LOCALNET: 1, rtmsg.PROXY_ARP: 1, rtmsg.FORWARDING: 1, rtmsg.RP_FILTER: 1}
ROUTE_PRIORITY = 1024  # Felix: IPv4NormalRoutePriority
MAC_SECONDS, MAC_PAUSE = 5.0, 0.1  # Calico: how long udev may fight for the MAC


@frozen
class Wire:
    """What an attachment is wired with. `routes` are the pod's destinations through the gateway."""

    attachment: Attachment
    addresses: tuple[Address, ...]
    routes: tuple[Cidr, ...]

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions the pod has."""
        return tuple(sorted({address.family for address in self.addresses}))


@frozen
class Make:
    """How a new pair is to be made. mtu 0 leaves the kernel's; forwarding is whether the pod may forward."""

    pod_mac: bytes
    mtu: int
    queues: int
    forwarding: bool


@frozen
class Wired:
    """What came of it: MACs and MTU for the result; source_table is 0 unless other interfaces had the routes first."""

    host_mac: str
    pod_mac: str
    mtu: int
    source_table: int


def random_mac() -> bytes:
    """Return a new locally administered unicast MAC address (IEEE 802 section 8.2.2)."""
    first, *rest = os.urandom(6)
    return bytes([first & 0xFC | 2, *rest])


def refuse_existing(pod: Socket, ifname: str) -> None:
    """Raise CniError 107 when the pod has an interface of this name (rule A2), before anything is touched (A7)."""
    if pod.link(ifname):
        raise CniError(
            ALREADY_ATTACHED,
            f"interface {ifname} is in the pod's namespace already and was left as it is; delete the attachment first",
        )


def open_pod(netns_fd: int) -> Socket:
    """Return a socket that works in the pod's namespace from outside of it."""
    with netns.inside(netns_fd):
        return Socket()


def connect(wire: Wire, make: Make, netns_fd: int, host: Socket, pod: Socket) -> Wired:
    """Wire the pod. What was made before an error is taken away again. Raises CniError."""
    with Undo() as undo:
        undo.push(disconnect, wire.attachment, host, World())  # before it is made: an answer may get lost, too
        inner = _create(wire.attachment, make, host, pod)
        _set_pod_sysctls(wire, make.forwarding, netns_fd, pod)
        source_table = _set_up_pod(wire, inner.index, pod)
        _set_up_host(wire, inner.peer, make.pod_mac, host)
        _hold_mac(wire.attachment.host_ifname, inner.peer, host)
    return Wired(_mac(HOST_MAC), _mac(make.pod_mac), inner.mtu, source_table)


def disconnect(attachment: Attachment, host: Socket, world: World) -> bool:
    """Delete the attachment's veth pair, and so its addresses, routes and neighbours; tell whether it was there."""
    link = host.link(attachment.host_ifname)
    if link is None or (link.alias and link.alias != attachment.alias):
        return False
    refusal = world.delete_link(host, link.name)
    if refusal and host.link(attachment.host_ifname):
        raise refusal.error()
    return True


def forget_source_rules(addresses: tuple[Address, ...], table: int, netns_fd: int) -> None:
    """Remove the rules a second interface has in a pod that lives on; those that are gone are no error."""
    with open_pod(netns_fd) as pod:
        pod.try_all([rtmsg.source_rule(rtmsg.RTM_DELRULE, address, table) for address in addresses])


def _create(attachment: Attachment, make: Make, host: Socket, pod: Socket) -> Link:
    """Make the pair and return the pod's end. A stale one of our name, whose pod is gone or other, is replaced."""
    with netns.own() as home:
        message = rtmsg.new_veth(Veth(attachment.ifname, make.pod_mac, attachment.host_ifname, HOST_MAC, home,
                                      make.mtu, make.queues))
        refusal = pod.try_all([message])[0]
        if refusal and refusal.errno == EEXIST:
            refuse_existing(pod, attachment.ifname)
            if not disconnect(attachment, host, World()):
                raise CniError(KERNEL, f"host interface {attachment.host_ifname} is taken by something else; remove it")
            refusal = pod.try_all([message])[0]
    if refusal:
        raise refusal.error()
    inner = pod.link(attachment.ifname)
    if inner is None:
        raise CniError(KERNEL, f"the pod's interface {attachment.ifname} vanished while it was set up; try again")
    return inner


def host_sysctls(ifname: str, families: tuple[int, ...]) -> Iterator[tuple[str, int, bool]]:
    """Yield what the host's end needs below /proc/sys (Calico: dataplane_linux.go): name, value, whether it must be.

    IPv4's are set by netlink, and proxy_delay with them, without which the first ARP reply may take 0.8 s. Of a pod
    without IPv6 the host's end has none either: routes of thousands of links to the same prefixes slow the kernel.
    """
    if 4 in families:
        for name, kind in (("route_localnet", rtmsg.ROUTE_LOCALNET), ("proxy_arp", rtmsg.PROXY_ARP),
                           ("forwarding", rtmsg.FORWARDING), ("rp_filter", rtmsg.RP_FILTER)):
            yield f"net/ipv4/conf/{ifname}/{name}", IPV4_CONF[kind], True
    if 6 in families:
        conf = f"net/ipv6/conf/{ifname}"
        yield f"{conf}/accept_dad", 0, True
        yield f"{conf}/disable_ipv6", 0, True
        yield f"{conf}/proxy_ndp", 1, True
        yield f"{conf}/forwarding", 1, True
        yield f"{conf}/accept_ra", 0, False


def _set_host_sysctls(ifname: str, families: tuple[int, ...], host: Socket) -> None:
    """Set what netlink cannot. Forwarding is looked up first: writing it anew resets every interface's."""
    _require_ipv6(families)
    for family in families:
        if not host.forwards(family):
            sysctl.write(FORWARDING[family], 1)
    if 6 in families:
        for name, value, needed in host_sysctls(ifname, (6,)):
            (sysctl.write if needed else sysctl.try_write)(name, value)
    else:
        sysctl.try_write(f"net/ipv6/conf/{ifname}/disable_ipv6", 1)


def _require_ipv6(families: tuple[int, ...]) -> None:
    if 6 in families and not os.path.isdir(f"{sysctl.ROOT}net/ipv6"):
        raise CniError(KERNEL, "an IPv6 address was assigned, but this kernel has no IPv6; turn ipam.assign_ipv6 off")


def _set_pod_sysctls(wire: Wire, forwarding: bool, netns_fd: int, pod: Socket) -> None:
    """Set what the pod's namespace needs and has not."""
    wanted = [(FORWARDING[family], int(forwarding)) for family in wire.families if pod.forwards(family) != forwarding]
    if 6 in wire.families:
        ifname = wire.attachment.ifname
        wanted = [(f"net/ipv6/conf/{name}/disable_ipv6", 0) for name in ("all", "default", "lo", ifname)] + wanted
        wanted.append((f"net/ipv6/conf/{ifname}/accept_dad", 0))
    if wanted:
        with netns.inside(netns_fd):
            for name, value in wanted:
                sysctl.write(name, value)


def _set_up_host(wire: Wire, index: int, pod_mac: bytes, host: Socket) -> None:
    """Bring the host's end up, of which the pod's is up: what follows from a carrier the kernel does beside the rest.

    Raises CniError.
    """
    _set_host_sysctls(wire.attachment.host_ifname, wire.families, host)
    messages = _host_messages(wire, index, pod_mac)
    refusals = list(filter(None, host.try_all([*messages, rtmsg.set_proxy_delay(index, 0)])[: len(messages)]))
    if all(refusal.errno == EEXIST for refusal in refusals):
        _refuse_other_ways(wire, index, host)  # it can say more of a route that is there already
    if refusals:
        raise refusals[0].error()


def _host_messages(wire: Wire, index: int, pod_mac: bytes) -> list[Message]:
    """Return the requests that set the host's end up; what is set before that the kernel tells nobody of."""
    messages = [rtmsg.set_ipv4_conf(index, IPV4_CONF)] if 4 in wire.families else []
    messages += [rtmsg.set_link(index, alias=wire.attachment.alias), rtmsg.set_link(index, up=True)]
    if 6 in wire.families:
        # Said outright, because where addr_gen_mode is not EUI-64 the kernel would choose another.
        messages.append(rtmsg.add_address(index, GATEWAY[6], LINK_LOCAL_PREFIX, rtmsg.RT_SCOPE_LINK))
    for address in wire.addresses:
        messages.append(rtmsg.add_route(host_route(index, address)))
        messages.append(rtmsg.add_neighbour(index, address, pod_mac))
    return messages


def host_route(index: int, address: Address) -> Route:
    """Return the host's route to a pod's address."""
    scope = rtmsg.RT_SCOPE_LINK if address.family == 4 else rtmsg.RT_SCOPE_UNIVERSE
    return Route(address.family, index, address, BITS[address.family], scope=scope, priority=ROUTE_PRIORITY)


def _refuse_other_ways(wire: Wire, index: int, host: Socket) -> None:
    """Raise CniError when packets to the pod would still go elsewhere: a stale or foreign route wins over ours."""
    for address in wire.addresses:
        way = host.route_index(address)
        if way != index:
            raise CniError(KERNEL, f"the host has another way to {address}: {_way(way)}; remove that, or take the "
                                   "address out of the pool")


def _way(index: int) -> str:
    import _socket

    try:
        name = _socket.if_indextoname(index) if index else ""
    except OSError:
        name = str(index)
    if not name:
        return "a route that leads nowhere (unreachable, blackhole or prohibit)"
    return "an address of the host itself has it" if name == "lo" else f"a route by interface {name}"


def pod_routes(wire: Wire, index: int, table: int = 0) -> list[Route]:
    """Return the pod's routes: for each family the gateway on the link, then each destination through it."""
    routes = []
    for family in wire.families:
        if family == 4:
            routes.append(Route(4, index, GATEWAY[4], 32, scope=rtmsg.RT_SCOPE_LINK, table=table))
        for to in wire.routes:
            if to.family == family:
                first = to.address(0) if to.prefix else None
                routes.append(Route(family, index, first, to.prefix, GATEWAY[family], table=table))
    return routes


def _set_up_pod(wire: Wire, index: int, pod: Socket) -> int:
    """Bring the pod's end up with addresses, neighbours and routes; return the table of its own that it needed, or 0.

    A route that is there already belongs to another of the pod's interfaces (rule A9). It stays, and what comes from
    this interface's addresses goes through a table of its own: else its answers would leave by the other interface,
    where the host's strict reverse path filter drops them. Routes that only miss the way to the gateway, which is then
    by the other interface, are added with the gateway declared to be on this link.
    """
    messages = [rtmsg.set_link(index, up=True)]
    messages += [rtmsg.add_address(index, address, BITS[address.family]) for address in wire.addresses]
    messages += [rtmsg.add_neighbour(index, GATEWAY[family], HOST_MAC) for family in wire.families]
    pod.do_all(messages)
    routes = pod_routes(wire, index)
    refusals = list(filter(None, pod.try_all(list(map(rtmsg.add_route, routes)))))
    if not refusals:
        return 0
    if refusals[0].errno != EEXIST:
        raise refusals[0].error()
    pod.try_all([rtmsg.add_route(replace(route, on_link=True)) for route in routes if route.gateway])
    table = source_table(index)
    pod.do_all([rtmsg.add_route(route) for route in pod_routes(wire, index, table)]
               + [rtmsg.source_rule(rtmsg.RTM_NEWRULE, address, table) for address in wire.addresses])
    return table


def source_table(index: int) -> int:
    """Return the routing table of the pod's interface of this index; above the kernel's own (253-255)."""
    return 0x10000 + index


def _hold_mac(name: str, index: int, host: Socket) -> None:
    """Make sure the host end has its MAC: systemd-udevd may set another one just after a link appears."""
    deadline = time.monotonic() + MAC_SECONDS
    while (now := host.mac(name)) != HOST_MAC:
        if now is None:
            raise CniError(KERNEL, f"host interface {name} vanished while it was set up; try again")
        if time.monotonic() > deadline:
            raise CniError(KERNEL, f"host interface {name} does not keep its MAC {_mac(HOST_MAC)}; "
                                   "another program changes it (systemd-udevd: MACAddressPolicy)")
        host.do_all([rtmsg.set_link(index, mac=HOST_MAC)])
        time.sleep(MAC_PAUSE)


def verify(wire: Wire, host: Socket, pod: Socket) -> None:
    """Compare the kernel with the wire; what others added does not matter. Raises CniError 105 for the first drift."""
    attachment = wire.attachment
    inner, outer = pod.link(attachment.ifname), host.link(attachment.host_ifname)
    if inner is None:
        raise _drift(f"interface {attachment.ifname} is gone from the pod")
    if outer is None:
        raise _drift(f"host interface {attachment.host_ifname} is gone")
    _expect(inner.kind == "veth" and inner.index == outer.peer,
            f"interface {attachment.ifname} of the pod is not the other end of {outer.name}")
    _expect(inner.up, f"interface {attachment.ifname} of the pod is down")
    _expect(outer.up, f"host interface {outer.name} is down")
    _expect(outer.mac == HOST_MAC, f"host interface {outer.name} has MAC {_mac(outer.mac)}, not {_mac(HOST_MAC)}")
    _verify_pod(wire, inner, pod)
    _verify_host(wire, outer, inner.mac, host)


def _verify_pod(wire: Wire, inner: Link, pod: Socket) -> None:
    for family in wire.families:
        present = pod.addresses(family, inner.index)
        for address in wire.addresses:
            _expect(address.family != family or address in present, f"address {address} is gone from {inner.name}")
        _expect(bool(pod.neighbour(inner.index, GATEWAY[family])),
                f"the pod's neighbour entry for the gateway {GATEWAY[family]} is gone")
        main = {_key(route) for route in pod.routes(family, inner.index)}
        own = pod_routes(wire, inner.index), pod_routes(wire, inner.index, source_table(inner.index))
        for route, other in zip(*own, strict=True):
            if route.family == family:
                _expect(_key(route) in main or _key(other) in main,
                        f"the pod's route {route} on {inner.name} is gone")


def _key(route: Route | RouteEntry) -> tuple[object, ...]:
    """Return what tells one route from another, of a wanted route or of one in the kernel's table."""
    return route.destination, route.prefix, route.gateway, route.table or rtmsg.RT_TABLE_MAIN


def _verify_host(wire: Wire, outer: Link, pod_mac: bytes, host: Socket) -> None:
    for address in wire.addresses:
        _expect(host.route_index(address) == outer.index, f"the host's route to {address} by {outer.name} is gone")
        _expect(host.neighbour(outer.index, address) == pod_mac,
                f"the host's neighbour entry for {address} on {outer.name} is gone, or another plugin changed the "
                "pod's MAC (ask for a MAC with runtimeConfig.mac or CNI_ARGS MAC instead)")
    for name, value, needed in host_sysctls(outer.name, wire.families):
        try:
            actual = sysctl.read(name) if needed else str(value)
        except OSError as error:
            actual = reason(error)
        _expect(actual == str(value), f"sysctl {name.replace('/', '.')} of the host is {actual}, not {value}")


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise _drift(otherwise)


def _drift(what: str) -> CniError:
    return CniError(DRIFT, f"{what}; delete and add the attachment to repair it")


def _mac(mac: bytes) -> str:
    return mac.hex(":")
