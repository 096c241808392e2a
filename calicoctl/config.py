"""Where the datastore is: Calico's configuration file, else the environment, as a frozen value.

As in Calico, a file that is there is all that counts: what it leaves out takes its default, and the environment is not
asked (libcalico-go lib/apiconfig/load.go). An unknown or misspelt key is an error, not a setting without effect.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from calicoctl.table import brief
from datastore import settings as known
from datastore.frozen import frozen, replace
from datastore.settings import BadSettings, Etcd, Settings

DEFAULT_FILE = "/etc/calico/calicoctl.cfg"
API_VERSION = "projectcalico.org/v3"
KIND = "CalicoAPIConfig"
TYPE, DIRECTORY = "datastoreType", "datastoreDir"
# The keys of a file by the names that datastore/settings.py has for them (libcalico-go lib/apiconfig, EtcdConfig).
ETCD_KEYS = {
    known.ENDPOINTS: "etcdEndpoints",
    known.DISCOVERY_SRV: "etcdDiscoverySrv",
    known.USERNAME: "etcdUsername",
    known.PASSWORD: "etcdPassword",
    known.KEY_FILE: "etcdKeyFile",
    known.CERT_FILE: "etcdCertFile",
    known.CA_CERT_FILE: "etcdCACertFile",
    known.KEY: "etcdKey",
    known.CERT: "etcdCert",
    known.CA_CERT: "etcdCACert",
}
KEYS = {known.FILE: (TYPE, DIRECTORY), known.ETCD: (TYPE, *ETCD_KEYS.values())}
ALL_KEYS = {key for keys in KEYS.values() for key in keys}
SECRETS = (ETCD_KEYS[known.PASSWORD], ETCD_KEYS[known.KEY])


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file or variable, the key and its value."""


@frozen
class Access:
    """Which datastore to open. `kind_setting` names the setting that its kind came from."""

    settings: Settings
    kind_setting: str


def load(named: str | None, env: Mapping[str, str], default_file: str = DEFAULT_FILE) -> Access:
    """Return where the datastore is: from the file named, else the default file, else the environment.

    Raises ConfigError; a file that was named has to exist, the default one need not.
    """
    path = default_file if named is None else named
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        if named is None:
            return from_environment(env)
        raise ConfigError(f"configuration file {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {_reason(error)}") from error
    found = from_file(path, data)
    lock_file = env.get("CALICO_IPAM_LOCK_FILE") or known.LOCK_FILE
    return replace(found, settings=replace(found.settings, lock_file=lock_file))


def from_environment(env: Mapping[str, str]) -> Access:
    """Return what DATASTORE_TYPE, CALICO_DATASTORE_DIR and ETCD_… say; set but empty counts as unset.

    Without DATASTORE_TYPE it is etcdv3 where a variable says where etcd is. Raises ConfigError.
    """
    setting = "environment variable DATASTORE_TYPE"
    kind = env.get("DATASTORE_TYPE") or _kind_meant(
        setting, _given(env, ["CALICO_DATASTORE_DIR"]), _given(env, map(known.in_environment, known.PLACES)))
    try:
        settings = known.from_environment({**env, "DATASTORE_TYPE": kind})
    except BadSettings as error:
        raise ConfigError(str(error)) from error
    _require_absolute(settings.directory, "environment variable CALICO_DATASTORE_DIR")
    return Access(settings, setting)


def from_file(path: str, data: bytes) -> Access:
    """Return what a CalicoAPIConfig file says. Without datastoreType it is etcdv3 where a key is etcd's.

    Raises ConfigError. A datastore that is not known here brings keys of its own (kubeconfig …): they are not looked
    at, so that what is said about the file is that the datastore is not known.
    """
    whole = _mapping(_parse(path, data), "its content", path)
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if whole.get(key) != wanted:
            raise ConfigError(f'configuration file {path}: key "{key}" is {_show(whole.get(key))}, not "{wanted}"')
    spec = whole.get("spec")
    spec = _mapping({} if spec is None else spec, 'key "spec"', path)
    _refuse_others(whole, ("apiVersion", "kind", "metadata", "spec"), "", path)
    setting = f'configuration file {path}: key "spec.{TYPE}"'
    kind = _text(spec, TYPE, path) or _kind_meant(setting, _given(spec, [DIRECTORY]), _given(spec, ETCD_KEYS.values()))
    if kind in KEYS:
        given = [key for key in spec if spec[key] or key not in ALL_KEYS]  # set but empty counts as unset
        _refuse_others(given, KEYS[kind], "spec.", path)
    directory = _text(spec, DIRECTORY, path) or known.DEFAULT_DIR
    _require_absolute(directory, f'configuration file {path}: key "spec.{DIRECTORY}"')
    return Access(Settings(kind, directory, _etcd(spec, path) if kind == known.ETCD else Etcd()), setting)


def _given(settings: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return the first of the names that is set, empty if none is."""
    return next((name for name in names if settings.get(name)), "")


def _kind_meant(setting: str, of_file: str, of_etcd: str) -> str:
    """Return the kind of datastore that other settings tell of, where `setting` does not; raises ConfigError."""
    if of_file and of_etcd:
        raise ConfigError(f"{setting} is missing, while {of_file} is for {known.FILE} and {of_etcd} for {known.ETCD}; "
                          "set it to one of them")
    return known.ETCD if of_etcd else known.FILE


def _etcd(spec: Mapping[str, Any], path: str) -> Etcd:
    texts = {name: _text(spec, key, path) or "" for name, key in ETCD_KEYS.items()}
    try:
        return known.etcd_of(texts, lambda name: f'configuration file {path}: key "spec.{ETCD_KEYS[name]}"')
    except BadSettings as error:
        raise ConfigError(str(error)) from error


def _parse(path: str, data: bytes) -> object:
    """Return what is in a JSON or YAML file. PyYAML is asked for only when the file is not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        pass  # then it is YAML, or the YAML reader says what is wrong with it
    try:
        import yaml

        from calicoctl import yamltext
    except ImportError:
        raise ConfigError(f"configuration file {path} is not JSON, and reading YAML needs PyYAML, which is not "
                          "installed; install it, or write the file as JSON") from None
    try:
        documents = list(yamltext.read_all(data))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration file {path} is neither JSON nor YAML: {_reason(error)}") from error
    if len(documents) > 1:
        raise ConfigError(f"configuration file {path} has {len(documents)} documents: expected one")
    return documents[0] if documents else None


def _mapping(value: object, what: str, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"configuration file {path}: {what} is not a mapping of keys to values")
    return value


def _text(spec: Mapping[str, Any], key: str, path: str) -> str | None:
    value = spec.get(key)
    if value is not None and not isinstance(value, str):
        shown = "" if key in SECRETS else f"{_show(value)}, "
        raise ConfigError(f'configuration file {path}: key "spec.{key}" is {shown}not a string')
    return value


def _refuse_others(names: Iterable[str], right: tuple[str, ...], prefix: str, path: str) -> None:
    for key in names:
        if key not in right:
            raise ConfigError(f'configuration file {path}: key "{prefix}{key}" is not known here; '
                              f"keys are: {', '.join(prefix + name for name in right)}")


def _require_absolute(directory: str, setting: str) -> None:
    if not os.path.isabs(directory) or "\0" in directory:
        raise ConfigError(f"{setting} is {_show(directory)}: expected an absolute path")


def _show(value: object) -> str:
    if value is None:
        return "missing"
    return f'"{value}"' if isinstance(value, str) else brief(value)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
