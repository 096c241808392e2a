"""A small one of what tests/soak does at length."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .kit import ROOT


@pytest.mark.usefixtures("bin_dir")
def test_soak() -> None:
    """600 verbs from eight workers while the agent is killed four times: nothing fails, and nothing is left."""
    done = subprocess.run([sys.executable, "-m", "tests.agent.soak", "--operations", "600", "--workers", "8",
                           "--kills", "4"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "nothing is wrong" in done.stdout


def test_command_line() -> None:
    """It tells what it can do, and refuses what it cannot."""
    soak = [sys.executable, "-m", "tests.agent.soak"]
    assert "--kills" in subprocess.run([*soak, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert subprocess.run([*soak, "--workers", "0"], cwd=ROOT, capture_output=True, check=False).returncode == 2
