"""What TLS to etcd is made of: whom to trust, and what to show of oneself."""

from __future__ import annotations

import os
import ssl
from contextlib import ExitStack, contextmanager

from datastore.api import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from datastore.settings import Etcd


def context_of(settings: Etcd) -> ssl.SSLContext:
    """Return the context for connections; the system's authorities are trusted where none is named.

    The server's certificate must be for the name or address in the endpoint. Raises Refused, naming the file.
    """
    context = _trusting(settings)
    if settings.cert or settings.cert_file:
        with ExitStack() as opened:
            try:
                cert = opened.enter_context(_in_memory(settings.cert)) if settings.cert else settings.cert_file
                key = opened.enter_context(_in_memory(settings.key)) if settings.key else settings.key_file
                context.load_cert_chain(cert, key, password=lambda: b"")  # never ask at a terminal
            except (OSError, ValueError) as error:
                raise Refused(f"etcd's client certificate {settings.cert_file or 'in the settings'} with key "
                              f"{settings.key_file or 'in the settings'} cannot be used: {_told(error)}") from error
    return context


def files_of(settings: Etcd) -> tuple[tuple[int, int, int] | None, ...]:
    """Return what changes when a file of the settings is written, or replaced; None for one that is not there."""
    return tuple(_state(path) for path in (settings.ca_cert_file, settings.cert_file, settings.key_file) if path)


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _trusting(settings: Etcd) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_cert_file or None, cadata=settings.ca_cert or None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: a text that is not ASCII
        raise Refused(f"etcd's CA certificate {settings.ca_cert_file or 'in the settings'} cannot be used: "
                      f"{_told(error)}") from error


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Yield a path for a text: OpenSSL reads certificates of its own from files only (SSL_CTX_use_certificate_file)."""
    fd = os.memfd_create("etcd", os.MFD_CLOEXEC)
    try:
        os.write(fd, text.encode())
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _told(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
