"""After a reboot: exactly what former boots left is released, whenever a reclaim dies, and however often it is done."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from unittest import mock

import pytest

from datastore import keys
from datastore.api import Record
from datastore.file import FileStore
from ipam.assign import Request, assign
from ipam.audit.reclaim import reclaim, recover
from ipam.audit.survey import UNKNOWN
from ipam.handle import Owner

from .audit_kit import BLOCK, BOOT, CRAFT, NODE, House

BEFORE = "boot-before"


class Died(BaseException):
    """The process ended here, as far as the store can tell."""


class Dying(FileStore):
    """A store whose process dies just before its n-th change of a file."""

    def __init__(self, root: str, writes: int) -> None:
        super().__init__(root)
        self.writes = writes

    def _write(self, record: Record, lasts: bool) -> Record:
        self._count()
        return super()._write(record, lasts)

    def _unlink(self, path: str, lasts: bool) -> None:
        self._count()
        super()._unlink(path, lasts)

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
    freed, seen = reclaim(house.store, house.look())
    assert (len(freed), seen.changed, seen.damaged) == (5, False, set())
    assert set(house.holders()) == stay
    assert {record.value["spec"]["containerID"] for record in house.store.records(keys.WORKLOAD_ENDPOINTS)} == {
        "new", "wired", "other"}
    assert house.found() == []
    assert reclaim(house.store, house.look())[0] == ()


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

    freed, seen = reclaim(Busy(house.store.root), house.look())
    assert (freed, seen.changed) == ((), True)
    assert list(house.holders()) == ["10.0.0.0"]


def test_a_damaged_block(house: House) -> None:
    """The others are reclaimed, and it is told."""
    house.bare("old", (4, 6), boot=BEFORE)
    house.block().write_text("{")
    freed, seen = reclaim(house.store, house.look())
    assert ([str(address)[:4] for address in freed], seen.damaged) == (["fd00"], {BLOCK})


def test_a_damaged_endpoint_record(house: House) -> None:
    """It keeps no address from being reclaimed."""
    house.pod("old", boot=BEFORE)
    house.unplug("old")
    house.file(keys.workload_endpoint("default", f"{NODE}-cni-old-eth0")).write_text("{")
    assert reclaim(house.store, house.look())[1].torn
    assert house.holders() == {}


def boot(house: House) -> bool:
    """Carry out what the first ADD of a boot begins with; tell whether it came to its end."""
    return recover(house.store, house.store, house.look, CRAFT, lambda _: None, house.look())[1]


TUNNEL = Owner(f"ipip-tunnel-addr-{NODE}", {"node": NODE, "type": "ipipTunnelAddress"})


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "absent":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "short": data[: len(data) // 2], "zeros": bytes(len(data))}[how])


HOWS = ("absent", "empty", "short", "zeros")


@pytest.mark.parametrize("how", HOWS)
def test_a_block_that_a_power_cut_damaged(house: House, how: str) -> None:
    """It has nobody then, whatever handles and endpoint records are left, and all its addresses are free."""
    for name in ("a", "b"):
        house.pod(name, boot=BEFORE)
        house.unplug(name)
    damage(house.block(), how)
    assert boot(house)
    assert (house.holders(), house.found(), house.store.keys(keys.HANDLES)) == ({}, [], [])
    assert house.store.keys(keys.WORKLOAD_ENDPOINTS) == []
    assert "10.0.0.0" in house.free_all()


@pytest.mark.parametrize("affinity", HOWS)
@pytest.mark.parametrize("handle", HOWS)
def test_a_block_with_all_that_tells_of_it(house: House, affinity: str, handle: str) -> None:
    """Nor is anything kept where its affinity and a handle are damaged, too."""
    house.bare("a", boot=BEFORE)
    house.block().write_text("{")
    damage(house.file(keys.affinity(NODE, 4, BLOCK)), affinity)
    damage(house.file(keys.handle("net.a")), handle)
    assert boot(house)
    assert (house.holders(), house.found()) == ({}, [])


@pytest.mark.parametrize("how", HOWS)
def test_who_is_no_pod_is_never_given_up(house: House, how: str) -> None:
    """As long as his handle tells of him: what damaged his block was no power cut, for it had been synced."""
    house.pod("a", boot=BEFORE)
    house.unplug("a")
    assign(house.store, Request(NODE, TUNNEL, env=house.env))
    damage(house.block(), how)
    assert boot(house)
    assert set(house.holders().values()) == {UNKNOWN}
    assert not {f"10.0.0.{number}" for number in range(8)} & set(house.free_all())


def test_pods_of_this_boot_stay(house: House) -> None:
    """Another node has given addresses in this boot, also from this node's block, and the two share a store."""
    house.pod("old", boot=BEFORE)
    house.unplug("old")
    given = [*house.pod("wired"), *house.pod("other", node="n2", boot=BOOT, netns="1:1"), *house.bare("ptp", node="n2")]
    for how in HOWS:
        damage(house.file(keys.affinity(NODE, 4, BLOCK)), how)
        assert boot(house)
        assert set(house.holders()) == set(map(str, given))
        assert house.found() == []


@pytest.mark.parametrize("seed", range(30))
def test_pods_of_this_boot_stay_through_any_mixture(tmp_path: Path, seed: int) -> None:
    """Whatever records of the former boot are damaged, which may be those of blocks that others borrow from."""
    dice, house = random.Random(seed), House(tmp_path / "store")
    for number in range(dice.randint(1, 12)):
        house.pod(f"old{number}", (4, 6), boot=BEFORE)
        house.unplug(f"old{number}")
    former = list(house.file("/calico/ipam/v2").with_suffix("").rglob("*.json"))
    for file in dice.sample(former, dice.randint(1, len(former))):
        damage(file, dice.choice(HOWS))
    house.node = "n2"
    assert boot(house)
    live = {str(address) for number in range(3) for address in house.bare(f"new{number}", (4, 6), node="n2")}
    house.node = NODE
    assert boot(house)
    assert (set(house.holders()), house.found()) == (live, [])


def test_an_ordinary_boot_repairs_nothing(house: House) -> None:
    """Nor does it read the handles of anybody else: after an orderly end all agrees."""
    furnish(house)
    with mock.patch("ipam.audit.repair.repair", side_effect=AssertionError):
        assert boot(house)
        house.store.update(*_handle_of_another_node(house))
        assert boot(house)


def _handle_of_another_node(house: House) -> tuple[str, dict[str, object], int]:
    record = house.store.get(keys.handle("net.other"))
    return record.key, {**record.value, "block": {}}, record.revision
