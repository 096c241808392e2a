"""The native launcher (calico.c), built by launcher/build; docs/launcher.md."""

from __future__ import annotations

import os
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def binary() -> Path:
    """Return where the launcher for this machine's architecture is when it has been built."""
    machine = os.uname().machine
    return Path(__file__).parent / "bin" / f"calico-{ARCHITECTURES.get(machine, machine)}"
