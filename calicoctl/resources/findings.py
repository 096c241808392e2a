"""How it is told what is wrong with fields of a resource: Calico's form (libcalico-go lib/errors, ErrorValidation)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable


def finding(field: str, value: object, reason: str) -> str:
    """Return what is wrong with a field."""
    return f"{field} = '{value}' ({reason})"


def refuse(findings: Iterable[str]) -> None:
    """Raise BadRequest with all the findings, when there are any."""
    told = list(findings)
    if len(told) == 1:
        raise BadRequest(f"error with field {told[0]}")
    if told:
        raise BadRequest(f"error with the following fields: {'; '.join(told)}")


def is_network(text: str, *families: int) -> bool:
    """Tell whether the text is an address with or without a prefix length (of one of the families, if given)."""
    import netaddr

    address, slash, prefix = text.partition("/")
    try:
        version = netaddr.IPAddress(address, flags=netaddr.INET_PTON).version
        netaddr.IPNetwork(text)
    except (netaddr.AddrFormatError, ValueError):
        return False
    return prefix.isdigit() == bool(slash) and version in (families or (4, 6))
