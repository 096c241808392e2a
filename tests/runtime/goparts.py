"""The two ways to run the real libcni: cnitool from the Go module proxy, and our small driver over Debian's package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import filelock

from .host import UnavailableError
from .installed import REPO

CACHE = REPO / ".cache"
CNITOOL = "github.com/containernetworking/cni/cnitool@v1.3.0"
DEBIAN_GOPATH = Path("/usr/share/gocode")
DRIVER_SOURCE = Path(__file__).parent / "libcnidriver/main.go"


def _version(go: Path) -> tuple[int, int]:
    """Which Go an executable is, as far as the second number."""
    said = subprocess.run([str(go), "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _compilers() -> Iterator[Path]:
    """Every Go on this machine."""
    on_path = shutil.which("go")
    usual = [Path(on_path)] if on_path else []
    usual += [Path("/usr/local/go/bin/go"), *sorted(Path("/usr/lib").glob("go-*/bin/go"))]
    yield from (each for each in usual if os.access(each, os.X_OK))


def _go(least: tuple[int, int]) -> Path:
    """A Go that is new enough."""
    for each in _compilers():
        if _version(each) >= least:
            return each
    raise UnavailableError(f"no Go >= {least[0]}.{least[1]} on this machine")


def _build(command: list[str], target: Path, timeout: float, **environment: str) -> Path:
    """Run one build that makes the target, with all of Go's own files in the cache folder."""
    own = {"GOCACHE": str(CACHE / "go-build"), "GOPATH": str(CACHE / "go"), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **own, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{' '.join(command)}: not done within {timeout} s") from None
    if done.returncode or not target.exists():
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.strip() or 'made nothing'}")
    return target


def cnitool() -> Path:
    """The cnitool of the CNI project, installed once."""
    target = CACHE / "bin/cnitool"
    CACHE.mkdir(exist_ok=True)
    with filelock.FileLock(CACHE / "cnitool.lock"):
        if target.exists():
            return target
        go = _go((1, 21))
        flags = "-mod=mod -modcacherw -buildvcs=false"
        return _build([str(go), "install", CNITOOL], target, 60, GOBIN=str(target.parent), GOFLAGS=flags)


def driver() -> Path:
    """Our libcni driver over Debian's golang-github-appc-cni-dev, built anew when its source is newer."""
    target = CACHE / "bin/libcnidriver"
    CACHE.mkdir(exist_ok=True)
    with filelock.FileLock(CACHE / "libcnidriver.lock"):
        if target.exists() and target.stat().st_mtime > DRIVER_SOURCE.stat().st_mtime:
            return target
        if not (DEBIAN_GOPATH / "src/github.com/containernetworking/cni/libcni").is_dir():
            raise UnavailableError("Debian's golang-github-appc-cni-dev is not installed")
        command = [str(_go((1, 18))), "build", "-o", str(target), str(DRIVER_SOURCE)]
        path = f"{CACHE / 'go'}:{DEBIAN_GOPATH}"
        return _build(command, target, 120, GO111MODULE="off", GOPATH=path, GOFLAGS="")
