"""`calicoctl ipam show --ip`: who has one address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calicoctl.table import printable
from ipam.affinity import read_block
from ipam.block import owner_of
from ipam.find import block_of_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datastore.api import Json, Store
    from datastore.model import Attribute
    from ipam.cidr import Address

ALTERNATE = "alternateOwnerAttrs"


def holder(store: Store, address: Address) -> Attribute | None:
    """Return who has an address; if it cools down after its release, since when; None if it is free. Raises Corrupt."""
    cidr = block_of_address(store, address)
    stored = read_block(store, cidr) if cidr else None
    return owner_of(stored[0], address.number - cidr.first) if cidr and stored else None


def address_text(address: Address, attribute: Attribute | None) -> str:
    """Return the answer in Calico's words (calicoctl commands/ipam/show.go)."""
    if attribute is None:
        return f"{address} is not assigned"
    if attribute.released_at:
        return f"{address} is not assigned; released at {printable(attribute.released_at)}, it cools down"
    lines = [f"IP {address} is in use", f"Handle ID: {printable(attribute.handle or '<none>')}"]
    lines += _owner("Active Owner Attributes", attribute.owner) or ["No Active Owner attributes defined"]
    lines += _owner("Alternate Owner Attributes", _alternate(attribute))
    return "\n".join(lines)


def address_json(address: Address, attribute: Attribute | None) -> Json:
    """Return the answer as docs/calicoctl.md documents it; the keys are always the same."""
    return {
        "ip": str(address),
        "assigned": attribute is not None and not attribute.released_at,
        "handle": attribute.handle if attribute else None,
        "attributes": dict(sorted(attribute.owner.items())) if attribute else {},
        "alternateAttributes": dict(sorted(_alternate(attribute).items())) if attribute else {},
        "releasedAt": (attribute.released_at or None) if attribute else None,
    }


def _owner(title: str, attributes: Mapping[str, str]) -> list[str]:
    """Return the attributes in the order of their names under a title, nothing when there are none."""
    lines = [f"  {printable(name)}: {printable(value)}" for name, value in sorted(attributes.items())]
    return [f"{title}:", *lines] if lines else []


def _alternate(attribute: Attribute) -> Mapping[str, str]:
    """Return the owner that a virtual machine's address goes to when it has migrated, as far as it is told as text."""
    found = attribute.extra.get(ALTERNATE)
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}
