"""Logging: to stderr, and to the configured file with rotation. A log that cannot be written never fails a verb.

Not `logging`: it costs 19 ms at import, and its rotating handler is not made for many short processes sharing a file.
Here each line is one O_APPEND write, and whoever finds the file full renames it under a lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_calico.config import LogSettings

LEVELS = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "fatal": 40, "panic": 40}
STDERR = 2
DAY = 86400
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
STAMP = r"-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{9}"  # what _rotate puts into a name


@frozen
class Log:
    """Where a verb's lines go, with the words that say which attachment they are about."""

    level: int = LEVELS["info"]
    fd: int = -1
    context: str = ""

    def debug(self, message: str, **values: object) -> None:
        """Record a step."""
        self._write("DEBUG", message, values)

    def info(self, message: str, **values: object) -> None:
        """Record a verb's outcome."""
        self._write("INFO", message, values)

    def warning(self, message: str, **values: object) -> None:
        """Record something an operator should look at, though the verb went on."""
        self._write("WARNING", message, values)

    def error(self, message: str, **values: object) -> None:
        """Record a failure."""
        self._write("ERROR", message, values)

    def about(self, **values: object) -> Log:
        """Return a log whose every line ends with these words too."""
        return Log(self.level, self.fd, self.context + _words(values))

    def _write(self, level: str, message: str, values: dict[str, object]) -> None:
        if LEVELS[level.lower()] < self.level:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        head = f"{stamp}.{int(now % 1 * 1000):03} [{level}][{os.getpid()}] {message}"
        line = f"{head}{_words(values)}{self.context}\n".encode(errors="backslashreplace")
        for fd in (STDERR, self.fd):
            _write(fd, line)


def open_log(settings: LogSettings) -> Log:
    """Return a log as configured; where its file cannot be opened, one to stderr alone."""
    level = LEVELS.get(settings.level, LEVELS["info"])
    if not settings.path:
        return Log(level)
    try:
        fd = _open(settings.path)
        if settings.max_size and os.fstat(fd).st_size >= settings.max_size:
            _rotate(settings, fd)
            os.close(fd)
            fd = _open(settings.path)
    except (OSError, ValueError) as error:
        Log(level).warning(f"log file {settings.path!r} cannot be written: {error}; logging to stderr alone")
        return Log(level)
    return Log(level, fd)


def close_log(log: Log) -> None:
    """Close the log's file."""
    if log.fd >= 0:
        os.close(log.fd)


def _open(path: str) -> int:
    try:
        return os.open(path, FLAGS, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        return os.open(path, FLAGS, 0o644)


def _rotate(settings: LogSettings, fd: int) -> None:
    """Rename the full file to one with its time in the name, unless another process has done so, or is about to."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(settings.path)):
            stem, extension = os.path.splitext(settings.path)
            stamp = f"{time.strftime('%Y-%m-%dT%H-%M-%S')}.{time.time_ns() % 10**9:09}"
            os.rename(settings.path, f"{stem}-{stamp}{extension}")
            _drop_old(settings, stem, extension)
    except OSError as error:
        if not isinstance(error, (BlockingIOError, FileNotFoundError)):
            Log(fd=fd).warning(f"log file {settings.path} cannot be rotated: {error}")


def _drop_old(settings: LogSettings, stem: str, extension: str) -> None:
    import re

    folder = os.path.dirname(stem)
    mine = re.compile(re.escape(os.path.basename(stem)) + STAMP + re.escape(extension))
    rotated = sorted(filter(mine.fullmatch, os.listdir(folder)), reverse=True)
    for age, name in enumerate(rotated):
        path = os.path.join(folder, name)
        too_many = settings.max_count and age >= settings.max_count
        too_old = settings.max_age and time.time() - os.stat(path).st_mtime > settings.max_age * DAY
        if too_many or too_old:
            os.unlink(path)


def _words(values: dict[str, object]) -> str:
    return "".join(f" {name}={_quoted(str(value))}" for name, value in values.items())


def _quoted(text: str) -> str:
    """Return a value on one line and in one piece, whatever is in it."""
    return text if text and text.isprintable() and not any(c in ' "=' for c in text) else ascii(text)


def stderr(text: str) -> None:
    """Write to stderr, if anybody listens."""
    _write(STDERR, text.encode(errors="backslashreplace"))


def _write(fd: int, data: bytes) -> None:
    if fd >= 0:
        with suppress(OSError):
            os.write(fd, data)
