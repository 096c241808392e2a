"""What an audit can find: each kind with its meaning, and what to do about it."""

from __future__ import annotations

from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from datastore.model import Attribute
    from ipam.cidr import Address

REPAIR = "`calicoctl ipam check --repair` sets it right, on the node whose it is"

RECORD_UNREADABLE = "record-unreadable"
SETTING_UNREADABLE = "setting-unreadable"
BLOCK_UNSOUND = "block-unsound"
BLOCK_MISSING = "block-missing"
BLOCK_OVERLAP = "block-overlap"
HANDLE_EMPTY = "handle-empty"
HANDLE_MISSING = "handle-missing"
HANDLE_COUNT = "handle-count"
AFFINITY_STALE = "affinity-stale"
AFFINITY_MISSING = "affinity-missing"
AFFINITY_UNFINISHED = "affinity-unfinished"
POOL_MISSING = "pool-missing"
UNALLOCATED = "unallocated"
ENDPOINT_STALE = "endpoint-stale"
ENDPOINT_MISSING = "endpoint-missing"
CONFLICT = "conflict"
LEAKED = "leaked"
WIRE_TWICE = "wire-twice"

# What to do. Kinds that a repair sets right are exactly those whose advice is REPAIR.
ADVICE = {
    RECORD_UNREADABLE: REPAIR,
    SETTING_UNREADABLE: "restore it from a backup, or remove it and make it anew: only you know what it said",
    BLOCK_UNSOUND: REPAIR,
    BLOCK_MISSING: REPAIR,
    BLOCK_OVERLAP: "delete the pods in one of the two blocks, then take it from its node",
    HANDLE_EMPTY: REPAIR,
    HANDLE_MISSING: REPAIR,
    HANDLE_COUNT: REPAIR,
    AFFINITY_STALE: REPAIR,
    AFFINITY_MISSING: REPAIR,
    AFFINITY_UNFINISHED: REPAIR,
    POOL_MISSING: "create the pool again, or delete the pods",
    UNALLOCATED: REPAIR,
    ENDPOINT_STALE: REPAIR,
    ENDPOINT_MISSING: REPAIR,
    CONFLICT: "delete the pod that has the address wrongly, and add it again",
    LEAKED: "release it: `calicoctl ipam release --from-report`, or the runtime's GC",
    WIRE_TWICE: "delete the pod whose attachment it is not",
}


@frozen
class Finding:
    """One disagreement: its kind, the record or address it is about, and what is wrong with it.

    detail: what a repair needs to begin with; it looks again before it acts.
    """

    kind: str
    subject: str
    what: str
    detail: Any = None

    @property
    def advice(self) -> str:
        """What to do about it."""
        return ADVICE[self.kind]


@frozen
class Leak:
    """An allocation whose pod is provably gone, as it was when it was looked at."""

    address: Address
    attribute: Attribute
    sequence: int | None
    why: str
