"""What shall be on the host: everything is decided here, reading and checking, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from install import chain, conflist, etcd, interpreter, launcher, trampoline, tree
from install.errors import InstallError
from install.files import EXECUTABLE, PRIVATE, NewFile, NewFolder, is_writable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from install.settings import Layout, Settings
    from install.tree import Tree


@dataclass(frozen=True)
class Plan:
    """The library tree (None when no executable of ours is to be written), the files, what stays, and what goes."""

    settings: Settings
    tree: Tree | None
    executables: tuple[NewFile, ...]
    kept: tuple[Path, ...]
    tls: NewFolder | None
    conflist: NewFile
    former: tuple[Path, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def files(self) -> tuple[NewFile | NewFolder, ...]:
        """Everything else to write, in the order in which it takes its place."""
        return (*self.executables, *((self.tls,) if self.tls else ()), self.conflist)

    @property
    def outdated(self) -> tuple[Path, ...]:
        """What is to be removed: plugins whose launcher goes, and the configuration under its former name."""
        old = self.settings.layout.conf_dir / self.settings.old_conf_name
        return (*self.former, old) if old != self.settings.conflist and old.is_file() else self.former

    @property
    def outdated_folders(self) -> tuple[Path, ...]:
        """Likewise: the files of TLS that no configuration names any more."""
        former = self.settings.tls_folder
        return (former,) if not self.tls and former.is_dir() else ()


def make(settings: Settings, packages: Mapping[str, Path]) -> Plan:
    """Decide what to install of these package folders; writes nothing. Raises InstallError for what would not work."""
    network = conflist.load(settings)
    tls = etcd.tls_folder(settings.etcd, settings.tls_folder)
    warnings = _check_mounts(settings)
    ours = [folder / name for folder in settings.layout.bin_dirs for name in trampoline.ENTRY_MODULES]
    kept = () if settings.update else tuple(path for path in ours if path.is_file())
    native, doubts = launcher.load(settings.launcher)
    library, executables = _design(ours, kept, native, settings, packages)
    bin_dirs, more = _usable(settings.layout, executables)
    chained = chain.settle(network, bin_dirs, settings)
    return Plan(
        settings=settings,
        tree=library,
        executables=(*(file for file in executables if file.path.parent in bin_dirs), *chained.copies),
        kept=kept,
        tls=tls,
        conflist=NewFile(settings.conflist, conflist.serialize(chained.conflist), PRIVATE),
        former=_former_fall_backs(ours, kept, native),
        warnings=(*warnings, *doubts, *more, *chained.warnings),
        notes=launcher.lack(settings.launcher) if any(path not in kept for path in ours) else (),
    )


def _design(
    ours: list[Path], kept: tuple[Path, ...], native: bytes | None, settings: Settings, packages: Mapping[str, Path]
) -> tuple[Tree | None, list[NewFile]]:
    """Return the executables to write, a launcher after its fall-back, and the library tree that the plugins load."""
    plugins = {path: _plugin_place(path, path in kept, native) for path in ours}
    if not any(plugins.values()):
        return None, []
    python = interpreter.examine(settings.python)
    library = tree.design(settings.layout, packages, python)
    files = []
    for path, place in plugins.items():
        if place:
            files.append(NewFile(place, trampoline.render(path.name, python, library.destination), EXECUTABLE))
        if native and path not in kept:
            files.append(NewFile(path, native, EXECUTABLE))
    return library, files


def _plugin_place(path: Path, is_kept: bool, native: bytes | None) -> Path | None:
    """Return where the Python plugin for this executable belongs; None when it has one that is kept."""
    behind = launcher.fall_back(path)
    if not is_kept:
        return behind if native else path
    return behind if launcher.is_launcher(path) and not behind.is_file() else None


def _former_fall_backs(ours: list[Path], kept: tuple[Path, ...], native: bytes | None) -> tuple[Path, ...]:
    """Return the plugins behind launchers that will not be there any more."""
    alone = [path for path in ours if not (launcher.is_launcher(path) if path in kept else native)]
    behind = [launcher.fall_back(path) for path in alone]
    return tuple(path for path in behind if trampoline.tree_of(path) and is_writable(path.parent))


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
