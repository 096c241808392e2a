"""Network namespaces: open one by path, act inside it, come back."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from functools import lru_cache

from cni_calico.errors import INVALID_NETNS, CniError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
OWN = "/proc/thread-self/ns/net"
NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h: _IO(0xb7, 0x3)


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Yield a descriptor of the network namespace at a path; raises CniError 8 when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # never wait for a FIFO's writer
    except (OSError, ValueError) as error:
        raise cannot_open(path, reason(error) if isinstance(error, OSError) else str(error)) from error
    try:
        require_netns(fd, path)
        yield fd
    finally:
        os.close(fd)


def cannot_open(path: str, why: str) -> CniError:
    """Return the error of a namespace that cannot be opened."""
    return CniError(INVALID_NETNS, f"network namespace {path!r} cannot be opened", why)


def require_netns(fd: int, path: str) -> None:
    """Raise CniError 8 unless the descriptor, which was opened at the path, is of a network namespace."""
    if not _is_netns(fd):
        raise CniError(INVALID_NETNS, f"{path!r} is not a network namespace")


@contextmanager
def own() -> Iterator[int]:
    """Yield a descriptor of the namespace this thread is in."""
    fd = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """Run the body in the namespace of the descriptor; only this thread moves. Raises CniError 8."""
    with own() as home:
        try:
            _setns(fd)
        except OSError as error:
            raise CniError(INVALID_NETNS, "the pod's network namespace cannot be entered", reason(error)) from error
        try:
            yield
        finally:
            _setns(home)


def is_own(what: str | int) -> bool:
    """Tell whether a path or descriptor is of the namespace this thread is in; what cannot be looked at is not."""
    try:
        return os.path.samestat(os.stat(what), os.stat(OWN))
    except (OSError, ValueError):
        return False


def own_id() -> str:
    """Return what tells the namespace this thread is in from all others of this boot; empty where it is not told."""
    identity = own_identity()
    return f"{identity[0]}:{identity[1]}" if identity else ""


def own_identity() -> tuple[int, int] | None:
    """Return device and inode of the namespace this thread is in, None where they are not told."""
    try:
        found = os.stat(OWN)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_netns(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def _setns(fd: int) -> None:
    """setns(2); Python has it from 3.12 on."""
    if hasattr(os, "setns"):
        os.setns(fd, CLONE_NEWNET)
        return
    setns, get_errno = _foreign_setns()
    if setns(fd, CLONE_NEWNET):
        raise OSError(get_errno(), os.strerror(get_errno()))


@lru_cache(maxsize=1)
def _foreign_setns() -> tuple[Callable[[int, int], int], Callable[[], int]]:
    """Return libc's setns and what tells its errno. `ctypes` is the library; its import costs 3 ms, its core 0.2."""
    try:
        from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, dlopen, dlsym, get_errno
    except ImportError:
        import ctypes

        return ctypes.CDLL(None, use_errno=True).setns, ctypes.get_errno

    class Function(CFuncPtr):
        """A C function of int arguments that returns an int."""

        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO

    return Function(dlsym(dlopen(None, 0), "setns")), get_errno  # type: ignore[arg-type]  # None: this program
