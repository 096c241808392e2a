"""The installed executables as runtimes start them: nothing in the environment changes what they do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from .install_kit import Machine, install_cni, snapshot

HOSTILE = {
    "nothing": {},
    "PYTHONPATH": {"PYTHONPATH": "EVIL"},
    "PYTHONHOME": {"PYTHONHOME": "EVIL", "PYTHONEXECUTABLE": "EVIL", "PYTHONPLATLIBDIR": "EVIL"},
    "PYTHONSTARTUP": {"PYTHONSTARTUP": "EVIL/startup.py", "PYTHONINSPECT": "1", "PYTHONBREAKPOINT": "startup.x"},
    "PYTHONUSERBASE": {"PYTHONUSERBASE": "EVIL", "HOME": "EVIL", "PYTHONSAFEPATH": ""},
    "locale": {"LANG": "xx_YY.nonsense", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "PATH": {"PATH": "EVIL", "HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
    "noise": {"PYTHONVERBOSE": "2", "PYTHONDEBUG": "1", "PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"},
    "bytecode": {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "EVIL", "PYTHONOPTIMIZE": "2"},
}
TRAPS = ("json", "os", "sitecustomize", "usercustomize", "cni_calico", "ipam", "encodings", "startup")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real plugin, installed by the real command."""
    prefix = tmp_path_factory.mktemp("prefix")
    done = install_cni("--prefix", str(prefix), umask=0o077)
    assert done.returncode == 0, done.stderr
    return prefix


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A directory of modules that end the process of whoever loads them."""
    folder = tmp_path / "evil"
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text("import posix; posix._exit(66)\n")
    return folder


def call(executable: Path, env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a plugin with CNI_COMMAND=VERSION, as libcni does."""
    environment = {"CNI_COMMAND": "VERSION"} | {name: value.replace("EVIL", str(cwd)) for name, value in env.items()}
    request = b'{"cniVersion":"1.1.0"}'
    return subprocess.run(
        [executable], env=environment, input=request, cwd=cwd, umask=0o077, capture_output=True, check=False
    )


@pytest.mark.parametrize("name", ["calico", "calico-ipam"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_environment_is_ignored(kind: str, name: str, prefix: Path, evil: Path) -> None:
    """The same answer always, nothing else on either stream, and not a byte written beside the code."""
    before = snapshot(prefix)
    done = call(prefix / "opt/cni/bin" / name, HOSTILE[kind], evil)
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout)
    assert answer["cniVersion"] == "1.1.0"
    assert {"0.3.1", "1.0.0", "1.1.0"} <= set(answer["supportedVersions"])
    assert snapshot(prefix) == before


def test_working_directory_that_is_gone(prefix: Path, tmp_path: Path) -> None:
    """A runtime may have been started in a directory that was deleted since."""
    script = 'mkdir gone; cd gone; rmdir ../gone; CNI_COMMAND=VERSION exec "$0" </dev/null'
    command = ["/bin/sh", "-euc", script, str(prefix / "opt/cni/bin/calico")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "supportedVersions" in json.loads(done.stdout)


def test_interpreter_flags_and_path(tmp_path: Path) -> None:
    """Isolated, without site-packages, in UTF-8 mode; the library first, then the standard library only."""
    machine = Machine(tmp_path)
    machine.install()
    done = subprocess.run([machine.bin_dir / "calico-ipam"], env={"LC_ALL": "C"}, capture_output=True, check=True)
    facts = json.loads(done.stdout)
    assert (facts["name"], facts["isolated"], facts["no_site"], facts["utf8"]) == ("calico-ipam", 1, 1, 1)
    assert facts["path"][0] == str(machine.settings.layout.library / machine.trees[0])
    assert not [path for path in facts["path"] if "site-packages" in path or "dist-packages" in path]


def test_bytecode_is_loaded_not_compiled(prefix: Path) -> None:
    """Nothing is compiled at run time: with the sources' text replaced the plugin still answers."""
    trees = prefix / "opt/cni/lib/calico-cni"
    (library,) = trees.iterdir()
    source = library / "cni_calico/skel.py"
    text = source.read_bytes()
    source.write_text("raise SystemExit('compiled at run time')\n")
    try:
        done = call(prefix / "opt/cni/bin/calico", {}, prefix)
    finally:
        source.write_bytes(text)
    assert done.returncode == 0, done.stderr


def test_another_user_can_run_it(prefix: Path) -> None:
    """Installed under umask 077, it is still readable for everybody below the prefix itself."""
    for path in (prefix / "opt", *(prefix / "opt").rglob("*")):
        wanted = 0o555 if path.is_dir() or path.parent.name == "bin" else 0o444
        assert path.stat().st_mode & wanted == wanted, path
