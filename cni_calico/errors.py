"""The CNI error: a code, a message for a tired operator, details. skel alone turns it into JSON."""

from __future__ import annotations

import os

from datastore.api import Busy, NotReady, StoreError, Unreachable, UnsupportedDatastore
from ipam.errors import AddressInUse, BadRequest, Contended, Exhausted, IpamError

# CNI spec 1.1.0, "Error": codes below 100 are the spec's, and the Go types' (8, 50, 51).
INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
UNDECODABLE = 6
INVALID_CONFIG = 7
INVALID_NETNS = 8
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
# Ours, from 100 on.
NO_ADDRESS = 101
ADDRESS_IN_USE = 102
DATASTORE = 103
KERNEL = 104
DRIFT = 105
DELEGATE = 106
ALREADY_ATTACHED = 107
INTERNAL = 999  # what the reference skel answers to an error of unknown type


class CniError(Exception):
    """A verb failed: `code` for programs, `msg` says what and what to do, `details` carries the lower-level reason."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details


_IPAM_CODES: dict[type[IpamError], int] = {
    BadRequest: INVALID_CONFIG,
    Exhausted: NO_ADDRESS,
    AddressInUse: ADDRESS_IN_USE,
    Contended: TRY_AGAIN_LATER,
}


def as_cni_error(error: Exception) -> CniError:
    """Return any exception as the CNI error that tells the most about it, its notes among the details."""
    known = _known(error)
    notes = getattr(error, "__notes__", ())
    return CniError(known.code, known.msg, "; ".join(filter(None, (known.details, *notes)))) if notes else known


def _known(error: Exception) -> CniError:
    if isinstance(error, CniError):
        return error
    if isinstance(error, IpamError):
        return CniError(_IPAM_CODES.get(type(error), NO_ADDRESS), str(error))
    if isinstance(error, UnsupportedDatastore):
        return CniError(UNSUPPORTED_FIELD, str(error))
    if isinstance(error, (Busy, NotReady, Unreachable)):
        return CniError(TRY_AGAIN_LATER, str(error))
    if isinstance(error, StoreError):
        return CniError(DATASTORE, str(error))
    if isinstance(error, OSError):
        return CniError(IO_FAILURE, f"{reason(error)}{f' on {error.filename}' if error.filename else ''}")
    return CniError(INTERNAL, f"unexpected {type(error).__name__}: {error}", "the log has the traceback")


def reason(error: OSError) -> str:
    """Return what the kernel said, as one phrase."""
    return os.strerror(error.errno) if error.errno else str(error)
