"""What can go wrong in address management, each with the fact and what to do about it in its message."""

from __future__ import annotations


class IpamError(Exception):
    """An address could not be given, found or taken back; nothing was changed."""


class BadRequest(IpamError):
    """The request itself cannot be met as written: not an address, not a pool, a pool that is bad."""


class Exhausted(IpamError):
    """No pool that may be used has a free address; the message names pools and counts."""


class AddressInUse(IpamError):
    """The address asked for belongs to somebody else."""


class Contended(IpamError):
    """Other writers kept changing the same records; trying again later is right."""


class BlockLimit(Exhausted):
    """The node has as many blocks as it may have, and they are full."""


class Changed(IpamError):
    """What was to be released is not what it was any more: another sequence number or handle. Nothing was released."""
