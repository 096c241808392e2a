"""Logging: to stderr, and to the configured file with rotation. A log that cannot be written never fails a verb.

Not `logging`: it costs 19 ms at import, and its rotating handler is not made for many short processes sharing a file.
Here each line is one O_APPEND write, and whoever finds the file full renames it under a lock.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_calico.config import LogSettings

LEVELS = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "fatal": 40, "panic": 40}
DAY = 86400


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
        for fd in (2, self.fd):
            try:
                if fd >= 0:
                    os.write(fd, line)
            except OSError:
                continue


def open_log(settings: LogSettings) -> Log:
    """Return a log as configured; where its file cannot be opened, one to stderr alone."""
    level = LEVELS.get(settings.level, LEVELS["info"])
    if not settings.path:
        return Log(level)
    try:
        _rotate_if_full(settings)
        return Log(level, _open(settings.path))
    except OSError as error:
        log = Log(level)
        log.warning(f"log file {settings.path} cannot be written: {os.strerror(error.errno or 0)}; logging to stderr")
        return log


def close_log(log: Log) -> None:
    """Close the log's file."""
    if log.fd >= 0:
        os.close(log.fd)


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        return os.open(path, flags, 0o644)


def _rotate_if_full(settings: LogSettings) -> None:
    """Rename a full file to one with its time in the name. Racing processes see that it is gone, or small again."""
    try:
        if not settings.max_size or os.stat(settings.path).st_size < settings.max_size:
            return
        fd = _open(settings.path)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(settings.path)):
            stem, extension = os.path.splitext(settings.path)
            stamp = f"{time.strftime('%Y-%m-%dT%H-%M-%S')}.{time.time_ns() % 10**9:09}"
            os.rename(settings.path, f"{stem}-{stamp}{extension}")
            _drop_old(settings, stem, extension)
    except (BlockingIOError, FileNotFoundError):
        return  # another process is at it
    finally:
        os.close(fd)


def _drop_old(settings: LogSettings, stem: str, extension: str) -> None:
    folder = os.path.dirname(stem)
    mine = os.path.basename(stem) + "-"
    rotated = sorted((name for name in os.listdir(folder) if name.startswith(mine) and name.endswith(extension)),
                     reverse=True)
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
    """Write to stderr, if there is one."""
    if sys.stderr is not None:
        try:
            os.write(2, text.encode(errors="backslashreplace"))
        except OSError:
            return
