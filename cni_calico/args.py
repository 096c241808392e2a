"""What a runtime passes besides the configuration, checked: identifiers, CNI_ARGS, and the names made from them. Pure.

Rules are the CNI spec's (1.1.0, "Parameters") and libcni's (pkg/utils); every verb applies them, because libcni itself
does so on ADD only, and the values become file names, keys and interface names.
"""

from __future__ import annotations

from cni_calico.errors import INVALID_CONFIG, INVALID_ENVIRONMENT, CniError
from datastore.frozen import frozen, replace
from ipam.cidr import Address, parse_address
from ipam.errors import BadRequest
from ipam.handle import Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # hashlib adds 4.5 ms: it loads OpenSSL
except ImportError:
    from hashlib import sha1

ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
IDENTIFIER = ALPHANUMERIC | frozenset("_.-")
HEX = frozenset("0123456789abcdefABCDEF")
LONGEST_IDENTITY = 230  # bytes of network and container id; with the interface they fit a link alias (IFALIASZ 256)
KNOWN_ARGS = frozenset(
    ("IgnoreUnknown", "IP", "MAC", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID")
)
TRUTH = {"1": True, "true": True, "0": False, "false": False}  # in any case, as libcni's UnmarshallableBool
VETH_PREFIX = "cali"  # Calico: FELIX_INTERFACEPREFIX


@frozen
class Attachment:
    """What all state is keyed by: this interface of this container on this network (CNI spec 0.4.0, "DEL")."""

    network: str
    container_id: str
    ifname: str

    @property
    def handle_id(self) -> str:
        """The IPAM handle, as Calico names it."""
        return f"{self.network}.{self.container_id}"

    @property
    def host_ifname(self) -> str:
        """Name of the host's end: `cali` and 11 hex digits.

        They are of the whole identity, because ids may begin alike (cnitool's do) and a container may have several
        interfaces.
        """
        identity = "\0".join((self.network, self.container_id, self.ifname)).encode()
        digest: str = sha1(identity, usedforsecurity=False).hexdigest()
        return VETH_PREFIX + digest[:11]

    @property
    def alias(self) -> str:
        """The identity as stored in the host end's link alias, for finding owners from the kernel alone."""
        return f"calico:{self.network}:{self.container_id}:{self.ifname}"

    def owner(self, attributes: Mapping[str, str]) -> Owner:
        """Return the owner of this attachment's addresses, with what else is known of it."""
        identity = {"network": self.network, "container": self.container_id, "interface": self.ifname}
        return Owner(self.handle_id, {**attributes, **identity})


def attachment_of_alias(alias: str) -> Attachment | None:
    """Return the identity in a link alias, or None when the alias is not one of ours."""
    mark, *identity = alias.split(":")
    return Attachment(*identity) if mark == "calico" and len(identity) == 3 else None


@frozen
class Args:
    """CNI_ARGS: the pod's name where the runtime tells it, and an address or MAC asked for (none: empty)."""

    pod: str = ""
    namespace: str = ""
    addresses: tuple[Address, ...] = ()
    mac: bytes = b""


def parse_args(text: str, strict: bool) -> Args:
    """Return CNI_ARGS (`K=V;K=V`). What cannot be understood is an error (CniError 4) when strict, else left out."""
    pairs = [part.partition("=") for part in text.split(";") if part]
    values = {key: value for key, equals, value in pairs if equals}
    names = Args(pod=values.get("K8S_POD_NAME", ""), namespace=values.get("K8S_POD_NAMESPACE", ""))
    if not strict:
        return names
    _check_args(text, values, all(equals for _, equals, _ in pairs))
    if names.namespace and not is_identifier(names.namespace):
        message = f"CNI_ARGS: K8S_POD_NAMESPACE={names.namespace!r} is not the name of a namespace"
        raise CniError(INVALID_ENVIRONMENT, message)
    asked = (values["IP"],) if values.get("IP") else ()
    return replace(
        names,
        addresses=parse_addresses(asked, "CNI_ARGS: IP", INVALID_ENVIRONMENT),
        mac=parse_mac(values["MAC"], "CNI_ARGS: MAC", INVALID_ENVIRONMENT) if values.get("MAC") else b"",
    )


def _check_args(text: str, values: Mapping[str, str], paired: bool) -> None:
    if not paired:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS {text!r} is not of the form KEY=VALUE;KEY=VALUE")
    ignore = values.get("IgnoreUnknown", "0").lower()
    if ignore not in TRUTH:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: IgnoreUnknown={ignore!r} is neither true nor false")
    unknown = sorted(values.keys() - KNOWN_ARGS)
    if unknown and not TRUTH[ignore]:
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_ARGS has unknown keys {', '.join(unknown)}; IgnoreUnknown=1 would let them pass"
        )


def is_identifier(text: str) -> bool:
    """Tell whether a text may name a network or container: `[a-zA-Z0-9][a-zA-Z0-9_.-]*` (libcni pkg/utils)."""
    return text[:1] in ALPHANUMERIC and IDENTIFIER.issuperset(text)


def check_network(name: object) -> str:
    """Return the network's name; raises CniError 7."""
    if not isinstance(name, str) or not is_identifier(name) or len(name) > LONGEST_IDENTITY:
        raise CniError(
            INVALID_CONFIG,
            f"network name {name!r} is missing or invalid: it must begin with a letter or digit, go on with letters, "
            f"digits, '_', '.', '-', and have at most {LONGEST_IDENTITY} characters",
        )
    return name


def check_container_id(container_id: str, network: str) -> str:
    """Return the container id; raises CniError 4."""
    if not is_identifier(container_id):
        raise CniError(
            INVALID_ENVIRONMENT,
            "CNI_CONTAINERID is invalid: it must begin with a letter or digit and go on with letters, digits, "
            "'_', '.', '-'",
            container_id,
        )
    if len(network) + len(container_id) > LONGEST_IDENTITY:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID is too long: with the network's name it may have {LONGEST_IDENTITY} characters",
            container_id,
        )
    return container_id


def check_ifname(ifname: str, strict: bool) -> str:
    """Return the interface name if the kernel would take it (dev_valid_name); raises CniError 4.

    When strict, no '%' either: the kernel takes eth%d for a pattern and makes up a number (dev_alloc_name).
    """
    odd = any(c in "/:\0" or c.isspace() or "\ud800" <= c <= "\udfff" for c in ifname)  # the last: not UTF-8
    if odd or (strict and "%" in ifname) or ifname in (".", "..") or not 1 <= len(ifname.encode()) <= 15:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_IFNAME {ifname!r} is invalid: 1 to 15 bytes of UTF-8, no '/', ':', '%' or white space, not '.'",
        )
    return ifname


def parse_addresses(texts: Iterable[str], where: str, code: int) -> tuple[Address, ...]:
    """Return addresses asked for; a prefix length behind one is left out. Raises CniError of this code."""
    try:
        return tuple(parse_address(text.partition("/")[0]) for text in texts)
    except BadRequest as error:
        raise CniError(code, f"{where}: {error}") from error


def parse_mac(text: str, where: str, code: int) -> bytes:
    """Return the six bytes of a unicast MAC address; raises CniError of this code."""
    parts = text.replace("-", ":").split(":")
    if len(parts) == 6 and all(len(part) == 2 and HEX.issuperset(part) for part in parts):
        mac = bytes.fromhex("".join(parts))
        if not mac[0] & 1 and any(mac):
            return mac
    raise CniError(code, f"{where}: {text!r} is not a unicast MAC address like 02:00:5e:10:00:01")
