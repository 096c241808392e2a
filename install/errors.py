"""What stops an installation, in one line an operator can act on."""

from __future__ import annotations

import errno

HINTS = {
    errno.EROFS: "the file system is read-only: mount it read-write or choose another directory",
    errno.EACCES: "run as root or choose another directory",
    errno.EPERM: "run as root, and look for an immutable flag with lsattr",
    errno.ENOSPC: "the file system is full: free some space and run install-cni again",
    errno.EDQUOT: "the disk quota is used up: free some space and run install-cni again",
    errno.EFBIG: "the file size limit is too low: raise it (ulimit -f)",
    errno.ENOTDIR: "a part of the path is a file: move it away or choose another directory",
    errno.ENOENT: "create it, or name the right path",
    errno.EISDIR: "a directory stands where a file belongs: move it away",
}


class InstallError(Exception):
    """The installation cannot go on; the message says what, which path and what to do. What was there is kept."""


def explain(verb: str, path: object, error: OSError) -> InstallError:
    """Return the error for an operation that the file system refused (`verb` as in "cannot write")."""
    reason = error.strerror or str(error)
    hint = HINTS.get(error.errno or 0, "put that right and run install-cni again")
    return InstallError(f"cannot {verb} {path}: {reason}; {hint}")
