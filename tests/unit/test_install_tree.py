"""The library tree: what is in it, and that only a whole one is ever there."""

from __future__ import annotations

import marshal
import os
import stat
import subprocess
from pathlib import Path

import pytest

from install import interpreter, tree
from install.errors import InstallError
from install.settings import Layout
from install.tree import Tree

from .install_kit import stub_packages


@pytest.fixture(scope="module")
def python() -> interpreter.Interpreter:
    """The interpreter under this test."""
    return interpreter.examine(interpreter.default_path())


def design(root: Path, python: interpreter.Interpreter, marker: str = "1") -> Tree:
    """A tree of stub packages in `root/lib`, which the host sees at /final."""
    library = root / "lib"
    library.mkdir(exist_ok=True)
    layout = Layout((root / "bin",), root / "conf", library, Path("/final"), "/conf", root, container=False)
    return tree.design(layout, stub_packages(root / "packages", marker), python)


def test_contents(tmp_path: Path, python: interpreter.Interpreter) -> None:
    """Sources and data of every package with bytecode; no tests, no foreign bytecode."""
    library = design(tmp_path, python)
    (tmp_path / "packages/ipam/__pycache__").mkdir()
    (tmp_path / "packages/ipam/__pycache__/old.cpython-27.pyc").write_bytes(b"")
    library = design(tmp_path, python)
    tree.build(library)
    names = {str(path.relative_to(library.path)) for path in library.path.rglob("*") if path.is_file()}
    assert {"ipam/__main__.py", "ipam/data.txt", "netaddr/__init__.py", "MANIFEST"} <= names
    assert not [name for name in names if "tests" in name or "cpython-27" in name]
    sources = [name for name in names if name.endswith(".py")]
    assert len(sources) == len([name for name in names if name.endswith(".pyc")]) == len(tree.PACKAGES) + 2


def test_bytecode_needs_no_source_check_and_names_the_final_place(
    tmp_path: Path, python: interpreter.Interpreter
) -> None:
    """Bytecode is of the unchecked-hash kind, and its tracebacks point to where the file will be."""
    library = design(tmp_path, python)
    tree.build(library)
    raw = next((library.path / "ipam/__pycache__").glob("__main__.*.pyc")).read_bytes()
    assert int.from_bytes(raw[4:8], "little") == 0b01  # PEP 552: hash-based, source not checked
    assert marshal.loads(raw[16:]).co_filename == f"/final/{library.path.name}/ipam/__main__.py"


def test_modes_whatever_the_umask(tmp_path: Path, python: interpreter.Interpreter) -> None:
    """A runtime running as somebody else can read it all."""
    library = design(tmp_path, python)
    before = os.umask(0o077)
    try:
        tree.build(library)
    finally:
        os.umask(before)
    for path in (library.path, *library.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_name_follows_content_and_bytecode_format(tmp_path: Path, python: interpreter.Interpreter) -> None:
    """The same content has the same name; other content or another Python has another."""
    name = design(tmp_path, python).path.name
    assert design(tmp_path, python).path.name == name
    assert len(name) == tree.NAME_LENGTH
    other = interpreter.Interpreter(python.path, "cpython-399-00")
    assert len({name, design(tmp_path, python, "2").path.name, design(tmp_path, other).path.name}) == 3


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest"])
def test_damage_is_seen_and_repaired(damage: str, tmp_path: Path, python: interpreter.Interpreter) -> None:
    """A tree that is not what was installed is not taken for complete, and is replaced as a whole."""
    library = design(tmp_path, python)
    assert not tree.is_complete(library.path)
    tree.build(library)
    assert tree.is_complete(library.path)
    victim = library.path / ("MANIFEST" if damage == "manifest" else "ipam/__init__.py")
    if damage == "changed":
        victim.write_text("raise SystemExit\n")
    else:
        victim.unlink()
    assert not tree.is_complete(library.path)
    tree.build(library)
    assert tree.is_complete(library.path)
    assert [path.name for path in library.path.parent.iterdir()] == [library.path.name]


def test_manifest_is_sha256sums(tmp_path: Path, python: interpreter.Interpreter) -> None:
    """An operator can check a tree with the tool at hand."""
    library = design(tmp_path, python)
    tree.build(library)
    subprocess.run(["sha256sum", "--quiet", "--check", "MANIFEST"], cwd=library.path, check=True)


@pytest.mark.parametrize("text", ["def broken(:\n", "raise RuntimeError('boom')\n", "import not_there\n"])
def test_a_tree_that_does_not_load_is_not_installed(text: str, tmp_path: Path, python: interpreter.Interpreter) -> None:
    """Syntax and import errors under the chosen interpreter stop the installation, and leave nothing."""
    packages = stub_packages(tmp_path / "packages")
    library = design(tmp_path, python)
    (packages["ipam"] / "__main__.py").write_text(text)
    broken = Tree(library.path, library.destination, {**library.files, "ipam/__main__.py": text.encode()}, python)
    with pytest.raises(InstallError, match=r"could not (compile|load) the library"):
        tree.build(broken)
    assert list(library.path.parent.iterdir()) == []


def test_stale_keeps_those_in_use_and_the_latest_other(tmp_path: Path, python: interpreter.Interpreter) -> None:
    """The tree before the current one stays, because plugins may be running from it."""
    built = [design(tmp_path, python, marker) for marker in "1234"]
    for age, library in zip((40, 10, 30, 20), built, strict=True):
        tree.build(library)
        os.utime(library.path, (1e9 - age, 1e9 - age))
    one, two, three, four = (library.path for library in built)
    assert tree.stale(one.parent, {four.name}) == [three, one]
    assert tree.stale(one.parent, {four.name, one.name}) == [three]
    tree.mark_used(one)
    assert tree.stale(one.parent, {four.name}) == [two, three]
    tree.remove(three)
    assert sorted(path.name for path in one.parent.iterdir()) == sorted([one.name, two.name, four.name])


def test_missing_package() -> None:
    """The error says what is missing."""
    with pytest.raises(InstallError, match="surely_not_a_package"):
        tree._folder("surely_not_a_package")
