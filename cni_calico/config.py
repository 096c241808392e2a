"""The network configuration on stdin as one frozen value: every key we read, every default, every check.

Keys are Calico's (cni-plugin pkg/types/types.go) and the spec's. Unknown keys are ignored. For DEL only what it cannot
do without is checked (rule D9: only cniVersion, name and type can be trusted then); anything else odd gets its default.
"""

from __future__ import annotations

import os

from cni_calico.args import parse_addresses, parse_mac
from cni_calico.errors import INVALID_CONFIG, CniError
from cni_calico.node import check_mtu
from cni_calico.result import DNS_LISTS, Result, Route, from_json
from datastore import settings
from datastore.frozen import frozen
from datastore.settings import BadSettings, Etcd, Settings
from ipam.cidr import parse_address, parse_network
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeVar

    from ipam.cidr import Address

    T = TypeVar("T")

NODENAME_FILE = "/var/lib/calico/nodename"
OUR_IPAM = "calico-ipam"
MB = 1024 * 1024
MOST_QUEUES = 4096  # drivers/net/veth.c (its limit on IFLA_NUM_TX_QUEUES)
GATEWAY = {4: parse_address("169.254.1.1"), 6: parse_address("fe80::ecee:eeff:feee:eeee")}  # nobody's; the host end's


@frozen
class Ipam:
    """The `ipam` section."""

    type: str
    families: tuple[int, ...]
    pools: Mapping[int, tuple[str, ...]]
    routes: tuple[Route, ...]


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
    datastore: Settings
    dns: Mapping[str, Any]
    addresses: tuple[Address, ...]
    mac: bytes
    previous: Result | None
    valid_attachments: tuple[tuple[str, str], ...] | None


def parse(
    body: Mapping[str, Any], name: str, version: str, strict: bool = True, env: Mapping[str, str] | None = None
) -> NetConf:
    """Return the configuration of the network; raises CniError 7 naming the key and value that are wrong.

    env: where the settings of the datastore come from that the configuration leaves out (DATASTORE_TYPE, ETCD_…).
    """
    conf = Section(body, "", strict)
    datastore = _datastore(conf, env or {})
    runtime = conf.section("runtimeConfig", fold=True)
    return NetConf(
        version=version,
        name=name,
        ipam=_ipam(conf.section("ipam")),
        mtu=_mtu(conf),
        require_mtu_file=conf.truth("require_mtu_file", False),
        num_queues=_queues(conf),
        nodename=conf.text("nodename"),
        nodename_file=conf.text("nodename_file") or NODENAME_FILE,
        nodename_file_optional=conf.truth("nodename_file_optional", datastore.kind == settings.FILE),
        allow_ip_forwarding=conf.section("container_settings").truth("allow_ip_forwarding", False),
        include_default_routes=conf.truth("include_default_routes", False),
        datastore=datastore,
        dns=_dns(conf.section("dns")),
        addresses=_addresses(conf, runtime),
        mac=_mac(runtime),
        previous=_previous(body, version, strict),
        valid_attachments=_valid_attachments(body) if strict else None,
    )


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

    def items(self, key: str) -> list[Any]:
        """Return a list, empty when absent."""
        return self._typed(key, list, [], "a list")

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings; a single string stands for a list of one."""
        value = self.body.get(key)
        if isinstance(value, str):
            return (value,)
        items = self.items(key)
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
        if not section.strict:
            return Ipam(OUR_IPAM, (), {}, ())
        raise CniError(INVALID_CONFIG, f'configuration key "ipam.type" is {kind!r}: expected the name of an executable')
    wanted = {4: section.truth("assign_ipv4", True), 6: section.truth("assign_ipv6", False)}
    families = tuple(family for family, yes in wanted.items() if yes)
    if not families and section.strict:
        raise CniError(INVALID_CONFIG, '"ipam.assign_ipv4" and "ipam.assign_ipv6" are both off: no address to assign')
    return Ipam(
        type=kind,
        families=families,
        pools={4: section.texts("ipv4_pools"), 6: section.texts("ipv6_pools")},
        routes=_ipam_routes(section),
    )


def _ipam_routes(section: Section) -> tuple[Route, ...]:
    """Return the routes named in `ipam`; wrong ones are an error when strict, else left out."""
    found = []
    for route in section.items("routes"):
        try:
            parse_network(route["dst"])
            found.append(Route(route["dst"], str(parse_address(route["gw"])) if route.get("gw") else ""))
        except (BadRequest, KeyError, TypeError, AttributeError):
            if section.strict:
                raise CniError(INVALID_CONFIG, f'configuration key "ipam.routes" has {route!r}: expected an object '
                                               'with "dst", a CIDR, and perhaps "gw", an address') from None
    return tuple(found)


def _addresses(conf: Section, runtime: Section) -> tuple[Address, ...]:
    if not conf.strict:
        return ()
    asked = parse_addresses(conf.section("args").section("cni").texts("ips"), "args.cni.ips", INVALID_CONFIG)
    return (*asked, *parse_addresses(runtime.texts("ips"), "runtimeConfig.ips", INVALID_CONFIG))


def log_settings(body: Mapping[str, Any]) -> LogSettings:
    """Return the log's settings from a configuration that may be wrong; what is wrong in them gets its default."""
    conf = Section(body, "", strict=False)
    return LogSettings(
        level=conf.text("log_level").lower() or "info",
        path=conf.text("log_file_path"),
        max_size=max(conf.number("log_file_max_size", 100), 0) * MB,
        max_age=max(conf.number("log_file_max_age", 30), 0),
        max_count=max(conf.number("log_file_max_count", 10), 0),
    )


def _mac(runtime: Section) -> bytes:
    text = runtime.text("mac")
    return parse_mac(text, "runtimeConfig.mac", INVALID_CONFIG) if text and runtime.strict else b""


def _mtu(conf: Section) -> int:
    value = conf.number("mtu", 0)
    return check_mtu(value) if value and conf.strict else value


def _queues(conf: Section) -> int:
    value = max(conf.number("num_queues", 1), 1)  # Calico takes what is below for 1
    if value > MOST_QUEUES and conf.strict:
        raise CniError(INVALID_CONFIG, f'configuration key "num_queues" is {value}: expected at most {MOST_QUEUES}')
    return value


def _dns(section: Section) -> Mapping[str, Any]:
    """Return the `dns` section, its keys of the types that libcni can decode; any key counts, an empty list too."""
    found: dict[str, Any] = {key: list(section.texts(key)) for key in DNS_LISTS if key in section.body}
    return found | ({"domain": section.text("domain")} if "domain" in section.body else {})


def _datastore(conf: Section, env: Mapping[str, str]) -> Settings:
    """Return where the datastore is; wrong settings are an error for DEL too, which can do nothing without it."""
    meant = settings.ETCD if any(conf.text(f"etcd_{name}") for name in settings.PLACES) else settings.FILE
    kind = conf.text("datastore_type") or env.get("DATASTORE_TYPE") or meant
    return Settings(
        kind=kind,
        directory=_absolute(conf.text("datastore_dir") or settings.DEFAULT_DIR, "datastore_dir"),
        etcd=_etcd(conf, env) if kind == settings.ETCD else Etcd(),
        lock_file=_absolute(conf.text("ipam_lock_file") or settings.LOCK_FILE, "ipam_lock_file"),
    )


def _etcd(conf: Section, env: Mapping[str, str]) -> Etcd:
    told = {name: conf.text(f"etcd_{name}") for name in settings.NAMES}
    texts = {name: text or env.get(settings.in_environment(name), "") for name, text in told.items()}

    def spelt(name: str) -> str:
        if told[name] or not texts[name]:
            return f'configuration key "etcd_{name}"'
        return f"environment variable {settings.in_environment(name)}"

    try:
        return settings.etcd_of(texts, spelt)
    except BadSettings as error:
        raise CniError(INVALID_CONFIG, str(error)) from error


def _absolute(path: str, key: str) -> str:
    if not path.startswith("/") or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in path):
        raise CniError(INVALID_CONFIG, f'configuration key "{key}" is {path!r}: expected an absolute path')
    return os.path.normpath(path)


def _previous(body: Mapping[str, Any], version: str, strict: bool) -> Result | None:
    if body.get("prevResult") is None:
        return None
    try:
        found = from_json(body["prevResult"], version)
        for ip in found.ips:
            parse_network(ip.address)
        return found
    except (ValueError, BadRequest) as error:
        if strict:
            raise CniError(INVALID_CONFIG, f'configuration key "prevResult" is not a CNI result: {error}') from error
        return None


def _valid_attachments(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """Return GC's list of (container id, interface), or None when the runtime sent none at all.

    libcni sends it under two names, as null when nothing is valid; `cnitool gc` sends neither (rules G2, G3).
    """
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        if key in body:
            items = [] if body[key] is None else body[key]
            try:
                if not isinstance(items, list):
                    raise TypeError
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
