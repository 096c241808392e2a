"""Endpoints of an etcd cluster from DNS: the SRV records of a domain (etcd's clustering guide, "DNS discovery")."""

from __future__ import annotations

import time

from datastore.api import Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Lookup = Callable[[str, float], Iterable[tuple[int, int, str, int]]]

SERVICES = (("_etcd-client-ssl._tcp.", "https"), ("_etcd-client._tcp.", "http"))


def look_up(name: str, seconds: float) -> list[tuple[int, int, str, int]]:
    """Return priority, weight, target and port of each SRV record of a name; raises OSError when nobody answers.

    An empty target says that there is no such service (RFC 2782).
    """
    import dns.exception
    import dns.resolver

    try:
        answer = dns.resolver.resolve(name, "SRV", lifetime=seconds)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except dns.exception.DNSException as error:
        raise OSError(str(error)) from error
    return [(item.priority, item.weight, str(item.target).rstrip("."), item.port) for item in answer]


def discover(domain: str, seconds: float, look_up: Lookup = look_up) -> list[str]:
    """Return the endpoints that a domain names, those with TLS before those without. Raises Unreachable.

    In the order of RFC 2782, but of one priority the heavier first, so that all nodes begin with the same. seconds: for
    all of it.
    """
    found, left, began = [], seconds, time.monotonic()
    for service, scheme in SERVICES:
        try:
            records = sorted(look_up(service + domain, left), key=lambda item: (item[0], -item[1], item[2:]))
        except OSError as error:
            raise Unreachable(f"etcd's endpoints cannot be looked up: {service}{domain}: {error}") from error
        left = max(0.0, seconds - (time.monotonic() - began))
        found += [f"{scheme}://{target}:{port}" for _, _, target, port in records if target]
    if not found:
        names = " nor ".join(service + domain for service, _ in SERVICES)
        raise Unreachable(f"etcd's endpoints cannot be looked up: there is no SRV record of {names}")
    return found
