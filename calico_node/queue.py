"""DELs that launchers queued on disk while there was neither agent nor Python (docs/agent-protocol.md)."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress

from calico_node.protocol import END, Inbox, ProtocolError, Request, request_of
from cni_calico.errors import INVALID_ENVIRONMENT
from cni_calico.log import Log

SUFFIX = ".del"
LAUNCHER_SECONDS = 100.0  # no launcher lasts longer (launcher/calico.c)
MOST_BYTES = 1 << 20


class DelQueue:
    """The directory of queued DELs.

    `carry_out` does one, of a file that was put there at a time (ns since 1970), and returns its error's code and text,
    0 for success.
    """

    def __init__(self, folder: str, carry_out: Callable[[Request, str, int], tuple[int, str]]) -> None:
        self._folder, self._carry_out = folder, carry_out

    def __len__(self) -> int:
        """Return how many are queued."""
        return len(self._names())

    def drain(self) -> int:
        """Carry out all that is queued, oldest first; return how many stay, because they failed. Raises nothing."""
        left = 0
        self._remove_half_written()
        for name in self._names():
            path = os.path.join(self._folder, name)
            try:
                why = self._drain(path)
            except FileNotFoundError:
                continue  # the launcher that queued it got an agent after all
            except Exception as error:  # of any kind: no file may keep the agent from serving ADDs
                why = str(error) or type(error).__name__
            if why:
                left += 1
                Log().warning("a queued DEL failed and stays queued", file=path, why=why)
        return left

    def _drain(self, path: str) -> str:
        request, queued_at = _read(path)
        if request.env.get("CNI_COMMAND") != "DEL":
            return "it is no DEL"
        code, why = self._carry_out(request, path, queued_at)
        if code == INVALID_ENVIRONMENT:
            Log().warning("a queued DEL that no attachment can have is dropped", file=path, why=why)
        elif code:
            return why
        if os.stat(path).st_mtime_ns == queued_at:  # else another DEL is queued there by now
            os.unlink(path)
        return ""

    def _remove_half_written(self) -> None:
        """Remove what launchers that were killed have begun to write."""
        long_ago = time.time() - LAUNCHER_SECONDS
        with suppress(OSError):
            for name in os.listdir(self._folder):
                path = os.path.join(self._folder, name)
                if name.startswith(".") and name.endswith(".tmp") and os.lstat(path).st_mtime < long_ago:
                    os.unlink(path)

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                found = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry.name) for entry in entries
                         if entry.name.endswith(SUFFIX) and not entry.name.startswith(".")]
        except OSError:
            return []
        return [name for _, name in sorted(found)]


def _read(path: str) -> tuple[Request, int]:
    """Return the request in a file, and when it was put there; raises OSError, ProtocolError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
            raise ProtocolError("it is no file of ours")
        frames = list(Inbox(MOST_BYTES).feed(file.read(MOST_BYTES + 1)))
    if not frames or frames[-1][0] != END:
        raise ProtocolError("it is not whole")
    return request_of(frames), about.st_mtime_ns
