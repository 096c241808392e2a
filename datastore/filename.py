"""Key segments as file names, and back. Pure."""

from __future__ import annotations

LONGEST_NAME = 200  # bytes; a file name may have 255 (NAME_MAX), and a suffix follows
LONG = "%~"  # in a file name: the rest of it is a digest, and the content tells the key
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:~")


def name_of(segment: str) -> str:
    """Return a key segment as a safe file name: odd bytes as %XX, a very long one ended by its digest."""
    if PLAIN.issuperset(segment) and len(segment) <= LONGEST_NAME and not segment.startswith("."):
        return segment
    raw = segment.encode()
    quoted = "".join(chr(byte) if chr(byte) in PLAIN else f"%{byte:02X}" for byte in raw)
    if quoted.startswith("."):
        quoted = "%2E" + quoted[1:]
    if len(quoted) <= LONGEST_NAME:
        return quoted
    from hashlib import sha256

    return f"{quoted[:100]}{LONG}{sha256(raw).hexdigest()}"


def unquoted(name: str) -> str:
    """Return the key segment that a file name stands for; raises ValueError for one that no segment has."""
    if "%" not in name:
        return name
    first, *rest = name.encode().split(b"%")
    return b"".join([first, *(bytes([int(part[:2], 16)]) + part[2:] for part in rest)]).decode()
