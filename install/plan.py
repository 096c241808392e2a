"""What shall be on the host: everything is decided here, reading and checking, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from install import chain, conflist, interpreter, trampoline, tree
from install.errors import InstallError
from install.files import EXECUTABLE, PRIVATE, NewFile, is_writable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from install.settings import Layout, Settings
    from install.tree import Tree


@dataclass(frozen=True)
class Plan:
    """The library tree (None when no executable of ours is to be written), the files, and what stays as it is."""

    settings: Settings
    tree: Tree | None
    executables: tuple[NewFile, ...]
    kept: tuple[Path, ...]
    conflist: NewFile
    warnings: tuple[str, ...]

    @property
    def files(self) -> tuple[NewFile, ...]:
        """Every file, in the order in which they take their places."""
        return (*self.executables, self.conflist)

    @property
    def old_conflist(self) -> Path | None:
        """The configuration under its former name, if there is one to remove."""
        old = self.settings.layout.conf_dir / self.settings.old_conf_name
        return old if old != self.settings.conflist and old.is_file() else None


def make(settings: Settings, packages: Mapping[str, Path]) -> Plan:
    """Decide what to install of these package folders; writes nothing. Raises InstallError for what would not work."""
    network = conflist.load(settings)
    warnings = _check_mounts(settings)
    ours = [folder / name for folder in settings.layout.bin_dirs for name in trampoline.ENTRY_MODULES]
    kept = () if settings.update else tuple(path for path in ours if path.is_file())
    library, executables = _design([path for path in ours if path not in kept], settings, packages)
    bin_dirs, more = _usable(settings.layout, executables)
    chained = chain.settle(network, bin_dirs, settings)
    return Plan(
        settings=settings,
        tree=library,
        executables=(*(file for file in executables if file.path.parent in bin_dirs), *chained.copies),
        kept=kept,
        conflist=NewFile(settings.conflist, conflist.serialize(chained.conflist), PRIVATE),
        warnings=(*warnings, *more, *chained.warnings),
    )


def _design(paths: list[Path], settings: Settings, packages: Mapping[str, Path]) -> tuple[Tree | None, list[NewFile]]:
    """Return the library tree and the executables at these paths that load it."""
    if not paths:
        return None, []
    python = interpreter.examine(settings.python)
    library = tree.design(settings.layout, packages, python)
    files = [NewFile(path, trampoline.render(path.name, python, library.destination), EXECUTABLE) for path in paths]
    return library, files


def _usable(layout: Layout, executables: list[NewFile]) -> tuple[list[Path], list[str]]:
    """Return the bin directories that can hold our executables, and a warning for each other; all when none can."""
    blocked = {file.path.parent for file in executables if not is_writable(file.path.parent) and not file.is_current()}
    usable = [folder for folder in layout.bin_dirs if folder not in blocked]
    if not usable:
        return list(layout.bin_dirs), []
    return usable, [f"{folder} is not writable, nothing is installed there" for folder in sorted(blocked)]


def _check_mounts(settings: Settings) -> list[str]:
    """Refuse to write a library into a container where the host would never see it; warn of such a datastore."""
    layout = settings.layout
    if not layout.container or not layout.bin_dirs[0].is_mount():
        return []
    if not any(path.is_mount() for path in (layout.library, layout.library.parent)):
        raise InstallError(
            f"{layout.library} would stay inside the container: mount the host's {layout.host_library.parent.parent}"
            f" (not only its bin directory) at {layout.library.parent.parent}"
        )
    folders = (settings.datastore_dir, *settings.datastore_dir.parents)
    if settings.datastore_type == "file" and not any(path.is_mount() for path in folders if path != Path("/")):
        return [f"pools are seeded inside the container only: mount the host's {settings.datastore_dir} there too"]
    return []
