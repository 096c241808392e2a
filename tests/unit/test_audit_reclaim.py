"""After a reboot: exactly what former boots left is released, whenever a reclaim dies, and however often it is done."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from datastore import keys
from datastore.api import Record
from datastore.file import FileStore
from ipam.assign import Request, assign
from ipam.audit.reclaim import reclaim
from ipam.handle import Owner

from .audit_kit import BLOCK, NODE, House

BEFORE = "boot-before"


class Died(BaseException):
    """The process ended here, as far as the store can tell."""


class Dying(FileStore):
    """A store whose process dies just before its n-th change of a file."""

    def __init__(self, root: str, writes: int) -> None:
        super().__init__(root)
        self.writes = writes

    def _write(self, record: Record) -> Record:
        self._count()
        return super()._write(record)

    def _unlink(self, path: str) -> None:
        self._count()
        super()._unlink(path)

    def _count(self) -> None:
        if not self.writes:
            raise Died
        self.writes -= 1


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "store")


def furnish(house: House) -> set[str]:
    """Add pods of the former boot, and everything that must stay; return the addresses that must."""
    for name in ("old-1", "old-2"):
        house.pod(name, (4, 6), boot=BEFORE)
        house.unplug(name)
    house.bare("old-ptp", boot=BEFORE)
    stay = [*house.pod("new", (4, 6)), *house.pod("wired", boot=BEFORE), *house.pod("other", node="n2", boot=BEFORE),
            *house.bare("unknown", boot="")]
    tunnel = Owner(f"ipip-tunnel-addr-{NODE}", {"node": NODE, "type": "ipipTunnelAddress", "boot": BEFORE})
    given = assign(house.store, Request(NODE, tunnel, env=house.env))
    return {*map(str, stay), *(str(item.address) for item in given)}


def test_what_is_reclaimed(house: House) -> None:
    """Pods of this node's former boots without a veth, and their endpoint records; doing it again does nothing."""
    stay = furnish(house)
    freed, finished = reclaim(house.store, house.look())
    assert (len(freed), finished) == (5, True)
    assert set(house.holders()) == stay
    assert {record.value["spec"]["containerID"] for record in house.store.records(keys.WORKLOAD_ENDPOINTS)} == {
        "new", "wired", "other"}
    assert house.found() == []
    assert reclaim(house.store, house.look()) == ((), True)


def test_wherever_it_dies(tmp_path: Path) -> None:
    """Done again it comes to the same end, and what must stay has never been touched."""
    for writes in itertools.count():
        house = House(tmp_path / str(writes))
        stay = furnish(house)
        try:
            reclaim(Dying(house.store.root, writes), house.look())
            died = False
        except Died:
            died = True
        assert stay <= set(house.holders())
        reclaim(house.store, house.look())
        assert (set(house.holders()), house.found()) == (stay, [])
        if not died:
            assert writes >= 7
            return


def test_what_was_given_anew_meanwhile(house: House) -> None:
    """An address that changes hands between look and release is left, and the reclaim says that it is not finished."""
    house.bare("old", boot=BEFORE)

    class Busy(FileStore):
        def keys(self, prefix: str) -> list[str]:
            if prefix == keys.WORKLOAD_ENDPOINTS:
                value = house.store.get(keys.block(4, BLOCK)).value
                house.change(keys.block(4, BLOCK), sequenceNumberForAllocation={"0": value["sequenceNumber"]})
            return super().keys(prefix)

    assert reclaim(Busy(house.store.root), house.look()) == ((), False)
    assert list(house.holders()) == ["10.0.0.0"]


def test_a_damaged_block(house: House) -> None:
    """The others are reclaimed, and it is not finished."""
    house.bare("old", (4, 6), boot=BEFORE)
    house.block().write_text("{")
    freed, finished = reclaim(house.store, house.look())
    assert ([str(address)[:4] for address in freed], finished) == (["fd00"], False)


def test_a_damaged_endpoint_record(house: House) -> None:
    """It keeps no address from being reclaimed."""
    house.pod("old", boot=BEFORE)
    house.unplug("old")
    house.file(keys.workload_endpoint("default", f"{NODE}-cni-old-eth0")).write_text("{")
    assert reclaim(house.store, house.look())[1]
    assert house.holders() == {}
