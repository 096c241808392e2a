"""What a node itself can tell of its pods, and the one rule that says when a pod is provably gone.

No API is asked: a pod can be gone from an API while its address is in use. What counts is the runtime's own list where
it gives one (GC), the boot (no network namespace outlives it), and the veth, which the kernel removes together with the
pod's namespace. The facts are gathered by cni_calico/facts.py and handed in.
"""

from __future__ import annotations

from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ipam.cidr import Address
    from ipam.handle import Owner

    Identity = tuple[str, ...]

# Attributes that an allocation has besides Calico's: who it is for, and where its life can be looked for.
BOOT, NETNS, VETH = "boot", "netns", "veth"
IDENTITY = ("network", "container", "interface")


@frozen
class Wire:
    """An attachment as the kernel has it: the host's link, whose it is by its alias, the addresses routed to it."""

    link: str
    owner: Owner
    addresses: tuple[Address, ...]


@frozen
class Living:
    """One node's own view: its name, its boot, and the network namespace that was looked at, with the links there.

    boot and netns are empty where they are not known; nothing can be proven then. `linked` tells whether an
    allocation's attributes name a link that is there, by its name or its alias. first: nothing has been given in this
    boot yet, so that a damaged record, and a handle of another boot, is of pods that are gone.
    """

    node: str
    boot: str
    netns: str
    linked: Callable[[Mapping[str, str]], bool]
    wires: tuple[Wire, ...] = ()
    first: bool = False


def identity(told: Mapping[str, str]) -> Identity:
    """Return network, container and interface from an allocation's attributes; empty where they do not say."""
    return tuple(told.get(name, "") for name in IDENTITY)


def why_gone(owner: Mapping[str, str], living: Living, listed: bool | None = None) -> str:
    """Return why the pod with these attributes is provably gone, empty when it may be alive.

    listed: whether the node's runtime has it among those that exist; None when the runtime was not asked.

    Proof needs all of: it is this node's; and the runtime says so, or its boot is over, or its veth, which was made in
    the very namespace that was looked at, is not there. What has no veth of ours (calico-ipam below ptp, bridge …) is
    proven by the runtime or the boot only. Nodes may share a kernel, and with it the boot: what has another node's name
    is this one's, which was called so, only if it was made in that very namespace.
    """
    boot = owner.get(BOOT, "")
    here = bool(boot and living.netns) and (boot, owner.get(NETNS)) == (living.boot, living.netns)
    if not here and owner.get("node", living.node) != living.node:
        return ""
    if listed is not None:
        return "" if listed else "its runtime does not know it"
    if not all(owner.get(name) for name in IDENTITY[1:]) or living.linked(owner):
        return ""
    if boot and living.boot and boot != living.boot:
        return f"its node has been rebooted: it was made in boot {boot}"
    if here and owner.get(VETH):
        return f"its veth {owner[VETH]} is gone, and with it the network namespace"
    return ""
