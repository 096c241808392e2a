"""The kinds of resources: what people may call them, where they are stored, their fields and their columns.

Names, short names and columns are Calico's (calicoctl resourcemgr/), fields those of its API v3
(api/pkg/apis/projectcalico/v3, libcalico-go lib/apis/internalapi).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calicoctl.resources.fields import ANYTHING, LABELS, NUMBER, NUMBER_OR_TEXT, TEXT, TRUTH, at
from calicoctl.table import brief
from datastore import keys
from datastore.frozen import frozen
from ipam.configuration import PERSISTENCE
from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calicoctl.resources.fields import Schema
    from datastore.api import Json

    Columns = Mapping[str, Callable[[Json], str]]

API_VERSION = "projectcalico.org/v3"
DEFAULT_NAMESPACE = "default"
DEFAULT_AS_NUMBER = 64512  # Calico: BGPConfiguration without asNumber
LONGEST_CELL = 80  # characters of a list in a cell (Calico: joinAndTruncate)
METADATA = {
    "name": TEXT, "namespace": TEXT, "uid": TEXT, "resourceVersion": TEXT, "creationTimestamp": TEXT,
    "deletionTimestamp": TEXT, "deletionGracePeriodSeconds": NUMBER, "generation": NUMBER, "labels": LABELS,
    "annotations": LABELS, "finalizers": [TEXT], "ownerReferences": [ANYTHING], "managedFields": [ANYTHING],
}


@frozen
class Kind:
    """One kind of resource. words: what it may be called; prefix: of its keys; columns: of the table, by heading."""

    name: str
    words: tuple[str, ...]
    prefix: str
    spec: Schema
    columns: Columns
    narrow: tuple[str, ...]
    wide: tuple[str, ...]
    status: Schema = None
    namespaced: bool = False

    @property
    def schema(self) -> Schema:
        """The description of the whole resource (calicoctl/resources/fields.py)."""
        status = {"status": self.status} if self.status else {}
        return {"apiVersion": TEXT, "kind": TEXT, "metadata": METADATA, "spec": self.spec, **status}

    def key(self, metadata: Json) -> str:
        """Return the key of the resource with this name (and namespace); a kind of one record has one key."""
        if not self.prefix.endswith("/"):
            return self.prefix
        return self.prefix + (f"{metadata['namespace']}/" if self.namespaced else "") + str(metadata["name"])


def named(word: str) -> Kind:
    """Return the kind that people call so, in whatever case; raises BadRequest."""
    for kind in KINDS:
        if word.lower() in kind.words:
            return kind
    raise BadRequest(f"resource type '{word}' is not supported; types are: {', '.join(k.words[0] for k in KINDS)}")


def of(resource: Mapping[str, Any]) -> Kind:
    """Return the kind that a resource says it is; raises BadRequest."""
    for kind in KINDS:
        if (resource.get("kind"), resource.get("apiVersion")) == (kind.name, API_VERSION):
            return kind
    raise BadRequest(
        f"unknown resource type ({_told(resource, 'kind')}) and/or version ({_told(resource, 'apiVersion')}); "
        f"types are, of {API_VERSION}: {', '.join(kind.name for kind in KINDS)}"
    )


def _told(resource: Mapping[str, Any], field: str) -> str:
    value = resource.get(field)
    return value if isinstance(value, str) else brief(value)


def _field(*path: str, default: object = "") -> Callable[[Json], str]:
    def show(resource: Json) -> str:
        value = at(resource, *path)
        value = default if value is None else value
        if isinstance(value, list):
            return ",".join(map(str, value))
        return str(value).lower() if isinstance(value, bool) else str(value)

    return show


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 3] + "..."


def _workload(resource: Json) -> str:
    return str(at(resource, "spec", "workload") or at(resource, "spec", "pod") or "")


def _as_number(resource: Json) -> str:
    """Return the node's AS number, the global default in parentheses, nothing for a node that has no BGP."""
    if at(resource, "spec", "bgp") is None:
        return ""
    own = at(resource, "spec", "bgp", "asNumber")
    return str(own) if own else f"({DEFAULT_AS_NUMBER})"


def _nats(resource: Json) -> str:
    pairs = at(resource, "spec", "ipNATs")
    return ",".join(f"{at(nat, 'internalIP')}={at(nat, 'externalIP')}" for nat in pairs or ())


NAME = _field("metadata", "name")
IPPOOL = Kind(
    name="IPPool",
    words=("ippool", "ippools", "ipp", "ipps", "pool", "pools"),
    prefix=keys.IPPOOLS,
    spec={
        "cidr": TEXT, "blockSize": NUMBER, "ipipMode": TEXT, "vxlanMode": TEXT, "natOutgoing": TRUTH,
        "disabled": TRUTH, "disableBGPExport": TRUTH, "nodeSelector": TEXT, "namespaceSelector": TEXT,
        "allowedUses": [TEXT], "assignmentMode": TEXT,
    },
    status={"conditions": [ANYTHING]},
    columns={
        "NAME": NAME,
        "CIDR": _field("spec", "cidr"),
        "NAT": _field("spec", "natOutgoing", default=False),
        "IPIPMODE": _field("spec", "ipipMode", default="Never"),
        "VXLANMODE": _field("spec", "vxlanMode", default="Never"),
        "DISABLED": _field("spec", "disabled", default=False),
        "DISABLEBGPEXPORT": _field("spec", "disableBGPExport", default=False),
        "SELECTOR": _field("spec", "nodeSelector"),
        "ASSIGNMENTMODE": _field("spec", "assignmentMode"),
    },
    narrow=("NAME", "CIDR", "SELECTOR"),
    wide=("NAME", "CIDR", "NAT", "IPIPMODE", "VXLANMODE", "DISABLED", "DISABLEBGPEXPORT", "SELECTOR",
          "ASSIGNMENTMODE"),
)
IPRESERVATION = Kind(
    name="IPReservation",
    words=("ipreservation", "ipreservations", "reservation", "reservations"),
    prefix=keys.IPRESERVATIONS,
    spec={"reservedCIDRs": [TEXT]},
    columns={"NAME": NAME, "CIDRS": lambda resource: _shortened(_field("spec", "reservedCIDRs")(resource))},
    narrow=("NAME",),
    wide=("NAME", "CIDRS"),
)
IPAMCONFIGURATION = Kind(
    name="IPAMConfiguration",
    words=("ipamconfiguration", "ipamconfigurations", "ipamconfig", "ipamconfigs"),
    prefix=keys.IPAM_CONFIG,
    spec={"strictAffinity": TRUTH, "autoAllocateBlocks": TRUTH, "maxBlocksPerHost": NUMBER, PERSISTENCE: TEXT,
          "ipCooldownSeconds": NUMBER},
    columns={
        "NAME": NAME,
        "STRICTAFFINITY": _field("spec", "strictAffinity"),
        "AUTOALLOCATEBLOCKS": _field("spec", "autoAllocateBlocks"),
        "MAXBLOCKSPERHOST": _field("spec", "maxBlocksPerHost"),
    },
    narrow=("NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"),
    wide=("NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST"),
)
NODE = Kind(
    name="Node",
    words=("node", "nodes", "no", "nos"),
    prefix=keys.NODES,
    spec={
        "bgp": {"asNumber": NUMBER_OR_TEXT, "ipv4Address": TEXT, "ipv6Address": TEXT, "ipv4IPIPTunnelAddr": TEXT,
                "routeReflectorClusterID": TEXT},
        "ipv4VXLANTunnelAddr": TEXT, "vxlanTunnelMACAddr": TEXT,
        "ipv6VXLANTunnelAddr": TEXT, "vxlanTunnelMACAddrV6": TEXT,
        "orchRefs": [{"nodeName": TEXT, "orchestrator": TEXT}],
        "wireguard": {"interfaceIPv4Address": TEXT, "interfaceIPv6Address": TEXT},
        "addresses": [{"address": TEXT, "type": TEXT}],
        "interfaces": [{"name": TEXT, "addresses": [TEXT]}],
    },
    status={"wireguardPublicKey": TEXT, "wireguardPublicKeyV6": TEXT, "podCIDRs": [TEXT]},
    columns={"NAME": NAME, "ASN": _as_number, "IPV4": _field("spec", "bgp", "ipv4Address"),
             "IPV6": _field("spec", "bgp", "ipv6Address")},
    narrow=("NAME",),
    wide=("NAME", "ASN", "IPV4", "IPV6"),
)
WORKLOADENDPOINT = Kind(
    name="WorkloadEndpoint",
    words=("workloadendpoint", "workloadendpoints", "wep", "weps"),
    prefix=keys.WORKLOAD_ENDPOINTS,
    spec={
        "orchestrator": TEXT, "workload": TEXT, "node": TEXT, "containerID": TEXT, "pod": TEXT, "endpoint": TEXT,
        "serviceAccountName": TEXT, "ipNetworks": [TEXT], "ipNATs": [{"internalIP": TEXT, "externalIP": TEXT}],
        "ipv4Gateway": TEXT, "ipv6Gateway": TEXT, "profiles": [TEXT], "interfaceName": TEXT, "mac": TEXT,
        "ports": [{"name": TEXT, "protocol": NUMBER_OR_TEXT, "port": NUMBER, "hostPort": NUMBER, "hostIP": TEXT}],
        "allowSpoofedSourcePrefixes": [TEXT], "qosControls": ANYTHING,
    },
    columns={
        "NAME": NAME,
        "NAMESPACE": _field("metadata", "namespace"),
        "NODE": _field("spec", "node"),
        "ORCHESTRATOR": _field("spec", "orchestrator"),
        "WORKLOAD": _workload,
        "NETWORKS": _field("spec", "ipNetworks"),
        "NATS": _nats,
        "PROFILES": _field("spec", "profiles"),
        "INTERFACE": _field("spec", "interfaceName"),
    },
    narrow=("WORKLOAD", "NODE", "NETWORKS", "INTERFACE"),
    wide=("NAME", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS"),
    namespaced=True,
)
KINDS = (IPPOOL, IPRESERVATION, IPAMCONFIGURATION, NODE, WORKLOADENDPOINT)
