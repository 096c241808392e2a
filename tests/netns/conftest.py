"""Each test gets a machine of its own; the plugin is installed once, by the real installer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import Machine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def bin_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the installed executables are."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    prefix = tmp_path_factory.mktemp("prefix")
    subprocess.run([sys.executable, "-m", "install", "--prefix", str(prefix)], cwd=ROOT, check=True,
                   env={**os.environ, "CALICO_IPV4POOL_CIDR": "10.7.0.0/16"}, capture_output=True)
    return prefix / "opt/cni/bin"


@pytest.fixture
def machine(bin_dir: Path, tmp_path: Path) -> Iterator[Machine]:
    """A host without any default route, with the installed plugin and an empty datastore."""
    found = Machine(bin_dir, tmp_path / "datastore")
    yield found
    found.close()
