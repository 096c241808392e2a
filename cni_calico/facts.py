"""What this node can tell of its pods (ipam/audit), from its kernel: for GC, for audits, and after a reboot."""

from __future__ import annotations

from cni_calico import netns, node
from cni_calico.args import Attachment, attachment_of_alias
from cni_calico.endpoint import endpoint_for, find_at, forget, told_key
from cni_calico.netlink import host_links
from datastore.frozen import replace
from ipam.audit.living import NETNS, VETH, Living, Wire, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni_calico.netlink import Socket
    from datastore.api import Store
    from datastore.resources import Endpoint
    from ipam.handle import Owner


def everything(name: str) -> Living:
    """Return all that the kernel tells of the pods of the node of this name, as it is now. Raises OSError."""
    links = host_links()
    attached = [(link, attachment_of_alias(link.alias)) for link in links]
    wires = tuple(Wire(link.name, whose.owner({}), link.addresses) for link, whose in attached if whose)
    present = {link.name for link in links} | {identity(wire.owner.attributes) for wire in wires}

    def linked(owner: Mapping[str, str]) -> bool:
        return link_of(owner) in present or identity(owner) in present

    return Living(name, node.boot_id(), netns.own_id(), linked, wires)


def one_by_one(name: str, host: Socket) -> Living:
    """Return the same, but each link asked for when it is needed: for a few allocations that is quicker."""
    return Living(name, node.boot_id(), netns.own_id(), lambda owner: host.link(link_of(owner)) is not None)


def looked_up(living: Living, host: Socket) -> Living:
    """Return what was told, but links also looked for anew: one that has come since is there, one renamed still is."""
    now = one_by_one(living.node, host)
    return replace(living, linked=lambda owner: living.linked(owner) or now.linked(owner))


def link_of(owner: Mapping[str, str]) -> str:
    """Return the name of the host's link that belongs to an allocation's attributes."""
    return owner.get(VETH) or Attachment(*identity(owner)).host_ifname


def owner_of_endpoint(endpoint: Endpoint) -> Owner:
    """Return whom an endpoint record's addresses belong to."""
    return Attachment(endpoint.network, endpoint.container_id, endpoint.ifname).owner({})


def endpoint_of_wire(name: str, wire: Wire, owner: Mapping[str, str]) -> Endpoint:
    """Return the endpoint record of a wired pod of this node, from its wire and its allocation's attributes.

    The pod's MAC and a second interface's routing table are not told there, and are left out.
    """
    return endpoint_for(name, owner.get("pod", ""), owner.get("namespace", ""), Attachment(*identity(owner)),
                        tuple(map(str, wire.addresses)))


def forget_endpoint(store: Store, owner: Mapping[str, str]) -> None:
    """Remove the endpoint record that belongs to an allocation's attributes, if there is one. Raises StoreError."""
    attachment = Attachment(*identity(owner))
    forget(store, find_at(store, attachment, told_key(attachment, owner)))


def traces(attachment: Attachment) -> dict[str, str]:
    """Return the attributes that let the end of an attachment wired by `calico` be proven later."""
    return {VETH: attachment.host_ifname, NETNS: netns.own_id()}
