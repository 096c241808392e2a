"""Files that commands write: whole or not at all, and readable by their owner only; stdout and devices as they are."""

from __future__ import annotations

import errno
import os
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

STDOUT = ("-", "/dev/stdout")


def require_place(path: str) -> None:
    """Raise OSError, naming the file, when it is a directory or the directory for it does not exist."""
    if path in STDOUT or (os.path.exists(path) and not os.path.isdir(path)):
        return
    if os.path.isdir(path):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def write(path: str, lines: Iterable[str]) -> None:
    """Put the lines into a file in the place of what it was, or into a device or pipe. Raises OSError, naming it."""
    if path in STDOUT:
        for line in lines:
            click.echo(line.encode(), nl=False)
        return
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            _pour(path, lines)
        else:
            _put(os.path.realpath(path), lines)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _pour(path: str, lines: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)


def _put(path: str, lines: Iterable[str]) -> None:
    with NamedTemporaryFile("w", encoding="utf-8", dir=os.path.dirname(path), delete=False) as file:
        try:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
            os.rename(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
