"""Judges what hosts were told: nobody has an address that another one has, and etcd's history tells the same story."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .hosts import ASK, GONE, GOT, LET, LOST, NONE, STUCK, Journal, Line
from .witness import World


class Claim(NamedTuple):
    """An address was a pod's from the moment its host was told so until the moment it began to give it back."""

    address: str
    handle: str
    since: float
    until: float


def claims(journals: Sequence[Journal]) -> list[Claim]:
    """Return all claims there were; one that was never given back lasts for ever."""
    found = []
    for journal in journals:
        begun: dict[str, Line] = {}
        for line in journal.read():
            if line.deed == GOT:
                begun[line.handle] = line
            elif line.deed == LET and line.handle in begun:
                got = begun.pop(line.handle)
                found += [Claim(address, line.handle, got.at, line.at) for address in got.told]
        found += [Claim(address, got.handle, got.at, float("inf")) for got in begun.values() for address in got.told]
    return found


def no_two_at_once(found: Sequence[Claim]) -> None:
    """Assert that no address was claimed by two at any moment."""
    by_address: dict[str, list[Claim]] = defaultdict(list)
    for claim in found:
        by_address[claim.address].append(claim)
    for each in by_address.values():
        for one, other in pairwise(sorted(each, key=lambda claim: claim.since)):
            assert one.until <= other.since, f"{one.address} was {one.handle}'s and {other.handle}'s at a time"


def as_told(found: Sequence[Claim], world: World) -> None:
    """Assert that etcd gave each claimed address to who claims it, once, and in the order of the claims."""
    told = {(tenure.address, tenure.handle): tenure for tenure in world.tenures}
    assert len(told) == len(world.tenures), "an address was given to the same pod twice"
    for claim in found:
        assert (claim.address, claim.handle) in told, f"{claim.handle} was told {claim.address}, etcd never knew"
    for one, other in pairwise(sorted(found, key=lambda claim: (claim.address, claim.since))):
        if one.address == other.address:
            first, second = told[one.address, one.handle], told[other.address, other.handle]
            assert first.taken is not None, f"{one.address}: {other.handle} got what {one.handle} has"
            assert first.taken < second.given


def nobody_else_has_any(found: Sequence[Claim], journals: Sequence[Journal], world: World) -> None:
    """Assert that what etcd says is in use now is what hosts have: what they were told, or cannot know of."""
    has = {claim.address: claim.handle for claim in found if claim.until == float("inf")}
    unknown = {handle for journal in journals for handle in journal.held()} - set(has.values())
    now = world.held()
    assert has.items() <= now.items(), f"etcd has lost {has.items() - now.items()}"
    leaked = {address: handle for address, handle in now.items() if address not in has and handle not in unknown}
    assert not leaked, f"nobody has {leaked}"


def what_was_answered_stays(journals: Sequence[Journal], world: World) -> None:
    """Assert that what was given back is nobody's any more, and what was refused never was anybody's."""
    held_now = set(world.held().values())
    ever = {tenure.handle for tenure in world.tenures}
    for journal in journals:
        for line in journal.read():
            if line.deed == GONE:
                assert line.handle not in held_now, f"{line.handle} was released, and has addresses"
            elif line.deed == NONE:
                assert line.handle not in held_now, f"{line.handle} was refused ({line.told}), and has addresses"
    assert ever <= {line.handle for journal in journals for line in journal.read() if line.deed == ASK}


def judge(journals: Sequence[Journal], world: World) -> list[Claim]:
    """Judge all of it; return the claims."""
    found = claims(journals)
    no_two_at_once(found)
    as_told(found, world)
    nobody_else_has_any(found, journals, world)
    what_was_answered_stays(journals, world)
    return found


def errors(journals: Sequence[Journal]) -> list[list[str]]:
    """Return kind and text of every error that a host was told."""
    return [line.told for journal in journals for line in journal.read() if line.deed in (NONE, LOST, STUCK)]
