"""The import allowance: what each executable may load, seen from outside in `sys.modules`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THIRD_PARTY = {"pyroute2", "netaddr", "filelock", "click", "yaml", "rich"}
# Each costs 5-20 ms at import, as much as the whole of an ADD's work.
HEAVY = {"json", "re", "enum", "dataclasses", "typing", "logging", "subprocess", "ctypes", "socket", "hashlib",
         "inspect", "ipaddress",
         "tempfile", "argparse", "datetime", "threading", "pathlib", "traceback", "secrets", "urllib", "shutil"}


def loaded(code: str, **env: str) -> set[str]:
    """Return the top-level modules that a fresh isolated interpreter has loaded after running the code."""
    program = f"import sys; sys.path[:0] = {[str(ROOT)]!r}\n{code}\n" \
              "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-IS", "-c", program], env=env, capture_output=True, text=True, check=True,
                          stdin=subprocess.DEVNULL)
    return set(done.stderr.split())


@pytest.mark.parametrize("package", ["cni_calico", "ipam"])
def test_version_loads_no_third_party_module(package: str) -> None:
    """VERSION is answered with the standard library alone, and without its heavy parts."""
    modules = loaded(f"from {package}.__main__ import main; main()", CNI_COMMAND="VERSION")
    assert not modules & (THIRD_PARTY | HEAVY)


@pytest.mark.parametrize("module", ["cni_calico.plugin", "cni_calico.ipam_verbs"])
def test_the_verbs_load_no_third_party_module(module: str) -> None:
    """Neither do the modules of an ADD and a DEL, before they meet a case that needs more."""
    modules = loaded(f"import {module}, ipam.release")
    assert not modules & (THIRD_PARTY | HEAVY)


FILE_DOORS = {"netns.py", "sysctl.py", "log.py", "node.py", "skel.py"}


def imports(path: Path) -> set[str]:
    """Return the modules a file imports anywhere, at the top or in a function, for type checking or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize(
    ("package", "banned", "except_for"),
    [
        ("datastore", {"cni_calico", "ipam", "install", "calicoctl", "click"}, set()),
        ("ipam", {"cni_calico", "install", "calicoctl", "click", "pyroute2"}, {"__main__.py"}),
        ("cni_calico", {"install", "calicoctl", "click", "rich"}, set()),
        ("install", {"calicoctl"}, set()),
        ("calicoctl", {"install"}, set()),
    ],
)
def test_nothing_calls_left(package: str, banned: set[str], except_for: set[str]) -> None:
    """No package imports one to its left (docs/design.md, "The way of an ADD"), and click stays with people."""
    for path in (ROOT / package).glob("*.py"):
        if path.name not in except_for:
            assert not {name.partition(".")[0] for name in imports(path)} & banned, path


def test_doors() -> None:
    """Only netlink knows pyroute2, only delegate starts processes, only doors open files, only skel has stdout."""
    for path in (ROOT / "cni_calico").glob("*.py"):
        text, names = path.read_text(), imports(path)
        assert ("pyroute2" in names) <= (path.name == "netlink.py"), path
        assert ("subprocess" in names) <= (path.name == "delegate.py"), path
        assert (" open(" in text or "os.open(" in text) <= (path.name in FILE_DOORS), path
        assert ("sys.stdout" in text) <= (path.name == "skel.py"), path
        assert ("sys.exit" in text) <= (path.name == "__main__.py"), path
        assert "print(" not in text.replace("_print(", ""), path
    for path in (ROOT / "ipam").glob("*.py"):
        assert "open(" not in path.read_text(), path
