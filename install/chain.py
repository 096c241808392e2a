"""The executables that the configuration chains to ours: found, copied beside ours, or left out of it.

A configuration that names a missing executable, or offers a CNI version that one of its plugins does not speak, makes
every pod of the node fail.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from install.conflist import executables
from install.errors import InstallError
from install.files import EXECUTABLE, NewFile, is_writable, refusals
from install.trampoline import ENTRY_MODULES as OURS

if TYPE_CHECKING:
    from pathlib import Path

    from install.conflist import Conflist
    from install.settings import Settings

VERSION_SECONDS = 10


@dataclass(frozen=True)
class Chain:
    """A configuration that only names what will be there, the copies that make it so, and what to tell the operator."""

    conflist: Conflist
    copies: tuple[NewFile, ...]
    warnings: tuple[str, ...]


def settle(conflist: Conflist, bin_dirs: list[Path], settings: Settings) -> Chain:
    """Return what becomes of the chained executables. Raises InstallError when the first plugin's own are missing."""
    found = _find(conflist, bin_dirs, settings)
    plugins, warnings = _keep_complete(conflist["plugins"], found)
    conflist = conflist | {"plugins": plugins}
    used = {name: found[name] for plugin in plugins for name in executables(plugin) if name in found}
    conflist, more = _common_versions(conflist, used)
    copies = [
        _copy(source, folder / name)
        for name, source in used.items()
        if name not in settings.skip
        for folder in bin_dirs
        if not _is_executable(folder / name) and is_writable(folder)
    ]
    return Chain(conflist, tuple(copies), (*warnings, *more))


def _find(conflist: Conflist, bin_dirs: list[Path], settings: Settings) -> dict[str, Path]:
    """Return where each foreign executable is: in a bin directory, or else where it can be copied from."""
    can_copy = any(is_writable(folder) for folder in bin_dirs)
    names = {name for plugin in conflist["plugins"] for name in executables(plugin)} - OURS.keys()
    found = {}
    for name in sorted(names):
        sources = settings.plugin_sources if can_copy and name not in settings.skip else ()
        places = (folder / name for folder in (*bin_dirs, *sources))
        place = next((place for place in places if _is_executable(place)), None)
        if place:
            found[name] = place
    return found


def _keep_complete(plugins: list[dict[str, Any]], found: dict[str, Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the plugins all of whose executables there are, and a warning for each of the others."""
    kept, warnings = [], []
    for plugin in plugins:
        missing = [name for name in executables(plugin) if name not in OURS and name not in found]
        if not missing:
            kept.append(plugin)
        elif plugin is plugins[0]:
            raise InstallError(
                f"the executable {missing[0]!r} of the network's first plugin is nowhere to be found: put it into the"
                " bin directory (Debian: apt-get install containernetworking-plugins)"
            )
        else:
            warnings.append(
                f"plugin {plugin['type']!r} is left out of the configuration: no executable {missing[0]!r} to be found"
                " (Debian: apt-get install containernetworking-plugins, then run install-cni again)"
            )
    return kept, warnings


def _common_versions(conflist: Conflist, used: dict[str, Path]) -> tuple[Conflist, list[str]]:
    """Offer runtimes no CNI version that a chained executable refuses; libcni picks the highest for the whole list."""
    warnings = []
    offered = conflist.get("cniVersions", [])
    for path in used.values():
        spoken = _versions(path)
        if spoken is None:
            continue
        refused = [version for version in offered if version not in spoken]
        offered = [version for version in offered if version in spoken]
        if refused:
            warnings.append(f"CNI version {', '.join(refused)} is not offered to runtimes: {path} does not speak it")
        if conflist["cniVersion"] not in spoken:
            warnings.append(f"{path} does not speak CNI version {conflist['cniVersion']}: pods will fail; upgrade it")
    return (conflist | {"cniVersions": offered} if "cniVersions" in conflist else conflist), warnings


def _versions(executable: Path) -> list[str] | None:
    """Ask a plugin which CNI versions it speaks; None when it does not say (not every old one answers VERSION)."""
    try:
        done = subprocess.run(
            [executable], env={"CNI_COMMAND": "VERSION"}, input=b'{"cniVersion":"1.0.0"}', cwd="/",
            capture_output=True, timeout=VERSION_SECONDS, check=True,
        )  # fmt: skip
        versions = json.loads(done.stdout)["supportedVersions"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
    return [version for version in versions if isinstance(version, str)] if isinstance(versions, list) else None


def _copy(source: Path, destination: Path) -> NewFile:
    with refusals("read", source):
        return NewFile(destination, source.read_bytes(), EXECUTABLE)


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
