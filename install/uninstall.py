"""Taking the plugin off a host: the configuration first, so that no runtime calls what is about to go."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from install import files, tree
from install.launcher import is_ours, places
from install.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from install.settings import Settings


def uninstall(settings: Settings, *, dry_run: bool) -> Report:
    """Remove the configuration, its files of TLS, our executables and their library; say what stays.

    Executables that install-cni did not write stay, and with them the configuration, which is then theirs too. The
    datastore and the chained plugins stay in any case. Running it again finds nothing and succeeds. May raise
    InstallError.
    """
    report = Report(dry_run=dry_run)
    layout = settings.layout
    with ExitStack() as lock:
        if layout.library.is_dir() and not dry_run:
            lock.enter_context(files.locked(layout.library))
        for path in _doomed_files(settings, report):
            report.add("remove", path)
            if not dry_run:
                (files.remove_folder if path == settings.tls_folder else files.remove)(path)
        for path in (*tree.present(layout.library), *tree.leftovers(layout.library)):
            report.add("remove", path)
            if not dry_run:
                tree.remove(path)
        if not dry_run:
            files.remove_empty(layout.library)
            files.remove_empty(layout.library.parent)
    _note_rest(settings, report)
    return report


def _doomed_files(settings: Settings, report: Report) -> list[Path]:
    """Return the files to remove, in order; those that are not ours are noted as kept."""
    present = [path for path in places(settings.layout.bin_dirs) if path.is_file()]
    foreign = [path for path in present if not is_ours(path)]
    configuration = [settings.conflist] if settings.conflist.is_file() else []
    if any(path.is_dir() for path in (settings.tls_folder, files.temporary(settings.tls_folder))):
        configuration.append(settings.tls_folder)
    if foreign:
        for path in (*configuration, *foreign):
            report.add("keep", path, "install-cni did not write the executables")
        configuration = []
    return [*configuration, *(path for path in present if path not in foreign)]


def _note_rest(settings: Settings, report: Report) -> None:
    if settings.datastore_type == "file" and settings.datastore_dir.is_dir():
        report.add("keep", settings.datastore_dir, "pools and addresses; remove it by hand when no pod is left")
    for folder in settings.layout.bin_dirs:
        if folder.is_dir() and any(path not in places([folder]) for path in folder.iterdir()):
            report.add("keep", folder, "chained plugins")
