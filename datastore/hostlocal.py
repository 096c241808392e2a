"""host-local's directory of one network: a file per address, named after it, and host-local's own lock.

Facts are of containernetworking/plugins, plugins/ipam/host-local/backend/disk: the lock is flock(2) on the file `lock`
in the directory, in old releases on the directory itself; `last_reserved_ip.<range>`, in old releases
`last_reserved_ip`, is a hint for the next ADD.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager, suppress

from datastore.api import Corrupt
from datastore.jsontext import loads
from datastore.lock import directory_flock, flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DATA_DIR = "/var/lib/cni/networks"
LOCK = "lock"
HINT = "last_reserved_ip"
LOCK_SECONDS = 60.0
LONGEST = 4096  # bytes; an id and an interface name have 250
CONFIGURATIONS = (".conf", ".conflist", ".json")  # libcni ConfFiles


class Gone(FileNotFoundError):
    """There is no such directory, or no longer."""


class Folder:
    """What host-local remembers of a network. Methods raise OSError, and Corrupt for a file that is not host-local's.

    `lock_seconds` is how long to wait for host-local to end.
    """

    def __init__(self, path: str, lock_seconds: float = LOCK_SECONDS) -> None:
        self.path = path
        self._lock_seconds = lock_seconds

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep host-local of any release, and another of us, out while the body runs; raises Busy, Gone."""
        with ExitStack() as held:
            try:
                held.enter_context(flock(os.path.join(self.path, LOCK), self._lock_seconds))
                held.enter_context(directory_flock(self.path, self._lock_seconds))
            except FileNotFoundError as error:
                if os.path.lexists(self.path):  # a link to nowhere
                    raise
                raise Gone(*error.args, self.path) from None
            yield

    def names(self) -> list[str]:
        """Return the names of all that is there, but for the lock and host-local's hints."""
        return sorted(name for name in os.listdir(self.path) if name != LOCK and not name.startswith(HINT))

    def read(self, name: str) -> str:
        """Return the text of a file, which must be a small one, there itself and not by a link."""
        path = os.path.join(self.path, name)
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Corrupt("it is not a regular file")
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise Corrupt(f"it has more than {LONGEST} bytes")
        try:
            return data.decode("ascii")
        except UnicodeDecodeError:
            raise Corrupt("its content is not text") from None

    def remove(self, name: str) -> None:
        """Remove one file."""
        os.unlink(os.path.join(self.path, name))

    def remove_all(self) -> None:
        """Remove the directory with hints and lock, unless somebody has put something into it meanwhile.

        Whoever waits for the lock in between gets it on a file that is no more; host-local then finds no directory to
        reserve an address in, and fails.
        """
        for name in os.listdir(self.path):
            if name.startswith(HINT):
                self.remove(name)
        self.remove(LOCK)
        with suppress(OSError):
            os.rmdir(self.path)


def networks(data_dir: str) -> list[str]:
    """Return the networks that have a directory."""
    try:
        return sorted(name for name in os.listdir(data_dir) if os.path.isdir(os.path.join(data_dir, name)))
    except FileNotFoundError:
        return []


def configured(conf_dir: str, network: str) -> str:
    """Return the path of a network configuration that still has host-local serve the network, else an empty text."""
    try:
        names = sorted(name for name in os.listdir(conf_dir) if name.endswith(CONFIGURATIONS))
    except FileNotFoundError:
        return ""
    paths = (os.path.join(conf_dir, name) for name in names)
    return next((path for path in paths if _serves(_configuration(path), network)), "")


def _configuration(path: str) -> Any:
    """Return what is in a file; nothing where it is not JSON, for then no runtime uses it either."""
    with open(path, "rb") as file, suppress(ValueError, RecursionError):
        return loads(file.read())


def _serves(body: Any, network: str) -> bool:
    if not isinstance(body, dict) or body.get("name") != network:
        return False
    plugins = body.get("plugins", [body])
    return any(map(_is_host_local, plugins if isinstance(plugins, list) else ()))


def _is_host_local(plugin: Any) -> bool:
    ipam = plugin.get("ipam") if isinstance(plugin, dict) else None
    return isinstance(ipam, dict) and ipam.get("type") == "host-local"
