"""`calicoctl ipam check`: an audit (ipam/audit) as people read it, and as a file. Sections are in Calico's order."""

from __future__ import annotations

import os
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from calicoctl.command import CONTEXT, global_options, the_store
from calicoctl.node import this_node
from calicoctl.progress import counted
from calicoctl.table import printable
from calicoctl.writing import STDOUT, require_place, write
from cni_calico import facts
from cni_calico.version import VERSION
from datastore.cluster import initialised
from ipam.audit import finding as kinds
from ipam.audit.audit import audit
from ipam.audit.repair import Craft, repair
from ipam.audit.report import entries, lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datastore.api import Json, Store
    from ipam.audit.audit import Audit
    from ipam.audit.finding import Finding

EPILOG = """\b
Examples:
  calicoctl ipam check
  calicoctl ipam check --show-problem-ips -o report.json
  calicoctl ipam release --from-report=report.json
  calicoctl ipam check --repair

\b
Run it on the node whose pods are in question, in the node's own network namespace: what decides is that node's kernel.
Allocations of other nodes are compared between records only. Nothing is locked for longer than a moment, and nothing is
changed, unless --repair says so; --output gives a datastore without ClusterInformation one, with a GUID.

\b
--repair makes damaged and missing records anew from the others and the kernel, and keeps what it replaces below
.damaged in the datastore. It releases nothing. An address of which nothing proves that it is free stays allocated, to
the handle repaired-unknown; release such addresses with `calicoctl ipam release --ip` once you are sure.

\b
Exit codes:
  0  no problems
  1  it did not work: one line on stderr says why
  2  wrong command line
  3  problems were found (with --repair: and are left)
"""
PROBLEMS = 3  # exit code
SHOWN = 10  # findings of a section, unless all are asked for
TOP = 20  # nodes
SECTIONS = (
    ("IPs that are allocated but not actually in use", (kinds.LEAKED,)),
    ("IPs that are in use but in no IP pool", (kinds.POOL_MISSING,)),
    ("IPs that are in use by a workload but not allocated to it",
     (kinds.UNALLOCATED, kinds.CONFLICT, kinds.WIRE_TWICE, kinds.ENDPOINT_STALE, kinds.ENDPOINT_MISSING)),
    ("IPAM handles with no matching IPs", (kinds.HANDLE_EMPTY,)),
    ("IPs with missing handle", (kinds.HANDLE_MISSING, kinds.HANDLE_COUNT)),
    ("invalid blocks and records",
     (kinds.BLOCK_UNSOUND, kinds.BLOCK_MISSING, kinds.BLOCK_OVERLAP, kinds.RECORD_UNREADABLE,
      kinds.SETTING_UNREADABLE)),
    ("affinities that no block agrees with",
     (kinds.AFFINITY_MISSING, kinds.AFFINITY_STALE, kinds.AFFINITY_UNFINISHED)),
)


@click.command(epilog=EPILOG, context_settings=CONTEXT)
@click.option("--show-all-ips", is_flag=True, help="Print every address in use, too.")
@click.option("--show-problem-ips", is_flag=True, help=f"Print every problem, not the first {SHOWN} of each section.")
@click.option("-o", "--output", "path", metavar="FILE", type=click.Path(dir_okay=False),
              help="Write a report to FILE, for `calicoctl ipam release --from-report`; - is stdout, alone.")
@click.option("--repair", "with_repair", is_flag=True, help="Set right what can be, first.")
@click.option("--node", metavar="NAME", help="Name of this node, as the plugin knows it.  [default: as the plugin's]")
@global_options
def check(show_all_ips: bool, show_problem_ips: bool, path: str | None, with_repair: bool, node: str | None) -> None:
    """Compare blocks, handles, affinities, endpoint records and this node's kernel, and tell where they disagree."""
    if path is not None:
        require_place(path)
    store, tell = the_store(), partial(click.echo, err=path in STDOUT)
    tell("Checking IPAM for inconsistencies...\n")
    found = _audit(store, node or this_node(os.environ), with_repair, tell)
    for line in (*_numbers(found), *_nodes(found), *_sections(found, show_problem_ips)):
        tell(line)
    for line in _all(store, found) if show_all_ips else ():
        tell(line)
    if path is not None:
        write(path, lines(store, found, initialised(store, VERSION), VERSION))
        tell(f"\nReport written to {printable(path)}.")
    count = len(found.findings)
    tell(f"\nCheck complete; found {count} problem{'' if count == 1 else 's'}.")
    click.get_current_context().exit(PROBLEMS if count else 0)


def _audit(store: Store, name: str, with_repair: bool, tell: Callable[[str], object]) -> Audit:
    def look() -> Any:
        return facts.everything(name)

    if not with_repair:
        return audit(store, look, counted)
    craft = Craft(facts.owner_of_endpoint, facts.endpoint_of_wire)
    return repair(store, look, craft, lambda what: tell(f"Repaired: {printable(what)}"), counted)


def _numbers(found: Audit) -> Iterator[str]:
    """Yield how much was looked at."""
    seen = found.survey
    yield f"Found {len(seen.blocks)} IPAM blocks, which record {seen.allocations} allocations."
    if seen.resting:
        yield f"Found {seen.resting} IPs that cool down."
    if seen.kept:
        yield (f"Found {seen.kept} IPs that a repair left allocated because nothing proves them free: "
               "`calicoctl ipam release --ip` when you are sure.")
    yield from (f"  {pool}" for pool in seen.pools)
    yield f"Found {len(seen.pools)} IP pools."
    yield f"Found {found.affinities} affinities."
    yield f"Found {found.endpoints} workload endpoints."
    yield f"Found {len(seen.living.wires)} wired workloads on node {printable(seen.living.node)}."
    if not seen.home and seen.allocations:
        yield ("No allocation says that it was made in this network namespace since the last boot: no IP is judged by "
               "the links here.")
    yield f"Found {found.handles} handles."


def _nodes(found: Audit) -> Iterator[str]:
    """Yield the nodes with most allocations."""
    nodes = found.survey.nodes
    yield f"Looking for top (up to {TOP}) nodes by allocations..."
    for name, count in nodes.most_common(TOP):
        yield f"  {printable(name or '(no node)')} has {count} allocations"
    if nodes:
        yield f"Node with most allocations has {max(nodes.values())}; median is {median(nodes.values()):g}"


def _sections(found: Audit, everything: bool) -> Iterator[str]:
    """Yield what was found, section by section, and what to do about it."""
    for title, of_kinds in SECTIONS:
        inside = [item for item in found.findings if item.kind in of_kinds]
        yield f"\nScanning for {title}..."
        yield from map(_line, inside if everything else inside[:SHOWN])
        if len(inside) > SHOWN and not everything:
            yield f"  … and {len(inside) - SHOWN} more: --show-problem-ips"
        yield f"Found {len(inside)} {title}."
        yield from (f"What to do: {advice}." for advice in dict.fromkeys(item.advice for item in inside))


def _line(finding: Finding) -> str:
    return f"  {finding.kind}: {printable(finding.subject)}: {printable(finding.what)}"


def _all(store: Store, found: Audit) -> Iterator[str]:
    """Yield every address in use, and whose it is."""
    yield "\nIPs in use:"
    for address, entry in entries(store, found):
        if not entry["coolingDown"]:
            yield f"  {address} {_owner(entry)}"


def _owner(entry: Json) -> str:
    whose = entry["owners"][0] if entry["owners"] else entry["handle"]
    told = [f"node {entry['node']}" if entry["node"] else "", "borrowed" if entry["borrowed"] else "",
            "" if entry["inUse"] else "not in use"]
    return printable(f"{whose} ({', '.join(filter(None, told))})")
