"""The rest of a released address before it may be given again (Calico: ipCooldownSeconds, `releasedAt`)."""

from __future__ import annotations

import time

from datastore.api import Corrupt
from ipam.block import rested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.model import Block


def stamp() -> str:
    """Return the present time as a block stores it: RFC 3339, UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def settled(block: Block, seconds: int) -> Block:
    """Return the block with those ordinals free again that have rested so many seconds. Raises Corrupt.

    A time of release that lies as far ahead is one of a clock that has since been set back: it rests no longer either.
    """
    if not any(attribute.released_at for attribute in block.attributes):
        return block
    now = time.time()
    try:
        return rested(block, lambda released_at: abs(now - seconds_of(released_at)) >= seconds)
    except ValueError as error:
        raise Corrupt(f"block {block.cidr} has a releasedAt that is no time: {error}; repair its record") from error


def seconds_of(text: str) -> float:
    """Return a time (RFC 3339) as seconds since 1970; raises ValueError."""
    from datetime import UTC, datetime  # only blocks with addresses at rest, or about to be reclaimed, come here

    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
