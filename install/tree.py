"""The library tree: every module the plugins load, with its bytecode, in a directory named after its content.

A tree is built beside its place and renamed into it, so a half-built one is never loaded; a tree that is there is
never changed, because plugins may be running from it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from install.errors import InstallError
from install.files import PUBLIC_DIRECTORY, READABLE, refusals, sync_directory
from install.interpreter import compile_tree, try_imports
from install.trampoline import ENTRY_MODULES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from install.interpreter import Interpreter
    from install.settings import Layout

PACKAGES = ("cni_calico", "ipam", "datastore", "pyroute2", "netaddr", "filelock", "dns")
LEFT_OUT = frozenset({"__pycache__", "tests"})
MANIFEST = "MANIFEST"  # in the format of sha256sum, so that `sha256sum -c MANIFEST` checks a tree by hand
NAME_LENGTH = 16
NAME = re.compile(rf"[0-9a-f]{{{NAME_LENGTH}}}")
LEFTOVER = re.compile(rf"\.{NAME.pattern}\.(tmp|old)")


@dataclass(frozen=True)
class Tree:
    """A library tree as it shall be: its place, as we see it and as the host does, and its source and data files."""

    path: Path
    destination: Path
    files: Mapping[str, bytes]
    interpreter: Interpreter


def locate_packages() -> dict[str, Path]:
    """Return the folder of each package that the plugins load. Raises InstallError for one that is not installed."""
    return {name: _folder(name) for name in PACKAGES}


def design(layout: Layout, packages: Mapping[str, Path], interpreter: Interpreter) -> Tree:
    """Read the packages' files and return the tree they make in the layout's library folder. Raises InstallError."""
    files = {}
    for name, folder in packages.items():
        with refusals("read", folder):
            files.update({f"{name}/{path.relative_to(folder)}": path.read_bytes() for path in _wanted(folder)})
    digest = hashlib.sha256(interpreter.bytecode.encode())
    for path, content in sorted(files.items()):
        digest.update(f"\n{len(content)} {path}\n".encode())
        digest.update(content)
    name = digest.hexdigest()[:NAME_LENGTH]
    return Tree(layout.library / name, layout.host_library / name, files, interpreter)


def is_complete(path: Path) -> bool:
    """Whether the tree is there and every file in it still is what was installed."""
    try:
        manifest = (path / MANIFEST).read_text()
        return all(_digest(path / name) == digest for digest, name in _entries(manifest))
    except (OSError, ValueError):
        return False


def build(tree: Tree) -> None:
    """Build the tree and rename it into its place, once its interpreter can load it. Raises InstallError."""
    half = tree.path.with_name(f".{tree.path.name}.tmp")
    with refusals("write", tree.path):
        try:
            shutil.rmtree(half, ignore_errors=True)
            _write_sources(half, tree.files)
            compile_tree(tree.interpreter, half, tree.destination)
            try_imports(tree.interpreter, half, ENTRY_MODULES.values())
            _write_manifest(half)
            _seal(half)
            _replace(half, tree.path)
        finally:
            shutil.rmtree(half, ignore_errors=True)


def mark_used(path: Path) -> None:
    """Note that the tree was installed now, for `stale`; a read-only file system has nothing to prune anyway."""
    with suppress(OSError):
        os.utime(path)


def stale(library: Path, in_use: Iterable[str]) -> list[Path]:
    """Return the trees nobody needs: neither named in use, nor the latest of the others (plugins may be running it)."""
    keep = set(in_use)
    others = [path for path in _children(library, NAME) if path.name not in keep]
    return sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[1:]


def present(library: Path) -> list[Path]:
    """Return every tree below the library folder."""
    return _children(library, NAME)


def leftovers(library: Path) -> list[Path]:
    """Return what killed runs left half-built; only sound while the library folder is locked."""
    return _children(library, LEFTOVER)


def remove(path: Path) -> None:
    """Remove a tree, renamed first so that what a kill leaves of it is no tree. Raises InstallError."""
    with refusals("remove", path):
        doomed = path
        if not LEFTOVER.fullmatch(path.name):
            doomed = path.with_name(f".{path.name}.old")
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
        shutil.rmtree(doomed)


def _children(library: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not library.is_dir():
        return []
    with refusals("read", library):
        return sorted(path for path in library.iterdir() if pattern.fullmatch(path.name) and path.is_dir())


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InstallError(f"the Python package {package} is not installed beside install-cni: pip install cni-calico")
    return Path(next(iter(spec.submodule_search_locations)))


def _wanted(folder: Path) -> Iterator[Path]:
    """Yield sources and the data files beside them (netaddr reads some when imported), not bytecode and tests."""
    for path in sorted(folder.rglob("*")):
        if not LEFT_OUT.intersection(path.relative_to(folder).parts) and path.is_file() and path.suffix != ".pyc":
            yield path


def _write_sources(half: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = half / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _write_manifest(half: Path) -> None:
    names = sorted(str(path.relative_to(half)) for path in half.rglob("*") if path.is_file())
    (half / MANIFEST).write_text("".join(f"{_digest(half / name)}  {name}\n" for name in names))


def _entries(manifest: str) -> Iterator[tuple[str, str]]:
    for line in manifest.splitlines():
        digest, name = line.split("  ", 1)
        yield digest, name


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _seal(half: Path) -> None:
    """Give everything its mode whatever the umask, and make it survive a power cut."""
    for folder, _, names in os.walk(half, topdown=False):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fchmod(file.fileno(), READABLE)
                os.fsync(file.fileno())
        Path(folder).chmod(PUBLIC_DIRECTORY)
        sync_directory(Path(folder))


def _replace(half: Path, place: Path) -> None:
    """Rename the new tree into its place, after a damaged one of that name was put aside."""
    aside = place.with_name(f".{place.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(FileNotFoundError):
        place.rename(aside)
    half.rename(place)
    sync_directory(place.parent)
    shutil.rmtree(aside, ignore_errors=True)
