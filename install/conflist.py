"""The network configuration: a template with placeholders in, checked JSON out."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from install.errors import InstallError
from install.files import refusals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from install.settings import Settings

    Conflist = dict[str, Any]
    Value = str | int | bool

PLACEHOLDER = re.compile(r"__([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)__")
STRING_OR_PLACEHOLDER = re.compile(rf'"(?:[^"\\]|\\.)*"|{PLACEHOLDER.pattern}', re.DOTALL)
EXECUTABLE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # libcni refuses a type with a path separator
DATASTORE_KEY = re.compile(r"etcd_.*|datastore_dir|ipam_lock_file")
OURS = "calico"
NETWORK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")  # libcni utils.ValidateNetworkName


def load(settings: Settings) -> Conflist:
    """Return the network configuration these settings describe. Raises InstallError saying what is wrong in it."""
    template, origin = _template(settings)
    network = check(render(template, settings.placeholders, origin), origin)
    return network | {"plugins": [_told(plugin) for plugin in network["plugins"]]}


def render(template: str, values: Mapping[str, Value], origin: str = "the template") -> str:
    """Return the template with every placeholder replaced by its value, written so that it can only be a value.

    Inside a JSON string the value's text is escaped; outside of one it is a JSON value of its own, quotes included.
    A placeholder that nobody knows raises InstallError.
    """

    def value_of(name: str) -> Value:
        if name not in values:
            raise InstallError(f"{origin} has the unknown placeholder __{name}__: write the value itself there")
        return values[name]

    def replace(token: re.Match[str]) -> str:
        if token[1]:
            return json.dumps(value_of(token[1]))
        return PLACEHOLDER.sub(lambda match: _inside_string(value_of(match[1])), token[0])

    return STRING_OR_PLACEHOLDER.sub(replace, template)


def check(text: str, origin: str) -> Conflist:
    """Return the parsed configuration if runtimes can use it as a plugin list. Raises InstallError."""
    try:
        conflist = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise InstallError(f"{origin} is not valid JSON once rendered: {error}; correct it") from None
    reason = _unusable(conflist)
    if reason:
        raise InstallError(f"{origin} is not a CNI plugin list: {reason}; correct it")
    result: Conflist = conflist
    return result


def executables(plugin: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the executables that one plugin of a checked configuration needs."""
    yield plugin["type"]
    ipam = plugin.get("ipam")
    if isinstance(ipam, dict) and ipam.get("type"):
        yield ipam["type"]


def serialize(conflist: Conflist) -> bytes:
    """Return the configuration as the text that is written to disk."""
    return (json.dumps(conflist, indent=2) + "\n").encode()


def _template(settings: Settings) -> tuple[str, str]:
    """Return the template and what to call it in an error."""
    if settings.network_config_file:
        with refusals("read CNI_NETWORK_CONFIG_FILE", settings.network_config_file):
            raw = settings.network_config_file.read_bytes()
        origin = f"CNI_NETWORK_CONFIG_FILE {settings.network_config_file}"
        try:
            return raw.decode(), origin
        except UnicodeDecodeError:
            raise InstallError(f"{origin} is not UTF-8 text; correct it") from None
    if settings.network_config:
        return settings.network_config, "CNI_NETWORK_CONFIG"
    return resources.files("conf").joinpath("10-calico.conflist").read_text("utf-8"), "conf/10-calico.conflist"


def _told(plugin: Conflist) -> Conflist:
    """Return a plugin of the configuration without keys of the datastore that are empty: those of other datastores."""
    if plugin["type"] != OURS:
        return plugin
    return {key: value for key, value in plugin.items() if value != "" or not DATASTORE_KEY.fullmatch(key)}


def _inside_string(value: Value) -> str:
    return json.dumps(value if isinstance(value, str) else json.dumps(value))[1:-1]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unusable(conflist: object) -> str:
    """Return why runtimes would refuse the configuration, or ""."""
    if not isinstance(conflist, dict):
        return "it must be an object"
    if not _matches(NETWORK_NAME, conflist.get("name")):
        return '"name" must be a network name of letters, digits, "_", "." and "-"'
    if not isinstance(conflist.get("cniVersion"), str):
        return '"cniVersion" must be there, as a string such as "1.0.0"'
    versions = conflist.get("cniVersions", [])
    if not isinstance(versions, list) or not all(isinstance(version, str) for version in versions):
        return '"cniVersions" must be a list of strings'
    plugins = conflist.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        return '"plugins" must be a list with at least one plugin'
    reasons = ((number, _unusable_plugin(plugin)) for number, plugin in enumerate(plugins, start=1))
    return next((f"plugin {number}: {reason}" for number, reason in reasons if reason), "")


def _unusable_plugin(plugin: object) -> str:
    if not isinstance(plugin, dict) or not _matches(EXECUTABLE_NAME, plugin.get("type")):
        return '"type" must be the name of an executable'
    ipam = plugin.get("ipam")
    if isinstance(ipam, dict) and ipam.get("type") and not _matches(EXECUTABLE_NAME, ipam["type"]):
        return '"ipam.type" must be the name of an executable'
    return ""


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))
