"""The audit: blocks, affinities, handles, endpoint records and this node's kernel compared, each disagreement told.

What only looked wrong because somebody was writing is looked at again, while he is kept off, before it is told. Other
nodes' allocations are compared between records only.
"""

from __future__ import annotations

from datastore.frozen import frozen
from ipam.audit.affinities import compare_affinities
from ipam.audit.handles import compare_handles
from ipam.audit.pods import compare_living
from ipam.audit.survey import survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from datastore.api import Store
    from ipam.audit.finding import Finding, Leak
    from ipam.audit.living import Living
    from ipam.audit.survey import Survey


@frozen
class Audit:
    """What an audit found, in the order of kinds, and how many affinities, endpoints and handles it looked at.

    leaks: what is behind the findings of kind `leaked`; survey: what it saw in the blocks.
    """

    findings: tuple[Finding, ...]
    leaks: tuple[Leak, ...]
    survey: Survey
    affinities: int
    endpoints: int
    handles: int


def unwatched(items: Iterable[Any], label: str, count: int) -> Iterable[Any]:
    """Return the items as they are: for whoever needs no progress bar."""
    return items


def audit(store: Store, look: Callable[[], Living], watch: Callable[..., Iterable[Any]] = unwatched) -> Audit:
    """Compare everything. `look` gathers what the node is like; `watch(items, label, count)` wraps each long walk.

    Takes locks for moments only and changes no record. Raises Unwritable when the datastore cannot be read, Busy.
    """
    found = survey(store, look(), watch)
    affinities = compare_affinities(store, found, watch)
    endpoints, leaks = compare_living(store, found, look, watch)
    handles = compare_handles(store, found, watch)
    findings = sorted(found.findings, key=lambda finding: (finding.kind, finding.subject, finding.what))
    return Audit(tuple(findings), tuple(leaks), found, affinities, endpoints, handles)
