"""A block's rules, on their own and under any order of assigning and freeing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from datastore.api import Corrupt, Record
from datastore.frozen import replace
from datastore.model import Attribute, Block, block_json, block_of, handle_json, handle_of
from ipam.block import check, free, give, held, new_block, owner_of
from ipam.cidr import parse_cidr
from ipam.errors import AddressInUse

# The example of the record format: two owners in a /30, as Calico stores it.
CALICO: dict[str, Any] = {
    "cidr": "10.244.64.0/30", "affinity": "host:node-a", "affinity_claim_time": "2026-08-01T10:00:00Z",
    "allocations": [0, None, 1, None], "unallocated": [3, 1],
    "attributes": [
        {"handle_id": "k8s-pod-network.4f0c9d", "secondary": {"node": "node-a", "namespace": "default", "pod": "n-1"}},
        {"handle_id": "ipip-tunnel-addr-node-a", "secondary": {"node": "node-a", "type": "ipipTunnelAddress"},
         "releasedAt": None},
    ],
    "sequenceNumber": 1785578400000000007,
    "sequenceNumberForAllocation": {"0": 1785578400000000003, "2": 1785578400000000001},
    "deleted": False, "futureKey": {"x": 1},
}


def fresh(cidr: str = "10.0.0.0/28") -> Block:
    return new_block(parse_cidr(cidr), "n1", 1000, "2026-01-01T00:00:00Z")


def give_next(block: Block, attribute: Attribute) -> tuple[Block, int]:
    """Give what the allocator would: the ordinal that has been free longest."""
    return give(block, [block.unallocated[0]], attribute), block.unallocated[0]


def who(name: str) -> Attribute:
    return Attribute(f"net.{name}", {"container": name})


def test_calico_s_record_survives() -> None:
    """Calico's own record is read and written back equal, unknown keys and 64-bit numbers included."""
    block = check(block_of(Record("/block/10.244.64.0-30", CALICO, 1)))
    assert block_json(block) == CALICO
    assert block.extra["affinity_claim_time"] == "2026-08-01T10:00:00Z"


def test_handle_record_survives() -> None:
    """A handle record is read and written back equal; one without handleID takes its key's name."""
    value = {"block": {"10.0.0.0/26": 2}, "deleted": False, "handleID": "net.c"}
    assert handle_json(handle_of(Record("/handle/net.c", value, 1))) == value
    assert handle_of(Record("/handle/net.c", {"block": {}}, 1)).handle_id == "net.c"


@pytest.mark.parametrize(
    "change",
    [
        {"allocations": [0, None, 1]},
        {"allocations": [0, None, 2, None]},
        {"allocations": [0, None, -1, None]},
        {"allocations": [0, None, "1", None]},
        {"unallocated": [3, 1, 1]},
        {"unallocated": [3]},
        {"unallocated": [3, 0]},
        {"unallocated": [3, 1, 4]},
        {"cidr": "10.244.64.1/30"},
        {"cidr": None},
        {"attributes": [7]},
        {"sequenceNumber": "7"},
    ],
)
def test_an_unsound_record_is_refused(change: dict[str, Any]) -> None:
    """A block whose ordinals are not each allocated or free exactly once is never used."""
    with pytest.raises(Corrupt):
        check(block_of(Record("/block/10.244.64.0-30", {**CALICO, **change}, 1)))


def test_longest_free_first() -> None:
    """Addresses are used in order, and one that was freed comes last."""
    block, first = give_next(fresh(), who("a"))
    block, second = give_next(block, who("b"))
    assert (first, second) == (0, 1)
    block = free(block, [0])
    assert block.unallocated == (*range(2, 16), 0)


def test_owners_are_shared_and_dropped() -> None:
    """Two addresses of one owner share an entry, which goes with the last of them."""
    block = give(fresh(), [3], who("a"))
    block = give(block, [5], who("b"))
    block = give(block, [7], who("a"))
    assert len(block.attributes) == 2
    assert held(block, lambda attribute: attribute.handle == "net.a") == [3, 7]
    block = free(block, [3, 7])
    assert block.attributes == (who("b"),)
    assert owner_of(block, 5) == who("b")
    assert owner_of(block, 3) is None


def test_taken_and_foreign_ordinals() -> None:
    """An address in use is refused, with who has it."""
    block = give(fresh(), [3], who("a"))
    with pytest.raises(AddressInUse, match=r"10\.0\.0\.3 is in use by container a"):
        give(block, [3], who("b"))


class BlockMachine(RuleBasedStateMachine):
    """A block against a dictionary of who has what."""

    def __init__(self) -> None:
        super().__init__()
        self.block = fresh()
        self.model: dict[int, str] = {}
        self.sequence = self.block.sequence

    @precondition(lambda self: len(self.model) < 16)
    @rule(name=st.sampled_from("abc"))
    def assign_any(self, name: str) -> None:
        self.block, ordinal = give_next(self.block, who(name))
        assert ordinal not in self.model
        self.model[ordinal] = name

    @rule(name=st.sampled_from("abc"), ordinal=st.integers(0, 15))
    def assign_one(self, name: str, ordinal: int) -> None:
        if ordinal in self.model:
            with pytest.raises(AddressInUse):
                give(self.block, [ordinal], who(name))
        else:
            self.block = give(self.block, [ordinal], who(name))
            self.model[ordinal] = name

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def free_some(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.model)), min_size=1))
        self.block = free(self.block, chosen)
        self.model = {ordinal: name for ordinal, name in self.model.items() if ordinal not in chosen}

    @rule()
    def store_and_read(self) -> None:
        assert block_of(Record("/block/10.0.0.0-28", block_json(self.block), 1)) == self.block

    @invariant()
    def sound(self) -> None:
        check(self.block)
        owners = {ordinal: owner_of(self.block, ordinal) for ordinal in range(16)}
        assert {ordinal: owner.owner["container"] for ordinal, owner in owners.items() if owner} == self.model
        assert set(self.block.allocation_sequence) == set(self.model)
        assert {attribute.owner["container"] for attribute in self.block.attributes} == set(self.model.values())

    @invariant()
    def sequence_never_falls(self) -> None:
        assert self.block.sequence >= self.sequence
        self.sequence = self.block.sequence


TestBlockMachine = BlockMachine.TestCase


@given(st.binary(max_size=200), st.integers(0, 300))
def test_mangled_records_never_pass_for_sound(noise: bytes, at: int) -> None:
    """Cutting or overwriting a stored block anywhere gives an error or an equally sound block, nothing else."""
    import json

    text = json.dumps(block_json(give_next(fresh(), who("a"))[0])).encode()
    mangled = text[:at] + noise + text[at + len(noise):]
    try:
        value = json.loads(mangled)
    except ValueError:
        return
    if isinstance(value, dict):
        try:
            block = check(block_of(Record("/block/10.0.0.0-28", value, 1)))
        except Corrupt:
            return
        assert len(block.allocations) == parse_cidr(block.cidr).size


def test_replace_keeps_the_rest() -> None:
    """Changing one field leaves the others, unknown ones too."""
    block = replace(fresh(), affinity=None)
    assert block.affinity is None
    assert block.extra == fresh().extra
