"""Every rtnetlink request of the lean encoder means to pyroute2, the library, what it should mean."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg as pyroute2_rtmsg

from cni_calico import rtmsg
from cni_calico.netlink import HEADER
from cni_calico.rtmsg import Message, Route, Veth
from ipam.cidr import parse_address

V4, V6 = parse_address("10.0.0.5"), parse_address("fd00::5")
MAC, OTHER = bytes.fromhex("ee" * 6), bytes.fromhex("020000000001")


def decoded(kind: Any, message: Message) -> Any:
    """Return pyroute2's reading of a request."""
    header = HEADER.pack(HEADER.size + len(message.payload), message.type, 1 | message.flags, 1, 0)
    found = kind(header + message.payload)
    found.decode()
    return found


def test_a_pair() -> None:
    """Both ends have name, MAC, MTU and queues; the host's end is to be born in its namespace."""
    link = decoded(ifinfmsg, rtmsg.new_veth(Veth("eth0", OTHER, "cali1", MAC, 7, 1400, 2)))
    assert link.get_attr("IFLA_IFNAME") == "eth0"
    assert link.get_attr("IFLA_ADDRESS") == "02:00:00:00:00:01"
    assert (link.get_attr("IFLA_MTU"), link.get_attr("IFLA_NUM_TX_QUEUES"), link.get_attr("IFLA_NUM_RX_QUEUES")) == (
        1400, 2, 2)
    info = link.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "cali1"
    assert peer.get_attr("IFLA_ADDRESS") == "ee:ee:ee:ee:ee:ee"
    numbers = [peer.get_attr(name) for name in ("IFLA_NET_NS_FD", "IFLA_MTU", "IFLA_NUM_RX_QUEUES")]
    assert numbers == [7, 1400, 2]


def test_a_pair_with_the_kernel_s_mtu() -> None:
    """MTU 0 is not sent at all."""
    link = decoded(ifinfmsg, rtmsg.new_veth(Veth("eth0", OTHER, "cali1", MAC, 7, 0, 1)))
    assert link.get_attr("IFLA_MTU") is None


def test_links() -> None:
    """Setting up, looking up and deleting a link."""
    link = decoded(ifinfmsg, rtmsg.set_link(5, up=True, alias="calico:n:c:e", mac=MAC))
    assert (link["index"], link["flags"], link["change"]) == (5, 1, 1)
    assert link.get_attr("IFLA_IFALIAS") == "calico:n:c:e"
    assert link.get_attr("IFLA_ADDRESS") == "ee:ee:ee:ee:ee:ee"
    assert decoded(ifinfmsg, rtmsg.get_link("eth0")).get_attr("IFLA_IFNAME") == "eth0"
    doomed = decoded(ifinfmsg, rtmsg.delete_link("cali1"))
    assert (doomed["index"], doomed.get_attr("IFLA_IFNAME")) == (0, "cali1")
    grouped = decoded(ifinfmsg, rtmsg.group_link("cali1", 7))
    assert (grouped["index"], grouped.get_attr("IFLA_IFNAME"), grouped.get_attr("IFLA_GROUP")) == (0, "cali1", 7)
    group = decoded(ifinfmsg, rtmsg.delete_group(7))
    assert (group["index"], group.get_attr("IFLA_IFNAME"), group.get_attr("IFLA_GROUP")) == (0, None, 7)


@pytest.mark.parametrize(("address", "prefix"), [(V4, 32), (V6, 128)])
def test_addresses(address: Any, prefix: int) -> None:
    """An address has its prefix and link; an IPv6 one skips duplicate address detection."""
    found = decoded(ifaddrmsg, rtmsg.add_address(3, address, prefix))
    assert (found["prefixlen"], found["index"], found["scope"]) == (prefix, 3, 0)
    assert found["family"] == (2 if address.family == 4 else 10)
    assert found.get_attr("IFA_ADDRESS") == str(address)
    if address.family == 4:
        assert found.get_attr("IFA_LOCAL") == str(address)
    else:
        assert found.get_attr("IFA_FLAGS") == rtmsg.IFA_F_NODAD


@pytest.mark.parametrize(
    "route",
    [
        Route(4, 3, V4, 32, scope=rtmsg.RT_SCOPE_LINK, priority=1024),
        Route(4, 3, None, 0, parse_address("169.254.1.1"), table=0x10003),
        Route(4, 3, parse_address("10.0.0.0"), 8, parse_address("169.254.1.1"), on_link=True),
        Route(6, 3, None, 0, parse_address("fe80::1")),
    ],
)
def test_routes(route: Route) -> None:
    """A route has destination, gateway, link, scope, priority, table and our protocol number."""
    found = decoded(pyroute2_rtmsg, rtmsg.add_route(route))
    assert (found["dst_len"], found["proto"], found["scope"], found["type"]) == (route.prefix, 80, route.scope, 1)
    assert found["flags"] == (4 if route.on_link else 0)
    assert found.get_attr("RTA_DST") == (str(route.destination) if route.destination else None)
    assert found.get_attr("RTA_GATEWAY") == (str(route.gateway) if route.gateway else None)
    assert found.get_attr("RTA_OIF") == 3
    assert found.get_attr("RTA_PRIORITY") == (route.priority or None)
    assert found.get_attr("RTA_TABLE") == (route.table or 254)
    assert found["table"] == (0 if route.table else 254)


@pytest.mark.parametrize("address", [V4, V6])
def test_look_ups(address: Any) -> None:
    """Asking for the way to an address, and for its neighbour entry."""
    found = decoded(pyroute2_rtmsg, rtmsg.look_up_route(address))
    assert (found.get_attr("RTA_DST"), found["dst_len"]) == (str(address), 32 if address.family == 4 else 128)
    neighbour = decoded(ndmsg, rtmsg.get_neighbour(3, address))
    assert (neighbour.get_attr("NDA_DST"), neighbour["ifindex"]) == (str(address), 3)


@pytest.mark.parametrize("address", [V4, V6])
def test_neighbours(address: Any) -> None:
    """A neighbour entry is permanent and has its MAC."""
    found = decoded(ndmsg, rtmsg.add_neighbour(3, address, MAC))
    assert (found["ifindex"], found["state"]) == (3, 0x80)
    assert (found.get_attr("NDA_DST"), found.get_attr("NDA_LLADDR")) == (str(address), "ee:ee:ee:ee:ee:ee")


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("kind", [rtmsg.RTM_NEWRULE, rtmsg.RTM_DELRULE])
def test_source_rules(address: Any, kind: int) -> None:
    """A rule sends what comes from one address through a table."""
    message = rtmsg.source_rule(kind, address, 0x10003)
    found = decoded(fibmsg, message)
    assert message.type == kind
    assert (found["src_len"], found["action"]) == (32 if address.family == 4 else 128, 1)
    assert (found.get_attr("FRA_SRC"), found.get_attr("FRA_TABLE")) == (str(address), 0x10003)
