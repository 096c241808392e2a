"""What every benchmark stands on: scratch folder, host and namespaces, the plugins that are compared, the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from bench.rows import Json

T = TypeVar("T")

REFERENCE = "ptp + host-local"
REFERENCE_BIN = Path("/usr/lib/cni")
TOOLS = Path(sys.executable).parent  # our own commands, in the virtual environment
SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
POOL = "10.98.0.0/16"
REMOVALS, REMOVAL_PAUSE = 5, 0.5
NO_SOCKET = Path("/nonexistent/cni.sock")  # where no agent is, so the launcher becomes the Python plugin


class BenchError(Exception):
    """A plugin failed, so there is nothing to compare."""


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Yield a folder that is removed again, whatever ends the body; namespaces belong below its `netns`.

    That is a file system of its own, so however many namespaces there are, they go at once.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        (folder / "netns").mkdir()
        run("mount", "-t", "tmpfs", "none", str(folder / "netns"))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder / "netns")], check=False)
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder in which plugins that were interrupted may still write."""
    for _ in range(REMOVALS):
        with suppress(OSError):
            return shutil.rmtree(folder)
        time.sleep(REMOVAL_PAUSE)
    return shutil.rmtree(folder)


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed. Raises BenchError."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def new_netns(path: Path) -> str:
    """Make a network namespace that lasts as long as this process's mount namespace."""
    path.touch()
    run("unshare", f"--net={path}", "true")
    return str(path)


def set_up_host(*prefix: str) -> None:
    """Give a network namespace what a host has: an interface, an address and a default route.

    It is this process's own, or the one that the prefix (nsenter …) leads to.
    """
    run(*prefix, "ip", "link", "set", "lo", "up")
    run(*prefix, "ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "uplink1")
    for name in ("uplink0", "uplink1"):
        run(*prefix, "ip", "link", "set", name, "up")
    run(*prefix, "ip", "address", "add", "192.0.2.2/24", "dev", "uplink0")
    run(*prefix, "ip", "route", "add", "default", "via", "192.0.2.1")


def install(folder: Path) -> tuple[Path, Json]:
    """Install `calico` with install-cni; return the folder of its executables, and its configuration."""
    run(str(TOOLS / "install-cni"), "--prefix", str(folder), env={"PATH": SEARCH, "CALICO_IPV4POOL_CIDR": POOL})
    conflist = json.loads((folder / "etc/cni/net.d/10-calico.conflist").read_text())
    conf = {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **conflist["plugins"][0]}
    return folder / "opt/cni/bin", conf


def reference(folder: Path) -> Json:
    """Return the configuration of the plugins compared with: as ours, one address and a default route."""
    ranges = {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "1.0.0", "name": "reference", "type": "ptp",
            "ipam": {**ranges, "dataDir": str(folder / "host-local")}}  # fmt: skip


def environment(verb: str, pod: str, container: str, path: Path, socket: Path = NO_SOCKET) -> dict[str, str]:
    """Return the environment a runtime would set, and where the agent listens."""
    attachment = {"CNI_CONTAINERID": container, "CNI_NETNS": pod, "CNI_IFNAME": "eth0"}
    return {**host_environment(verb, path, socket), **attachment}


def host_environment(verb: str, path: Path, socket: Path = NO_SOCKET) -> dict[str, str]:
    """Return the environment of a verb that is about no pod."""
    return {"PATH": SEARCH, "CNI_COMMAND": verb, "CNI_PATH": str(path), "CALICO_CNI_SOCKET": str(socket)}


def stdin(conf: Json, previous: Json | None) -> bytes:
    """Return the configuration as a runtime would write it."""
    return json.dumps(conf if previous is None else {**conf, "prevResult": previous}).encode()


def require_distinct(what: str, results: list[Json]) -> None:
    """Raise BenchError unless every result has an address of its own."""
    given = {result["ips"][0]["address"].partition("/")[0] for result in results}
    if len(given) != len(results):
        raise BenchError(f"{what} gave {len(given)} addresses to {len(results)} pods")


def alternate(sides: tuple[T, ...], number: int) -> tuple[T, ...]:
    """Return the sides, now in one order and now in the other."""
    return sides if number % 2 == 0 else sides[::-1]


def say(text: str) -> None:
    """Tell whoever waits what is going on."""
    print(f"{text} ...", file=sys.stderr)


def machine() -> Json:
    """Return what the figures depend on, load included."""
    load = [round(value, 2) for value in os.getloadavg()]
    return {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(), "load": load}


def machine_line(before: Json, after: Json) -> str:
    """Return for people what `machine` said before and after."""
    return (f"{before['cpus']} CPUs, Linux {before['kernel']}, Python {before['python']}; "
            f"load {before['load'][0]} before, {after['load'][0]} after")  # fmt: skip


def whole_number(least: int) -> Callable[[str], int]:
    """Return what reads an option's whole number from `least` on."""

    def parse_number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return int(text)

    return parse_number
