"""How the plugin shall reach etcd: the settings, and the files of TLS that go to the host with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datastore.api import Refused
from datastore.settings import CA_CERT, CERT, KEY, NAMES, BadSettings, Etcd, etcd_of, in_environment
from datastore.tls import context_of
from install.errors import InstallError
from install.files import PRIVATE, NewFile, NewFolder, refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

ASSETS = {CA_CERT: "etcd-ca", CERT: "etcd-cert", KEY: "etcd-key"}  # Calico's names, in TLS_ASSETS_DIR and on the host
FOLDER = "calico-tls"  # Calico's, too, beside the network configuration


def resolve(env: Mapping[str, str], assets: Path) -> Etcd:
    """Return what ETCD_… say; a PEM file that none of them names is looked for among the assets. Raises InstallError.

    The settings are as this process sees them: the files are those that are to be copied.
    """
    texts = {name: env.get(in_environment(name), "") for name in NAMES}
    places = {_file(name): str(assets / asset) for name, asset in ASSETS.items()
              if not texts[name] and not texts[_file(name)]}
    with refusals("read", assets):
        found = {name: place for name, place in places.items() if Path(place).is_file()}
    try:
        return etcd_of(texts | found, lambda name: places.get(name, in_environment(name)) if found else
                       in_environment(name))
    except BadSettings as error:
        raise InstallError(str(error)) from error


def placeholders(etcd: Etcd | None, folder: str) -> dict[str, str]:
    """Return what the template's placeholders stand for, all empty without etcd. folder: of the files, on the host."""
    told = etcd or Etcd(endpoints=())
    return {
        "ETCD_ENDPOINTS": "" if told.discovery_srv else ",".join(told.endpoints),
        "ETCD_DISCOVERY_SRV": told.discovery_srv,
        "ETCD_USERNAME": told.username,
        "ETCD_PASSWORD": told.password,
        **{in_environment(_file(name)): f"{folder}/{asset}" if _is_set(told, name) else ""
           for name, asset in ASSETS.items()},
    }


def tls_folder(etcd: Etcd | None, place: Path) -> NewFolder | None:
    """Return the folder of the files of TLS, None where there are none. Raises InstallError for what cannot be used."""
    names = [name for name in ASSETS if etcd and _is_set(etcd, name)]
    if not etcd or not names:
        return None
    files = tuple(NewFile(place / ASSETS[name], _content(etcd, name), PRIVATE) for name in names)
    try:
        context_of(etcd)
    except Refused as error:
        raise InstallError(f"{error}; nothing is copied") from error
    return NewFolder(place, files)


def _content(etcd: Etcd, name: str) -> bytes:
    inline, file = _told(etcd, name)
    if inline:
        return inline.encode()
    with refusals(f"read {in_environment(_file(name))}", Path(file)):
        return Path(file).read_bytes()


def _is_set(etcd: Etcd, name: str) -> bool:
    return any(_told(etcd, name))


def _told(etcd: Etcd, name: str) -> tuple[str, str]:
    """Return a PEM text, or else the path of its file."""
    return getattr(etcd, name), getattr(etcd, _file(name))


def _file(name: str) -> str:
    return f"{name}_file"
