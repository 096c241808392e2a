"""One value below /proc/sys, of the network namespace the calling thread is in."""

from __future__ import annotations

import os

from cni_calico.errors import KERNEL, CniError, reason

ROOT = "/proc/sys/"


def read(path: str) -> str:
    """Return a value, e.g. of net/ipv4/ip_forward; raises OSError."""
    with open(ROOT + path, encoding="ascii") as file:
        return file.read().strip()


def write(path: str, value: int) -> None:
    """Set a value; raises CniError naming it."""
    try:
        write_raw(path, value)
    except OSError as error:
        raise CniError(KERNEL, f"the kernel refused sysctl {path.replace('/', '.')}={value}", reason(error)) from error


def try_write(path: str, value: int) -> None:
    """Set a value where the kernel has it and allows it (Calico tolerates failure for some)."""
    try:
        write_raw(path, value)
    except OSError:
        return


def write_raw(path: str, value: int) -> None:
    """Set a value; raises OSError."""
    fd = os.open(ROOT + path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)
