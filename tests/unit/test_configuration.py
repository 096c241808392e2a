"""ipam/configuration.py: defaults, rules, and changes that do not lose what others wrote."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datastore import keys
from datastore.api import Corrupt
from datastore.file import FileStore
from datastore.frozen import replace
from datastore.memory import MemoryStore
from datastore.model import IpamConfig
from ipam.configuration import changed, from_spec, load, persistence, save, spec_of, validate
from ipam.errors import BadRequest


def test_defaults_are_not_stored() -> None:
    """Calico: strict=false, auto=true, max=0, cooldown=0."""
    store = MemoryStore()
    assert load(store) == IpamConfig(False, True, 0, 0)
    assert store.keys(f"{keys.IPAM}/") == []


def test_what_is_saved_is_calicos_record_and_is_loaded() -> None:
    store = MemoryStore()
    saved = save(store, strict_affinity=True, max_blocks_per_host=3)
    assert saved == load(store)
    assert store.get(keys.IPAM_CONFIG).value == {
        "kubeVirtVMAddressPersistence": "Enabled", "strict_affinity": True, "auto_allocate_blocks": True,
        "maxBlocksPerHost": 3, "ipCooldownSeconds": 0,
    }


def test_a_change_keeps_the_rest() -> None:
    """Fields that this release does not know, too."""
    store = MemoryStore()
    store.create(keys.IPAM_CONFIG, {"strict_affinity": True, "news": [1]})
    save(store, cooldown_seconds=30, persistence="Disabled")
    config = load(store)
    assert (config.strict_affinity, config.auto_allocate_blocks, config.cooldown_seconds) == (True, True, 30)
    assert config.extra == {"news": [1], "kubeVirtVMAddressPersistence": "Disabled"}
    assert persistence(config) == "Disabled"


@pytest.mark.parametrize(("config", "told"), [
    (IpamConfig(strict_affinity=False, auto_allocate_blocks=False), "cannot both be false"),
    (IpamConfig(max_blocks_per_host=1), "needs strictAffinity"),
    (IpamConfig(strict_affinity=True, max_blocks_per_host=-1), "-1"),
    (IpamConfig(strict_affinity=True, max_blocks_per_host=2**31), "is 2147483648: expected 0 .* to 2147483647"),
    (IpamConfig(cooldown_seconds=-1), "0 to 1200"),
    (IpamConfig(cooldown_seconds=1201), "0 to 1200"),
    (IpamConfig(extra={"kubeVirtVMAddressPersistence": "enabled"}), "Enabled or Disabled"),
])
def test_rules(config: IpamConfig, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        validate(config)


@pytest.mark.parametrize("config", [
    IpamConfig(), IpamConfig(strict_affinity=True, auto_allocate_blocks=False, max_blocks_per_host=20),
    IpamConfig(cooldown_seconds=1200), IpamConfig(extra={"kubeVirtVMAddressPersistence": "Disabled"}),
])
def test_what_the_rules_allow_survives_the_way_through_the_resource(config: IpamConfig) -> None:
    validate(config)
    there_and_back = from_spec(spec_of(config), IpamConfig(extra={"news": 1}))
    assert replace(there_and_back, extra={}) == replace(config, extra={})
    assert persistence(there_and_back) == persistence(config)
    assert there_and_back.extra["news"] == 1


def test_a_change_that_breaks_a_rule_stores_nothing() -> None:
    store = MemoryStore()
    with pytest.raises(BadRequest):
        save(store, auto_allocate_blocks=False)
    assert store.keys(f"{keys.IPAM}/") == []
    with pytest.raises(BadRequest):
        changed(IpamConfig(), max_blocks_per_host=5)


def test_a_damaged_record_is_not_guessed_at() -> None:
    store = MemoryStore()
    store.create(keys.IPAM_CONFIG, {"strict_affinity": "yes"})
    with pytest.raises(Corrupt, match="/calico/ipam/v2/config"):
        load(store)
    with pytest.raises(Corrupt, match="/calico/ipam/v2/config"):
        save(store, strict_affinity=True)


def test_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    """Each writer changes a field of its own; none undoes another's."""
    changes = ({"strict_affinity": True}, {"cooldown_seconds": 7}, {"persistence": "Disabled"})

    def write(number: int) -> None:
        save(FileStore(str(tmp_path / "d")), **changes[number % 3])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(30)))
    config = load(FileStore(str(tmp_path / "d")))
    assert (config.strict_affinity, config.cooldown_seconds, persistence(config)) == (True, 7, "Disabled")
