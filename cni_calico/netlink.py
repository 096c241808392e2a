"""The door to rtnetlink: every request to the kernel's routing tables and links goes through here.

One socket serves one namespace, the one it was opened in; requests are sent as one batch and each gets its own answer.
"""

from __future__ import annotations

import _socket  # `socket` adds 3-7 ms of enums and selectors that a netlink socket does not need
import fcntl
import os
from errno import EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, ENODEV, ENOENT, ESRCH
from struct import Struct, pack, unpack_from

from cni_calico import rtmsg
from cni_calico.errors import KERNEL, CniError, reason
from cni_calico.rtmsg import attributes
from datastore.frozen import frozen
from ipam.cidr import Address, parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeVar

    from cni_calico.rtmsg import Message

    T = TypeVar("T")

NETLINK_ROUTE = 0
SOL_NETLINK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 11, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_DUMP_INTR, NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x10, 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
HEADER = Struct("=IHHII")  # struct nlmsghdr
RECEIVE_BYTES = 1 << 14  # the kernel fits a listing to it; single answers are far shorter (netlink_dump)
NETCONF_SIZE = 4  # struct netconfmsg, padded
SIOCGIFHWADDR, IFREQ, IFREQ_MAC = 0x8927, Struct("=16s24x"), slice(18, 24)  # sockios.h; struct ifreq (if.h)
SECONDS = 30  # no request of ours takes the kernel longer unless it is stuck
# What a route look-up is refused with: no route, or one of type unreachable, blackhole, prohibit (fib_props).
NO_WAY = (ENETUNREACH, ESRCH, EHOSTUNREACH, EINVAL, EACCES)
GROUPS = 0x63610000  # the link groups that we make for a moment: numbers that nobody else chooses
DUMP_ATTEMPTS = 5  # as the reference plugins' netlinksafe


@frozen
class Refusal:
    """The kernel's no to one request: errno, what the request was for, and its own words if any (extended ack)."""

    errno: int
    purpose: str
    words: str

    def error(self) -> CniError:
        """Return the refusal as the error a verb fails with."""
        words = f" ({self.words})" if self.words else ""
        return CniError(KERNEL, f"the kernel refused to {self.purpose}: {os.strerror(self.errno)}{words}")


@frozen
class Link:
    """A link as the kernel describes it; peer is the other end's index (in its own namespace), 0 when there is none."""

    index: int
    name: str
    up: bool
    mac: bytes
    mtu: int
    kind: str
    alias: str
    peer: int


@frozen
class RouteEntry:
    """A route in a table."""

    destination: Address | None
    prefix: int
    gateway: Address | None
    index: int
    table: int


class Socket:
    """A netlink socket in the namespace the thread is in when it is made. A context manager."""

    def __init__(self) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        for way in (_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO):  # settimeout would poll before each call
            self._socket.setsockopt(_socket.SOL_SOCKET, way, pack("=qq", SECONDS, 0))
        self._sequence = 0

    def __enter__(self) -> Socket:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket."""
        self._socket.close()

    def try_all(self, messages: Sequence[Message]) -> list[Refusal | None]:
        """Send a batch, carried out in order and to its end; return for each request None or the kernel's refusal."""
        if not messages:
            return []
        refusals: dict[int, Refusal | None] = {}
        numbers = self._send(messages, rtmsg.NLM_F_ACK)  # only the last is acknowledged; refusals come anyway
        while numbers[-1] not in refusals:
            for kind, number, flags, body in self._receive():
                if kind == NLMSG_ERROR and number in numbers:
                    refusals[number] = _refusal(messages[number - numbers[0]], flags, body)
        return [refusals.get(number) for number in numbers]

    def do_all(self, messages: Sequence[Message]) -> None:
        """Send a batch; raises CniError with the first refusal."""
        for refusal in self.try_all(messages):
            if refusal:
                raise refusal.error()

    def delete_links(self, names: Sequence[str]) -> list[Refusal | None]:
        """Delete links; return for each None or the kernel's refusal. Several go as one group, in the time of one."""
        if len(names) == 1:
            return self.try_all([rtmsg.delete_link(names[0])])
        group = GROUPS | int.from_bytes(os.urandom(2), "big")
        grouped = self.try_all([rtmsg.group_link(name, group) for name in names])
        refusal = self.try_all([rtmsg.delete_group(group)])[0]
        return [missing or refusal for missing in grouped]

    def link(self, name: str) -> Link | None:
        """Return the link of this name, or None."""
        found = self._ask(rtmsg.get_link(name), rtmsg.RTM_NEWLINK)
        return _link(found) if found else None

    def mac(self, name: str) -> bytes | None:
        """Return the MAC of the Ethernet link of this name, or None. Raises CniError.

        On a host with thousands of pods this is much quicker than `link`: the kernel does not describe the peer.
        """
        try:
            return fcntl.ioctl(self._socket.fileno(), SIOCGIFHWADDR, IFREQ.pack(name.encode()))[IFREQ_MAC]
        except OSError as error:
            if error.errno == ENODEV:
                return None
            raise CniError(KERNEL, f"the kernel refused to look up the MAC of {name}", reason(error)) from error

    def forwards(self, family: int) -> bool:
        """Tell whether the namespace forwards packets of the family: net.ipv4.ip_forward, or its IPv6 like."""
        found = self._ask(rtmsg.get_forwarding(family), rtmsg.RTM_NEWNETCONF)
        return bool(found) and bool(_u32(attributes(found or b"", NETCONF_SIZE), rtmsg.NETCONFA_FORWARDING))

    def route_index(self, address: Address) -> int:
        """Return the index of the link a packet to the address would leave by, 0 when it would not leave at all."""
        found = self._ask(rtmsg.look_up_route(address), rtmsg.RTM_NEWROUTE, NO_WAY)
        return _u32(attributes(found, rtmsg.ROUTE_SIZE), rtmsg.RTA_OIF) if found else 0

    def neighbour(self, index: int, address: Address) -> bytes:
        """Return the MAC an address has on a link, empty when it has none."""
        found = self._ask(rtmsg.get_neighbour(index, address), rtmsg.RTM_NEWNEIGH)
        return attributes(found, rtmsg.NEIGH_SIZE).get(rtmsg.NDA_LLADDR, b"") if found else b""

    def addresses(self, family: int, index: int) -> set[Address]:
        """Return a link's addresses."""
        found = set()
        for body in self._dump(rtmsg.dump_addresses(family), rtmsg.RTM_NEWADDR):
            held = attributes(body, rtmsg.ADDR_SIZE)
            packed = held.get(rtmsg.IFA_LOCAL) or held.get(rtmsg.IFA_ADDRESS)
            if unpack_from("=i", body, 4)[0] == index and packed:
                found.add(_address(packed))
        return found

    def routes(self, family: int, index: int) -> list[RouteEntry]:
        """Return the routes that leave by a link."""
        found = (_route(body) for body in self._dump(rtmsg.dump_routes(family), rtmsg.RTM_NEWROUTE))
        return [route for route in found if route.index == index]

    def _ask(self, message: Message, kind: int, absent: tuple[int, ...] = (ENODEV, ENOENT)) -> bytes | None:
        """Return the answer to a look-up, or None when the kernel has no such thing."""
        number = self._send([message])[0]
        while True:
            for got, answered, flags, body in self._receive():
                if answered == number and got == kind:
                    return body
                if answered == number and got == NLMSG_ERROR:
                    refusal = _refusal(message, flags, body)
                    if refusal and refusal.errno not in absent:
                        raise refusal.error()
                    return None

    def _dump(self, message: Message, kind: int) -> list[bytes]:
        """Return a listing; one interrupted by changes is made again, and in the end taken as it is (rule R16)."""
        bodies: list[bytes] = []
        for _ in range(DUMP_ATTEMPTS):
            bodies, whole = self._dump_once(message, kind)
            if whole:
                break
        return bodies

    def _dump_once(self, message: Message, kind: int) -> tuple[list[bytes], bool]:
        number = self._send([message])[0]
        bodies, whole = [], True
        while True:
            for got, answered, flags, body in self._receive():
                if answered != number:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if got == kind:
                    bodies.append(body)
                elif got == NLMSG_ERROR and (refusal := _refusal(message, flags, body)):
                    raise refusal.error()
                elif got == NLMSG_DONE:
                    return bodies, whole

    def _send(self, messages: Sequence[Message], last: int = 0) -> range:
        """Send a batch, its last message with a flag of its own; return the sequence numbers of its requests."""
        first = self._sequence + 1
        self._sequence += len(messages)
        numbers = range(first, self._sequence + 1)
        data = b"".join(
            HEADER.pack(HEADER.size + len(message.payload), message.type,
                        rtmsg.NLM_F_REQUEST | message.flags | (last if number == self._sequence else 0), number, 0)
            + message.payload
            for number, message in zip(numbers, messages, strict=True)
        )
        try:
            self._socket.send(data)
        except OSError as error:
            raise CniError(KERNEL, "the kernel does not take netlink requests", str(error)) from error
        return numbers

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield the messages of one datagram: type, sequence number, flags, body."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError as error:
            raise CniError(KERNEL, f"the kernel gave no netlink answer within {SECONDS} s") from error
        except OSError as error:
            raise CniError(KERNEL, "the kernel's netlink answer cannot be read", str(error)) from error
        at = 0
        while at + HEADER.size <= len(data):
            length, kind, flags, number, _ = HEADER.unpack_from(data, at)
            yield kind, number, flags, data[at + HEADER.size : at + length]
            at += (length + 3) & ~3


@frozen
class HostLink:
    """A link of this namespace, its alias if it has one, and the single addresses that are routed to it."""

    name: str
    alias: str
    addresses: tuple[Address, ...]


def host_links() -> list[HostLink]:
    """Return every link of this namespace with the addresses routed to it.

    With pyroute2: this is for GC and audits, which look at all links, not for the per-pod path.
    """
    from pyroute2 import IPRoute

    with IPRoute() as kernel:
        links = _calmly(lambda: list(kernel.get_links()))
        routes = _calmly(lambda: list(kernel.get_routes(table=rtmsg.RT_TABLE_MAIN)))
    routed: dict[int, list[Address]] = {}
    for route in routes:
        if route.get_attr("RTA_DST") and route["dst_len"] == (32 if route["family"] == rtmsg.AF_INET else 128):
            routed.setdefault(route.get_attr("RTA_OIF"), []).append(parse_address(route.get_attr("RTA_DST")))
    return [HostLink(link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_IFALIAS") or "",
                     tuple(routed.get(link["index"], ()))) for link in links]


def host_networks() -> Iterable[str]:
    """Return the CIDRs this namespace has IPv4 routes to, the default route left out; with pyroute2, as `aliases`."""
    from pyroute2 import IPRoute

    with IPRoute() as kernel:
        routes = _calmly(lambda: list(kernel.get_routes(family=rtmsg.AF_INET, table=rtmsg.RT_TABLE_MAIN)))
    return [f"{route.get_attr('RTA_DST')}/{route['dst_len']}" for route in routes if route.get_attr("RTA_DST")]


def _calmly(dump: Callable[[], T]) -> T:
    """Make a dump again when changes interrupt it, a few times (rule R16)."""
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

    for _ in range(DUMP_ATTEMPTS - 1):
        try:
            return dump()
        except NetlinkDumpInterrupted:
            continue
    return dump()


def _refusal(message: Message, flags: int, body: bytes) -> Refusal | None:
    """Return what an NLMSG_ERROR answer says, None when it is an acknowledgement."""
    errno = -unpack_from("=i", body)[0]
    if not errno:
        return None
    echoed = HEADER.size if flags & NLM_F_CAPPED else unpack_from("=I", body, 4)[0]
    extra = attributes(body, 4 + ((echoed + 3) & ~3)) if flags & NLM_F_ACK_TLVS else {}
    return Refusal(errno, message.purpose, extra.get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace"))


def _link(body: bytes) -> Link:
    index, flags = unpack_from("=iI", body, 4)
    held = attributes(body, rtmsg.LINK_SIZE)
    info = attributes(held.get(rtmsg.IFLA_LINKINFO, b""), 0)
    return Link(
        index=index,
        name=_string(held.get(rtmsg.IFLA_IFNAME, b"")),
        up=bool(flags & rtmsg.IFF_UP),
        mac=held.get(rtmsg.IFLA_ADDRESS, b""),
        mtu=_u32(held, rtmsg.IFLA_MTU),
        kind=_string(info.get(rtmsg.IFLA_INFO_KIND, b"")),
        alias=_string(held.get(rtmsg.IFLA_IFALIAS, b"")),
        peer=_u32(held, rtmsg.IFLA_LINK),
    )


def _route(body: bytes) -> RouteEntry:
    prefix, table = body[1], body[4]
    held = attributes(body, rtmsg.ROUTE_SIZE)
    destination, gateway = held.get(rtmsg.RTA_DST), held.get(rtmsg.RTA_GATEWAY)
    return RouteEntry(
        destination=_address(destination) if destination else None,
        prefix=prefix,
        gateway=_address(gateway) if gateway else None,
        index=_u32(held, rtmsg.RTA_OIF),
        table=_u32(held, rtmsg.RTA_TABLE) or table,
    )


def _address(packed: bytes) -> Address:
    return Address(4 if len(packed) == 4 else 6, int.from_bytes(packed, "big"))


def _u32(held: dict[int, bytes], kind: int) -> int:
    return int(unpack_from("=I", held[kind])[0]) if kind in held else 0


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
