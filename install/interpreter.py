"""The Python that will run the plugin: found, checked, and asked to compile what it will load.

The plugin's first line names it by absolute path, so nothing in a runtime's environment chooses another one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from install.errors import InstallError

if TYPE_CHECKING:
    from collections.abc import Iterable

OLDEST = (3, 11)
OPTIONS = "-ISXutf8"  # the kernel hands over one argument: isolated, no site-packages, UTF-8 whatever LANG says
SHEBANG_BYTES = 255  # include/uapi/linux/binfmts.h: BINPRM_BUF_SIZE is 256, one is the terminator
PROBE_SECONDS = 30
COMPILE_SECONDS = 600

PROBE = """
import importlib.util, json, sys
tag, magic = sys.implementation.cache_tag, importlib.util.MAGIC_NUMBER.hex()
print(json.dumps({"version": sys.version_info[:2], "cache_tag": tag, "magic": magic}))
"""

TRY_IMPORTS = """
import importlib, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


@dataclass(frozen=True)
class Interpreter:
    """A checked interpreter; `bytecode` names the format of the bytecode that it loads without compiling."""

    path: Path
    bytecode: str

    @property
    def shebang(self) -> str:
        """The first line of a script that it runs, without the newline."""
        return f"#!{self.path} {OPTIONS}"


def default_path() -> str:
    """Return the interpreter under this process, never a virtual environment's, which may be deleted any time."""
    base: str = getattr(sys, "_base_executable", None) or sys.executable
    return str(Path(base).resolve())


def examine(path: str) -> Interpreter:
    """Return the interpreter at the path if the plugin can run on it. Raises InstallError."""
    reason = _unfit(path)
    if reason:
        raise InstallError(f"cannot use the Python {path!r}: {reason}; name another one with --python or CALICO_PYTHON")
    answer = _run(path, "say its version", ["-c", PROBE], PROBE_SECONDS)
    try:
        facts = json.loads(answer)
        version, tag, magic = tuple(facts["version"]), str(facts["cache_tag"]), str(facts["magic"])
    except (ValueError, KeyError, TypeError):
        raise InstallError(f"{path} does not answer like a Python: {answer[:99]!r}; name one with --python") from None
    if version < OLDEST:
        found = ".".join(map(str, version))
        raise InstallError(f"{path} is Python {found}, but at least 3.11 is needed: name another one with --python")
    return Interpreter(Path(path), f"{tag}-{magic}")


def compile_tree(interpreter: Interpreter, directory: Path, destination: Path) -> None:
    """Compile every module below the directory, which will be at `destination` when it runs. Raises InstallError."""
    options = ["-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", str(directory), "-p", str(destination)]
    _run(str(interpreter.path), "compile the library", ["-m", "compileall", *options, str(directory)], COMPILE_SECONDS)


def try_imports(interpreter: Interpreter, directory: Path, modules: Iterable[str]) -> None:
    """Check that the interpreter can load these modules from the directory alone. Raises InstallError."""
    _run(str(interpreter.path), "load the library", ["-c", TRY_IMPORTS, str(directory), *modules], PROBE_SECONDS)


def _unfit(path: str) -> str:
    """Return why a plugin's first line cannot name this path, or "" when it can."""
    file = Path(path)
    if not file.is_absolute():
        return "it must be an absolute path"
    if len(path.split()) != 1:
        return "its path contains white space, which a script's first line cannot"
    if len(os.fsencode(f"#!{path} {OPTIONS}\n")) > SHEBANG_BYTES:
        return f"its path is too long for a script's first line ({SHEBANG_BYTES} bytes with options)"
    if not file.is_file() or not os.access(file, os.X_OK):
        return "there is no executable file"
    if any((folder / "pyvenv.cfg").is_file() for folder in (file.parent, file.parent.parent)):
        return "it belongs to a virtual environment, which can be deleted under the plugin"
    return ""


def _run(python: str, task: str, arguments: list[str], seconds: float) -> str:
    # An empty environment, because nothing that the runtime's may hold can be counted on.
    command = [python, "-IS", "-X", "utf8", *arguments]
    try:
        done = subprocess.run(
            command, env={}, cwd="/", umask=0o022, timeout=seconds,
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"cannot run {python} to {task}: {error}; name another interpreter with --python") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"exit status {done.returncode}"
        raise InstallError(f"{python} could not {task}: {last}; name another interpreter with --python")
    return done.stdout.decode(errors="replace")
