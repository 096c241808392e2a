"""What Calico demands of a resource before it is stored, and the defaults it fills in.

The rules are those of libcalico-go lib/clientv3 and lib/validator/v3, and of api/pkg/apis/projectcalico/v3. Every
finding names the field and its value; all findings of a resource are told at once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from calicoctl.resources import kinds
from calicoctl.resources.fields import at
from calicoctl.resources.findings import finding, is_network, refuse
from calicoctl.resources.poolrules import pool_findings, pool_spec
from ipam.errors import BadRequest
from ipam.reservation import parse_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calicoctl.resources.kinds import Kind
    from datastore.api import Json, Store

    Test = Callable[[str], bool]

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")  # RFC 1123 section 2.1
LABEL = re.compile(r"[a-zA-Z0-9_./-]{1,512}")
LABEL_VALUE = re.compile(r"([a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?)?")
INTERFACE = re.compile(r"[a-zA-Z0-9_.-]{1,15}")  # 15: IFNAMSIZ of linux/if.h, less the closing NUL
MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
LONGEST_NAME = 253
LARGEST_AS = 2**32 - 1
LABEL_NAMESPACE = "projectcalico.org/namespace"
LABEL_ORCHESTRATOR = "projectcalico.org/orchestrator"


def checked(kind: Kind, resource: Json, stored: Json | None, store: Store) -> Json:
    """Return the resource with its defaults filled in, ready to be stored; raises BadRequest, Corrupt.

    stored: what there is already under that name, None when the resource is to be created.
    """
    complete = {**resource, "spec": dict(resource.get("spec") or {})}
    if kind is kinds.IPPOOL:
        complete["spec"] = pool_spec(complete["spec"])
    if kind is kinds.WORKLOADENDPOINT and stored is None:
        complete["metadata"] = _endpoint_metadata(complete)
    refuse([*_metadata_findings(kind, complete), *_findings(kind, complete, stored, store)])
    return complete


def endpoint_names(spec: Json) -> list[str]:
    """Return the names that an endpoint may have; the first is Calico's (libcalico-go lib/names/workloadendpoint.go).

    The second is that of this plugin's own records, which have the container in place of the pod. Raises BadRequest
    when a field is missing that is part of the name.
    """
    orchestrator = spec.get("orchestrator") or ""
    field = {"k8s": "pod", "cni": "containerID", "libnetwork": "orchestrator"}.get(orchestrator, "workload")
    names = [_endpoint_name(spec, field, orchestrator)]
    if orchestrator == "k8s" and spec.get("containerID"):
        names.append(_endpoint_name(spec, "containerID", "cni"))
    return names


def _endpoint_name(spec: Json, field: str, orchestrator: str) -> str:
    refuse([finding(f"spec.{name}", spec.get(name, ""), "must be set, and neither begin nor end with a dash")
            for name in ("node", "orchestrator", field, "endpoint") if not _is_segment(spec.get(name))])
    parts = (spec["node"], orchestrator, spec[field], spec["endpoint"])
    return "-".join(part.replace("-", "--") for part in parts)


def _is_segment(text: str | None) -> bool:
    return bool(text) and text == str(text).strip("-")


def _endpoint_metadata(resource: Json) -> Json:
    """Return the metadata of an endpoint with the labels that Calico always sets."""
    metadata = resource["metadata"]
    own = {LABEL_NAMESPACE: metadata["namespace"], LABEL_ORCHESTRATOR: at(resource, "spec", "orchestrator") or ""}
    return {**metadata, "labels": {**metadata.get("labels", {}), **own}}


def _metadata_findings(kind: Kind, resource: Json) -> Iterator[str]:
    metadata = resource["metadata"]
    name = metadata.get("name") or ""
    if kind is not kinds.WORKLOADENDPOINT and not (NAME.fullmatch(name) and len(name) <= LONGEST_NAME):
        yield finding("metadata.name", name, "must be lower case letters, digits, '-' and '.', at most 253 characters")
    for label, value in (metadata.get("labels") or {}).items():
        if not LABEL.fullmatch(label):
            yield finding("metadata.labels", label, "the label may have letters, digits and _./- only")
        if not LABEL_VALUE.fullmatch(value):
            yield finding(f"metadata.labels.{label}", value, "at most 63 letters, digits, and _.- within")


def _findings(kind: Kind, resource: Json, stored: Json | None, store: Store) -> Iterator[str]:
    spec = resource["spec"]
    if kind is kinds.IPPOOL:
        yield from pool_findings(resource["metadata"]["name"], spec, stored and stored["spec"], store)
    elif kind is kinds.IPRESERVATION:
        yield from _each("spec.reservedCIDRs", spec.get("reservedCIDRs"), _is_range, "a masked CIDR or an address")
    elif kind is kinds.NODE:
        yield from _node_findings(spec)
    elif kind is kinds.WORKLOADENDPOINT:
        yield from _endpoint_findings(resource)
    elif resource["metadata"]["name"] != "default":
        yield finding("metadata.name", resource["metadata"]["name"], "the one IPAMConfiguration is called default")
    elif resource["metadata"].get("labels") or resource["metadata"].get("annotations"):
        yield finding("metadata.labels", "", "an IPAMConfiguration keeps neither labels nor annotations")


def _node_findings(spec: Json) -> Iterator[str]:
    bgp = spec.get("bgp")
    if bgp == {}:
        yield finding("spec.bgp", "{}", "must not be empty")
    if not is_as_number(at(bgp, "asNumber") or 0):
        yield finding("spec.bgp.asNumber", at(bgp, "asNumber"), "expected 0 to 4294967295, or two halves: 1.10")
    for test, expected, *paths in NODE_ADDRESSES:
        for path in paths:
            yield from _one(f"spec.{path}", at(spec, *path.split(".")), test, expected)
    for place in spec.get("addresses") or ():
        yield from _one("spec.addresses.address", place.get("address", ""), is_network, "an address or a CIDR")
    for reference in spec.get("orchRefs") or ():
        if not reference.get("orchestrator"):
            yield finding("spec.orchRefs.orchestrator", "", "must be set")


def _endpoint_findings(resource: Json) -> Iterator[str]:
    spec, name = resource["spec"], resource["metadata"]["name"]
    names = endpoint_names(spec)
    if name not in names:
        yield finding("metadata.name", name, f"does not fit the spec: expected {names[0]}")
    if not INTERFACE.fullmatch(spec.get("interfaceName") or ""):
        yield finding("spec.interfaceName", spec.get("interfaceName", ""), "expected the name of a Linux interface")
    for test, expected, path in ENDPOINT_ADDRESSES:
        yield from _one(f"spec.{path}", spec.get(path), test, expected)
    yield from _each("spec.ipNetworks", spec.get("ipNetworks"), is_host, "an address, its prefix /32 or /128 or none")
    yield from _each("spec.allowSpoofedSourcePrefixes", spec.get("allowSpoofedSourcePrefixes"), is_network, "a CIDR")
    held = {text.partition("/")[0] for text in spec.get("ipNetworks") or ()}
    for nat in spec.get("ipNATs") or ():
        yield from _one("spec.ipNATs.externalIP", nat.get("externalIP", ""), is_address, "an address")
        if nat.get("internalIP") not in held:
            yield finding("spec.ipNATs.internalIP", nat.get("internalIP", ""), "must be one of spec.ipNetworks")
    for port in spec.get("ports") or ():
        if not 0 < port.get("port", 0) < 2**16:
            yield finding("spec.ports.port", port.get("port", 0), "expected 1 to 65535")


def _one(field: str, value: Any, test: Test, expected: str) -> Iterator[str]:
    if value is not None and not test(value):
        yield finding(field, value, f"expected {expected}")


def _each(field: str, values: list[str] | None, test: Test, expected: str) -> Iterator[str]:
    for value in values or ():
        yield from _one(field, value, test, expected)


def _is_range(text: str) -> bool:
    try:
        return bool(parse_range(text))
    except BadRequest:
        return False


def is_address(text: str, *families: int) -> bool:
    """Tell whether the text is an address without a prefix length (of one of the families, if given)."""
    return "/" not in text and is_network(text, *families)


def is_host(text: str) -> bool:
    """Tell whether the text is one address: with the longest prefix length of its family, or none."""
    prefix = text.partition("/")[2]
    return is_network(text) and prefix in ("", "128" if ":" in text else "32")


def is_as_number(value: int | str) -> bool:
    """Tell whether this is an AS number, as one number or as its two halves (RFC 5396 asdot: 1.10)."""
    parts = str(value).split(".")
    if not all(part.isascii() and part.isdigit() for part in parts):
        return False
    largest = LARGEST_AS if len(parts) == 1 else 2**16 - 1
    return len(parts) <= 2 and all(int(part) <= largest for part in parts)


NODE_ADDRESSES: tuple[tuple[Any, ...], ...] = (
    (lambda text: is_network(text, 4), "an IPv4 address, with its prefix length", "bgp.ipv4Address"),
    (lambda text: is_network(text, 6), "an IPv6 address, with its prefix length", "bgp.ipv6Address"),
    (lambda text: is_address(text, 4), "an IPv4 address", "bgp.ipv4IPIPTunnelAddr", "bgp.routeReflectorClusterID",
     "ipv4VXLANTunnelAddr", "wireguard.interfaceIPv4Address"),
    (lambda text: is_address(text, 6), "an IPv6 address", "ipv6VXLANTunnelAddr", "wireguard.interfaceIPv6Address"),
    (MAC.fullmatch, "a MAC address", "vxlanTunnelMACAddr", "vxlanTunnelMACAddrV6"),
)
ENDPOINT_ADDRESSES: tuple[tuple[Any, str, str], ...] = (
    (lambda text: is_address(text, 4), "an IPv4 address", "ipv4Gateway"),
    (lambda text: is_address(text, 6), "an IPv6 address", "ipv6Gateway"),
    (MAC.fullmatch, "a MAC address", "mac"),
)
