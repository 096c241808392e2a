"""Blocks against affinities: each says the same thing from its end, and a claim or a release may have died between."""

from __future__ import annotations

from datastore import keys
from datastore.api import Corrupt, Missing, Torn
from datastore.frozen import frozen
from datastore.model import CONFIRMED, affinity_of, host_of
from ipam.audit.finding import (
    AFFINITY_MISSING,
    AFFINITY_STALE,
    AFFINITY_UNFINISHED,
    BLOCK_MISSING,
    BLOCK_OVERLAP,
    Finding,
)
from ipam.audit.survey import read, undisturbed
from ipam.block import host_affinity
from ipam.cidr import parse_cidr
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from datastore.api import Record, Store
    from ipam.audit.survey import Survey
    from ipam.cidr import Cidr

HOST = "host:"


@frozen
class Claim:
    """A node and a block that its affinity is about."""

    node: str
    cidr: str

    @property
    def key(self) -> str:
        """Where the affinity is stored."""
        return keys.affinity(self.node, self.range.family, self.cidr)

    @property
    def range(self) -> Cidr:
        """The block's addresses."""
        return parse_cidr(self.cidr)


def compare_affinities(store: Store, found: Survey, watch: Callable[..., Iterable[Any]]) -> int:
    """Tell how affinities and blocks disagree; return how many affinities there are. Raises Unwritable, Busy."""
    told = _affinities(store, found, watch)
    wanted = {Claim(affinity[len(HOST) :], cidr) for cidr, affinity in found.blocks.items()
              if affinity and affinity.startswith(HOST)}
    odd = {claim for claim, state in told.items() if state != CONFIRMED or claim not in wanted}
    for claim in odd | (wanted - told.keys()):
        if claim.cidr not in found.doubtful:
            found.findings += disagreement(store, found, claim)
    found.findings += _overlaps(found)
    for claim, state in told.items():
        found.claims.setdefault(claim.cidr, {})[claim.node] = state
    return len(told)


def _affinities(store: Store, found: Survey, watch: Callable[..., Iterable[Any]]) -> dict[Claim, str]:
    """Return every affinity with its state, empty for one that cannot be read; host records are looked at, too."""
    told: dict[Claim, str] = {}

    def torn(item: Torn) -> None:
        found.unreadable(item)
        for claim in claims_of(item.key):
            told[claim] = ""

    for record in watch(store.scan(keys.HOSTS, torn), "Reading affinities", len(found.blocks)):
        try:
            told |= states_in(record)
        except Corrupt as error:
            torn(Torn(record.key, "", str(error)))
    return told


def states_in(record: Record) -> dict[Claim, str]:
    """Return what an affinity's record says; nothing for a node's own record. Raises Corrupt."""
    if "/" not in record.key[len(keys.HOSTS) :]:
        host_of(record)
    return {claim: affinity_of(record).state for claim in claims_of(record.key)}


def claims_of(key: str) -> Iterator[Claim]:
    """Yield what an affinity's key is about; nothing for other keys."""
    node, _, rest = key[len(keys.HOSTS) :].partition("/")
    if rest:
        try:
            yield Claim(node, str(parse_cidr(keys.block_cidr(key))))
        except BadRequest:
            return


def disagreement(store: Store, found: Survey, claim: Claim) -> Iterator[Finding]:
    """Say what is wrong between a block and its affinity now that nobody is writing."""
    with undisturbed(store):
        state = state_of(store, claim)
        try:
            block = read(store, claim.cidr)
        except Corrupt:
            return
    owner = block.affinity if block else None
    mine = owner == host_affinity(claim.node)
    if state is None and mine:
        yield Finding(AFFINITY_MISSING, claim.cidr, f"it is node {claim.node}'s, which has no affinity for it", claim)
    elif state in (CONFIRMED, "") and block is None:
        found.doubt(claim.cidr)
        what = f"node {claim.node} has an affinity for this block, which is not there"
        yield Finding(BLOCK_MISSING, claim.cidr, what, claim)
    elif state and not mine:
        whose = f"belongs to {owner or 'nobody'}" if block else "is not there"
        yield Finding(AFFINITY_STALE, claim.key, f"its block {claim.cidr} {whose}", claim)
    elif state and state != CONFIRMED:
        yield Finding(AFFINITY_UNFINISHED, claim.key, f"it was left in state {state}", claim)


def state_of(store: Store, claim: Claim) -> str | None:
    """Return the state of an affinity, empty when its record cannot be read, None when there is none."""
    try:
        return affinity_of(store.get(claim.key)).state
    except Missing:
        return None
    except Corrupt:
        return ""


def _overlaps(found: Survey) -> Iterator[Finding]:
    """Yield each block that begins within the one before it, in the order of addresses."""
    ranges = sorted((parse_cidr(cidr) for cidr in {*found.blocks, *found.doubtful}),
                    key=lambda cidr: (cidr.family, cidr.first, cidr.prefix))
    outer = None
    for cidr in ranges:
        if outer and outer.overlaps(cidr):
            yield Finding(BLOCK_OVERLAP, str(cidr), f"it shares addresses with block {outer}")
        else:
            outer = cidr
