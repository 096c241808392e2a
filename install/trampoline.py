"""The executables a runtime starts: a few lines that name the interpreter and the library tree by absolute path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from install.interpreter import Interpreter

ENTRY_MODULES = {"calico": "cni_calico.__main__", "calico-ipam": "ipam.__main__"}
MARK = re.compile(rb"^# Written by install-cni; library tree ([0-9a-f]{16})\.$", re.MULTILINE)
HEAD_BYTES = 4096  # a trampoline is far smaller, a foreign executable far bigger

TEMPLATE = """\
{shebang}
# Written by install-cni; library tree {tree}.
import os, sys; sys.dont_write_bytecode = True; sys.path.insert(0, {path})
from {module} import main
os._exit(main())  # all is written by now; taking the interpreter apart would cost 3 ms
"""


def render(name: str, interpreter: Interpreter, destination: Path) -> bytes:
    """Return the text of the executable `calico` or `calico-ipam` for the library tree at `destination`."""
    values = {"tree": destination.name, "path": ascii(str(destination)), "module": ENTRY_MODULES[name]}
    # A path that is not UTF-8 comes as surrogates, which ascii() writes as escapes that Python turns back.
    return TEMPLATE.format(shebang=interpreter.shebang, **values).encode("utf-8", "surrogateescape")


def tree_of(path: Path) -> str | None:
    """Return the name of the library tree that an executable of ours loads; None for a foreign file or none at all."""
    try:
        with path.open("rb") as file:
            found = MARK.search(file.read(HEAD_BYTES))
    except OSError:
        return None
    return found.group(1).decode() if found else None
