"""The CNI result: one typed value, read from and written as the JSON of every spec version."""

from __future__ import annotations

from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Json = dict[str, Any]

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
_FLAT = VERSIONS[:2]  # one address per family, no interfaces
_NUMBERED = VERSIONS[2:5]  # each of `ips` says "4" or "6"
_INTERFACE_1_1 = ("mtu", "socketPath", "pciID")  # keys that 1.1.0 added
_ROUTE_1_1 = ("mtu", "advmss", "priority", "table", "scope")


DNS_LISTS = ("nameservers", "search", "options")


@frozen
class Interface:
    """An interface made or passed on; `sandbox` is the namespace's path, empty for the host's own."""

    name: str
    mac: str = ""
    sandbox: str = ""
    extra: Mapping[str, Any] = {}


@frozen
class Ip:
    """An address with its prefix length; `interface` is an index into the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None

    @property
    def bare(self) -> str:
        """The address without its prefix length."""
        return self.address.partition("/")[0]


@frozen
class Route:
    """A route of the container; `gw` empty means the default gateway of its family."""

    dst: str
    gw: str = ""
    extra: Mapping[str, Any] = {}


@frozen
class Result:
    """What an ADD produced."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Mapping[str, Any] = {}


def to_json(result: Result, version: str) -> Json:
    """Return the result in the shape of this spec version (the version of the configuration, rule A3)."""
    body: Json = {"cniVersion": version}
    if version in _FLAT:
        body |= _flat(result)
    else:
        newest = version == NEWEST
        body["interfaces"] = [_interface_json(item, newest) for item in result.interfaces]
        body["ips"] = [_ip_json(item, version in _NUMBERED) for item in result.ips]
        body["routes"] = [_route_json(item, _ROUTE_1_1 if newest else ()) for item in result.routes]
        body = {key: value for key, value in body.items() if value}
    return {**body, "dns": dict(result.dns)} if result.dns else body


def from_json(body: object, version: str) -> Result:
    """Return a result in JSON, of its own cniVersion or else of the version given; raises ValueError."""
    try:
        if not isinstance(body, dict):
            raise TypeError(f"{body!r} is not an object")
        if (body.get("cniVersion") or version) in _FLAT:
            return _from_flat(body)
        return Result(
            interfaces=tuple(_interface(item) for item in body.get("interfaces") or ()),
            ips=tuple(Ip(_text(item["address"]), _text(item.get("gateway") or ""), _index(item.get("interface")))
                      for item in body.get("ips") or ()),
            routes=tuple(map(_route, body.get("routes") or ())),
            dns=_dns(body),
        )
    except KeyError as error:
        raise ValueError(f"{error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _dns(body: Json) -> Json:
    """Return the `dns` part, which libcni must be able to decode."""
    found = dict(body.get("dns") or {})
    lists = all(isinstance(item, str) for key in DNS_LISTS for item in _list(found.get(key)))
    if not lists or not isinstance(found.get("domain") or "", str):
        raise TypeError(f"dns {found!r} is not of the form the spec gives it")
    return found


def _list(value: object) -> list[object]:
    if value is not None and not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value or []


def _interface(item: Json) -> Interface:
    return Interface(_text(item["name"]), _text(item.get("mac") or ""), _text(item.get("sandbox") or ""),
                     {key: item[key] for key in _INTERFACE_1_1 if item.get(key)})


def _route(item: Json) -> Route:
    return Route(_text(item["dst"]), _text(item.get("gw") or ""),
                 {key: item[key] for key in _ROUTE_1_1 if item.get(key) is not None})


def _from_flat(body: Json) -> Result:
    families = [body[key] for key in ("ip4", "ip6") if body.get(key)]
    return Result(
        ips=tuple(Ip(_text(item["ip"]), _text(item.get("gateway") or "")) for item in families),
        routes=tuple(_route(route) for item in families for route in item.get("routes") or ()),
        dns=_dns(body),
    )


def _flat(result: Result) -> Json:
    """Return the first address of each family with that family's routes (libcni's down-conversion)."""
    body: Json = {}
    for key, is_v6 in (("ip4", False), ("ip6", True)):
        ip = next((ip for ip in result.ips if (":" in ip.address) is is_v6), None)
        if ip is None:
            continue
        routes = [_route_json(route, ()) for route in result.routes if (":" in route.dst) is is_v6]
        body[key] = _without_empty({"ip": ip.address, "gateway": ip.gateway, "routes": routes})
    return body


def _interface_json(item: Interface, newest: bool) -> Json:
    return _without_empty({"name": item.name, "mac": item.mac, "sandbox": item.sandbox,
                           **(item.extra if newest else {})})


def _ip_json(item: Ip, numbered: bool) -> Json:
    body = _without_empty({"address": item.address, "gateway": item.gateway})
    if numbered:
        body = {"version": "6" if ":" in item.address else "4", **body}
    return body if item.interface is None else {**body, "interface": item.interface}


def _route_json(item: Route, extra: Iterable[str]) -> Json:
    body = _without_empty({"dst": item.dst, "gw": item.gw})
    return {**body, **{key: item.extra[key] for key in extra if key in item.extra}}


def _without_empty(body: Json) -> Json:
    return {key: value for key, value in body.items() if value}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _index(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int:
        raise TypeError(f"interface index {value!r} is not a number")
    return value if value >= 0 else None  # -1 once meant "none" (0.3.0 guide)
