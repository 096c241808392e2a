"""The network configuration on stdin as one frozen value: every key we read, every default, every check.

Keys are Calico's (cni-plugin pkg/types/types.go) and the spec's. Unknown keys are ignored. For DEL only what it cannot
do without is checked (rule D9: only cniVersion, name and type can be trusted then); anything else odd gets its default.
"""

from __future__ import annotations

import os

from cni_calico.args import check_network
from cni_calico.errors import INVALID_CONFIG, CniError
from cni_calico.result import Result, from_json
from datastore import DEFAULT_DIR
from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")

NODENAME_FILE = "/var/lib/calico/nodename"
MTU_FILE = "/var/lib/calico/mtu"
OUR_IPAM = "calico-ipam"
MB = 1024 * 1024
MTU_LIMITS = (68, 65535)  # RFC 791; include/uapi/linux/if_ether.h ETH_MAX_MTU


@frozen
class Ipam:
    """The `ipam` section."""

    type: str
    families: tuple[int, ...]
    pools: Mapping[int, tuple[str, ...]]
    routes: tuple[Mapping[str, Any], ...]


@frozen
class LogSettings:
    """Where and how much to log. Size in bytes, age in days; 0 sets no bound."""

    level: str
    path: str
    max_size: int
    max_age: int
    max_count: int


@frozen
class NetConf:
    """One plugin's configuration as the runtime sends it. `mtu` 0 means automatic; `previous` is prevResult."""

    version: str
    name: str
    ipam: Ipam
    mtu: int
    require_mtu_file: bool
    num_queues: int
    nodename: str
    nodename_file: str
    nodename_file_optional: bool
    allow_ip_forwarding: bool
    include_default_routes: bool
    datastore_type: str
    datastore_dir: str
    log: LogSettings
    dns: Mapping[str, Any]
    addresses: tuple[str, ...]
    mac: str
    previous: Result | None
    valid_attachments: tuple[tuple[str, str], ...] | None


def parse(body: Mapping[str, Any], version: str, strict: bool = True) -> NetConf:
    """Return the configuration; raises CniError 7 naming the key and value that are wrong."""
    name = check_network(body.get("name"))
    conf = Section(body, "", strict)
    datastore = conf.text("datastore_type") or "file"
    runtime = conf.section("runtimeConfig", fold=True)
    return NetConf(
        version=version,
        name=name,
        ipam=_ipam(conf.section("ipam")),
        mtu=_mtu(conf.number("mtu", 0), strict),
        require_mtu_file=conf.truth("require_mtu_file", False),
        num_queues=max(conf.number("num_queues", 1), 1),
        nodename=conf.text("nodename"),
        nodename_file=conf.text("nodename_file") or NODENAME_FILE,
        nodename_file_optional=conf.truth("nodename_file_optional", datastore == "file"),
        allow_ip_forwarding=conf.section("container_settings").truth("allow_ip_forwarding", False),
        include_default_routes=conf.truth("include_default_routes", False),
        datastore_type=datastore,
        datastore_dir=_absolute(conf.text("datastore_dir") or DEFAULT_DIR),
        log=_log(conf),
        dns=conf.section("dns").body,
        addresses=(*conf.section("args").section("cni").texts("ips"), *runtime.texts("ips")),
        mac=runtime.text("mac"),
        previous=_previous(body, version, strict),
        valid_attachments=_valid_attachments(body),
    )


def node_name(conf: NetConf) -> str:
    """Return the node's name: `nodename`, else the nodename file's content, else the host's name (Calico's order).

    Raises CniError 7 when there is no file and the host's name may not stand in for it.
    """
    name = conf.nodename
    if not name:
        try:
            with open(conf.nodename_file, encoding="utf-8") as file:
                name = file.read().strip()
        except OSError as error:
            if not conf.nodename_file_optional:
                raise CniError(
                    INVALID_CONFIG,
                    f"the node has no name: {conf.nodename_file} cannot be read; start calico-node, which writes it, "
                    f'or set "nodename", or set "nodename_file_optional" to use the host\'s name',
                    os.strerror(error.errno or 0),
                ) from error
    name = name or os.uname().nodename.strip().lower()
    if not name or "/" in name or not name.isprintable():
        raise CniError(INVALID_CONFIG, f"node name {name!r} is invalid: it must be printable and have no '/'")
    return name


def mtu(conf: NetConf) -> int:
    """Return the MTU for the pod's interface, or 0 to leave the kernel's: `mtu`, else what the agent found out."""
    if conf.mtu:
        return conf.mtu
    try:
        with open(MTU_FILE, encoding="ascii") as file:
            return _mtu(int(file.read().strip()), strict=True)
    except (OSError, ValueError) as error:
        if conf.require_mtu_file or not isinstance(error, FileNotFoundError):
            raise CniError(
                INVALID_CONFIG, f'{MTU_FILE} has no MTU ({error}); start calico-node, which writes it, or set "mtu"'
            ) from error
        return 0


@frozen
class Section:
    """A JSON object being read: its values by type, its name for messages, and whether a wrong type is an error."""

    body: Mapping[str, Any]
    path: str
    strict: bool

    def text(self, key: str) -> str:
        """Return a string, empty when absent."""
        return self._typed(key, str, "", "a string")

    def number(self, key: str, default: int) -> int:
        """Return an integer; a float without a fraction is one (libcni passes numbers through float64)."""
        value = self.body.get(key)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return self._typed(key, int, default, "a whole number")

    def truth(self, key: str, default: bool) -> bool:
        """Return a boolean; Calico writes some of them as strings."""
        value = self.body.get(key)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        return self._typed(key, bool, default, "true or false")

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings; a single string stands for a list of one."""
        value = self.body.get(key)
        if isinstance(value, str):
            return (value,)
        items = self._typed(key, list, [], "a list of strings")
        if not all(isinstance(item, str) for item in items):
            return self._wrong(key, (), "a list of strings")
        return tuple(items)

    def section(self, key: str, fold: bool = False) -> Section:
        """Return a nested object, empty when absent; with `fold` its keys are read without regard to case."""
        body = self._typed(key, dict, {}, "an object")
        return Section({name.lower(): value for name, value in body.items()} if fold else body,
                       f"{self.path}{key}.", self.strict)

    def _typed(self, key: str, kind: type[T], default: T, expected: str) -> T:
        value = self.body.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            return self._wrong(key, default, expected)
        return value

    def _wrong(self, key: str, default: T, expected: str) -> T:
        if self.strict:
            raise CniError(INVALID_CONFIG, f'configuration key "{self.path}{key}" is {self.body[key]!r}: expected '
                                           f"{expected}")
        return default


def _ipam(section: Section) -> Ipam:
    kind = section.text("type") or ("" if section.strict else OUR_IPAM)
    if not kind:
        raise CniError(INVALID_CONFIG, f'configuration key "ipam.type" is missing: expected e.g. "{OUR_IPAM}"')
    if "/" in kind or kind in (".", ".."):
        raise CniError(INVALID_CONFIG, f'configuration key "ipam.type" is {kind!r}: expected the name of an executable')
    wanted = {4: section.truth("assign_ipv4", True), 6: section.truth("assign_ipv6", False)}
    families = tuple(family for family, yes in wanted.items() if yes)
    if not families and section.strict:
        raise CniError(INVALID_CONFIG, '"ipam.assign_ipv4" and "ipam.assign_ipv6" are both off: no address to assign')
    routes = section.body.get("routes")
    return Ipam(
        type=kind,
        families=families,
        pools={4: section.texts("ipv4_pools"), 6: section.texts("ipv6_pools")},
        routes=tuple(route for route in routes if isinstance(route, dict)) if isinstance(routes, list) else (),
    )


def _log(conf: Section) -> LogSettings:
    return LogSettings(
        level=conf.text("log_level").lower() or "info",
        path=conf.text("log_file_path"),
        max_size=max(conf.number("log_file_max_size", 100), 0) * MB,
        max_age=max(conf.number("log_file_max_age", 30), 0),
        max_count=max(conf.number("log_file_max_count", 10), 0),
    )


def _mtu(value: int, strict: bool) -> int:
    low, high = MTU_LIMITS
    if value and strict and not low <= value <= high:
        raise CniError(INVALID_CONFIG, f'MTU {value} is out of range: expected {low} to {high}, or 0 for automatic')
    return value


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise CniError(INVALID_CONFIG, f'configuration key "datastore_dir" is {path!r}: expected an absolute path')
    return os.path.normpath(path)


def _previous(body: Mapping[str, Any], version: str, strict: bool) -> Result | None:
    if body.get("prevResult") is None:
        return None
    try:
        return from_json(body["prevResult"], version)
    except ValueError as error:
        if strict:
            raise CniError(INVALID_CONFIG, f'configuration key "prevResult" is not a CNI result: {error}') from error
        return None


def _valid_attachments(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """Return GC's list of (container id, interface), or None when the runtime sent none at all.

    libcni sends it under two names, as null when nothing is valid; `cnitool gc` sends neither (rules G2, G3).
    """
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        if key in body:
            items = body[key] or []
            try:
                return tuple((_name(item["containerID"]), _name(item["ifname"])) for item in items)
            except (TypeError, KeyError):
                raise CniError(
                    INVALID_CONFIG,
                    f'configuration key "{key}" is {items!r}: expected a list of objects with containerID and ifname',
                ) from None
    return None


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
