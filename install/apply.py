"""Carrying out a plan so that a failure at any step leaves what was there, and the configuration comes last.

Everything that can fail for want of space, rights or sense happens first: the library tree, every file under a
temporary name, the pools. Only renames are left then.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from install import files, launcher, seed, tree
from install.errors import InstallError
from install.report import Report
from install.trampoline import tree_of

if TYPE_CHECKING:
    from install.files import NewFile, NewFolder
    from install.plan import Plan
    from install.tree import Tree


def preview(plan: Plan) -> Report:
    """Return what `apply` would do, having written nothing."""
    report = Report(dry_run=True, warnings=list(plan.warnings), notes=list(plan.notes))
    if plan.tree:
        report.add("unchanged" if tree.is_complete(plan.tree.path) else "install", plan.tree.path)
    place = seed.place(plan.settings)
    if place:
        report.add("create", f"the default pools in {place}", "if it has none")
    _note_files(plan, {file for file in plan.files if not file.is_current()}, report)
    for path in (*plan.outdated, *plan.outdated_folders):
        report.add("remove", path)
    return report


def apply(plan: Plan) -> Report:
    """Put everything in its place and return what was done. Raises InstallError; what was there is then still there."""
    report = Report(warnings=list(plan.warnings), notes=list(plan.notes))
    with ExitStack() as directories, ExitStack() as lock, ExitStack() as new_tree, ExitStack() as temporaries:
        for folder in dict.fromkeys(file.path.parent for file in plan.files):
            files.make_directory(folder, directories)
        if plan.tree:
            files.make_directory(plan.tree.path.parent, directories)
            lock.enter_context(files.locked(plan.tree.path.parent))
            _provide(plan.tree, new_tree, report)
        changed = [file for file in plan.files if not file.is_current()]
        for file in changed:
            files.stage(file, temporaries)
        seed.seed(plan.settings, report)
        directories.pop_all()
        new_tree.pop_all()
        for file in changed:
            files.commit(file)
        _note_files(plan, set(changed), report)
        _tidy(plan, report)
    return report


def _provide(library: Tree, undo: ExitStack, report: Report) -> None:
    """Build the library tree unless it is there, whole."""
    if tree.is_complete(library.path):
        report.add("unchanged", library.path)
    else:
        is_new = not library.path.exists()
        tree.build(library)
        if is_new:
            undo.callback(tree.remove, library.path)
        report.add("install", library.path)
    tree.mark_used(library.path)


def _note_files(plan: Plan, changed: set[NewFile | NewFolder], report: Report) -> None:
    for path in plan.kept:
        report.add("keep", path, "UPDATE_CNI_BINARIES=false")
    for file in plan.files:
        report.add("install" if file in changed else "unchanged", file.path)


def _tidy(plan: Plan, report: Report) -> None:
    """Remove files that are not used any more and the trees nobody runs; a tree that cannot be removed is a warning."""
    for path in plan.outdated:
        report.add("remove", path)
        files.remove(path)
    for path in plan.outdated_folders:
        report.add("remove", path)
        files.remove_folder(path)
    if not plan.tree:
        return
    library = plan.settings.layout.library
    executables = launcher.places(plan.settings.layout.bin_dirs)
    in_use = {plan.tree.path.name, *filter(None, map(tree_of, executables))}
    try:
        for path in (*tree.leftovers(library), *tree.stale(library, in_use)):
            tree.remove(path)
            report.add("remove", path, "former library")
    except InstallError as error:
        report.warnings.append(str(error))
