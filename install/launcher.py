"""The native launcher, installed before the Python plugin where there is one for this machine (docs/launcher.md)."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from install.files import refusals
from install.trampoline import ENTRY_MODULES, tree_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MARK = b"/var/lib/calico/cni/queue"  # nothing but our launcher names this place
LARGEST = 8 << 20  # bytes; it has less than one million, the original Calico's executables have fifty
TRY_SECONDS = 10


def fall_back(executable: Path) -> Path:
    """Return where the launcher at this path looks for the Python plugin (docs/agent-protocol.md, "Places")."""
    return executable.with_name(f"{executable.name}.py")


def places(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield every path that an executable of ours may be at, a launcher before its fall-back."""
    for folder in folders:
        for name in ENTRY_MODULES:
            yield from (folder / name, fall_back(folder / name))


def is_launcher(path: Path) -> bool:
    """Whether the file is our launcher, of whatever release."""
    try:
        return path.stat().st_size <= LARGEST and MARK in path.read_bytes()
    except OSError:
        return False


def is_ours(path: Path) -> bool:
    """Whether install-cni wrote this executable."""
    return tree_of(path) is not None or is_launcher(path)


def load(binary: Path | None) -> tuple[bytes | None, list[str]]:
    """Return the launcher, None when there is none that runs here, and a warning when one was built. May raise
    InstallError.
    """
    if binary is None or not binary.is_file():
        return None, []
    reason = _fault(binary)
    if reason:
        return None, [f"the launcher {binary} does not run here ({reason}): installed without it, pods start slower"]
    with refusals("read", binary):
        return binary.read_bytes(), []


def lack(binary: Path | None) -> tuple[str, ...]:
    """Return what to say where the launcher is wanted and was not built: what that costs, and what to do."""
    if binary is None or binary.is_file():
        return ()
    return (f"no native launcher was built for {binary.name.removeprefix('calico-')}, so each verb starts a Python: "
            "run launcher/build, pip install . and install-cni again (docs/launcher.md)",)


def _fault(binary: Path) -> str:
    """Return why the launcher does not run here, "" when it does."""
    try:
        done = subprocess.run(
            [binary], env={"CNI_COMMAND": "VERSION"}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=TRY_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if b"supportedVersions" in done.stdout and not done.returncode else f"exit status {done.returncode}"
