"""Which Python may run the plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from install import interpreter
from install.errors import InstallError


def refusal(path: Path | str) -> str:
    """Return why an interpreter is refused."""
    with pytest.raises(InstallError) as caught:
        interpreter.examine(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert "--python" in message
    return message


def script(path: Path, text: str) -> Path:
    """Make an executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_default_is_the_real_base_interpreter() -> None:
    """No symbolic link that an upgrade turns, no virtual environment that somebody deletes."""
    path = Path(interpreter.default_path())
    assert path == path.resolve()
    assert not path.is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix
    found = interpreter.examine(str(path))
    assert found.shebang == f"#!{path} -ISXutf8"
    assert found.bytecode.startswith("cpython-3")


def test_unusable_paths(tmp_path: Path) -> None:
    """Each reason is told by itself."""
    spaced = tmp_path / "with space"
    spaced.mkdir()
    assert "absolute" in refusal("python3")
    assert "white space" in refusal(spaced / "python3")
    assert "no executable" in refusal(tmp_path / "missing")
    assert "no executable" in refusal(tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert "no executable" in refusal(plain)


def test_longest_first_line(tmp_path: Path) -> None:
    """255 bytes with options and newline is the kernel's limit; what passes really starts."""
    room = interpreter.SHEBANG_BYTES - len(f"#!{tmp_path}/ {interpreter.OPTIONS}\n")
    link = tmp_path / ("p" * room)
    link.symlink_to(interpreter.default_path())
    started = tmp_path / "started"
    started.write_text(f"{interpreter.examine(str(link)).shebang}\nprint('yes')\n")
    started.chmod(0o755)
    assert subprocess.run([started], capture_output=True, check=True).stdout == b"yes\n"
    link.rename(tmp_path / ("p" * (room + 1)))
    assert "too long" in refusal(tmp_path / ("p" * (room + 1)))


def test_virtual_environment_is_refused(tmp_path: Path) -> None:
    """It would take the plugin with it when deleted."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text("")
    (tmp_path / "bin/python").symlink_to(interpreter.default_path())
    assert "virtual environment" in refusal(tmp_path / "bin/python")


def test_what_is_no_python(tmp_path: Path) -> None:
    """A program that fails, one that talks nonsense, and one that is no program."""
    assert "boom" in refusal(script(tmp_path / "fails", "echo boom >&2; exit 3"))
    assert "does not answer" in refusal(script(tmp_path / "babbles", "echo hello"))
    garbage = script(tmp_path / "garbage", "")
    garbage.write_bytes(b"\x00\x01")
    assert "cannot run" in refusal(garbage)


def test_old_python(tmp_path: Path) -> None:
    """3.10 is told apart, and needs no running of code it cannot parse."""
    old = script(tmp_path / "old", """echo '{"version": [3, 10], "cache_tag": "cpython-310", "magic": "00"}'""")
    assert "Python 3.10" in refusal(old)


def test_examined_with_an_empty_environment(tmp_path: Path) -> None:
    """An interpreter that only starts thanks to this shell's environment would fail under a runtime."""
    os.environ["INSTALL_TEST_MARK"] = "1"
    try:
        wants = script(
            tmp_path / "wants", f'[ "$INSTALL_TEST_MARK" ] && exec {interpreter.default_path()} "$@"; exit 9'
        )
        assert "exit status 9" in refusal(wants)
    finally:
        del os.environ["INSTALL_TEST_MARK"]


@pytest.mark.parametrize("name", ["python3.12", "python3.13", "python3.14"])
def test_another_python_compiles_for_itself(name: str, tmp_path: Path) -> None:
    """Bytecode is the chosen interpreter's, not install-cni's."""
    path = shutil.which(name)
    found = path and subprocess.run([path, "-c", "import sys; print(sys.executable)"], capture_output=True, check=False)
    if not found or found.returncode:
        pytest.skip(f"{name} is not on this machine")
    other = interpreter.examine(str(Path(found.stdout.decode().strip()).resolve()))
    (tmp_path / "module.py").write_text("VALUE = 1\n")
    interpreter.compile_tree(other, tmp_path, Path("/final"))
    tag = other.bytecode.rsplit("-", 1)[0]
    assert [path.name for path in (tmp_path / "__pycache__").iterdir()] == [f"module.{tag}.pyc"]
