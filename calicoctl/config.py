"""Where the datastore is: Calico's configuration file, else the environment, as a frozen value.

As in Calico, a file that is there is all that counts: what it leaves out takes its default, and the environment is not
asked (libcalico-go lib/apiconfig/load.go). An unknown or misspelt key is an error, not a setting without effect.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from calicoctl.table import brief
from datastore.frozen import frozen
from datastore.settings import DEFAULT_DIR, Settings

DEFAULT_FILE = "/etc/calico/calicoctl.cfg"
API_VERSION = "projectcalico.org/v3"
KIND = "CalicoAPIConfig"
DEFAULT_KIND = "file"


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file or variable, the key and its value."""


@frozen
class Access:
    """Which datastore to open. `kind_setting` names the setting that `kind` came from."""

    kind: str
    directory: str
    kind_setting: str

    @property
    def settings(self) -> Settings:
        """The same as what opens a store."""
        return Settings(self.kind, self.directory)


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
    return from_file(path, data)


def from_environment(env: Mapping[str, str]) -> Access:
    """Return what DATASTORE_TYPE and CALICO_DATASTORE_DIR say; set but empty counts as unset. Raises ConfigError."""
    directory = env.get("CALICO_DATASTORE_DIR") or DEFAULT_DIR
    return Access(
        kind=env.get("DATASTORE_TYPE") or DEFAULT_KIND,
        directory=_absolute(directory, "environment variable CALICO_DATASTORE_DIR"),
        kind_setting="environment variable DATASTORE_TYPE",
    )


def from_file(path: str, data: bytes) -> Access:
    """Return what a CalicoAPIConfig file says. Raises ConfigError.

    Another datastore brings keys of its own (etcdEndpoints, kubeconfig …): they are looked at by whoever opens it.
    """
    whole = _mapping(_parse(path, data), "its content", path)
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if whole.get(key) != wanted:
            raise ConfigError(f'configuration file {path}: key "{key}" is {_show(whole.get(key))}, not "{wanted}"')
    spec = whole.get("spec")
    spec = _mapping({} if spec is None else spec, 'key "spec"', path)
    kind = _text(spec, "datastoreType", path) or DEFAULT_KIND
    _refuse_others(whole, ("apiVersion", "kind", "metadata", "spec"), "", path)
    if kind == DEFAULT_KIND:
        _refuse_others(spec, ("datastoreType", "datastoreDir"), "spec.", path)
    directory = _text(spec, "datastoreDir", path) or DEFAULT_DIR
    return Access(
        kind=kind,
        directory=_absolute(directory, f'configuration file {path}: key "spec.datastoreDir"'),
        kind_setting=f'configuration file {path}: key "spec.datastoreType"',
    )


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
        raise ConfigError(f'configuration file {path}: key "spec.{key}" is {_show(value)}, not a string')
    return value


def _refuse_others(mapping: Mapping[str, Any], known: tuple[str, ...], prefix: str, path: str) -> None:
    for key in mapping:
        if key not in known:
            raise ConfigError(f'configuration file {path}: key "{prefix}{key}" is not known here; '
                              f"keys are: {', '.join(prefix + name for name in known)}")


def _absolute(directory: str, setting: str) -> str:
    if not os.path.isabs(directory) or "\0" in directory:
        raise ConfigError(f"{setting} is {_show(directory)}: expected an absolute path")
    return directory


def _show(value: object) -> str:
    if value is None:
        return "missing"
    return f'"{value}"' if isinstance(value, str) else brief(value)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
