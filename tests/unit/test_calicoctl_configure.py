"""`calicoctl ipam configure`, and `ipam show --show-configuration`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from datastore import keys
from datastore.api import Missing

from .calicoctl_kit import Place

DEFAULTS = {"strictAffinity": False, "autoAllocateBlocks": True, "maxBlocksPerHost": 0,
            "kubeVirtVMAddressPersistence": "Enabled", "ipCooldownSeconds": 0}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A datastore with one pool."""
    found = Place(tmp_path)
    found.pool("p", "10.0.0.0/16")
    return found


def shown(place: Place) -> object:
    return place.answer("ipam", "show", "--show-configuration")


def test_defaults_are_shown_and_not_stored(place: Place) -> None:
    assert place.ok("ipam", "show", "--show-configuration") == """\
+------------------------------+---------+
|           PROPERTY           |  VALUE  |
+------------------------------+---------+
| StrictAffinity               | false   |
| AutoAllocateBlocks           | true    |
| MaxBlocksPerHost             | 0       |
| KubeVirtVMAddressPersistence | Enabled |
| IPCooldownSeconds            | 0       |
+------------------------------+---------+
"""
    assert shown(place) == DEFAULTS
    assert yaml.safe_load(place.ok("ipam", "show", "--show-configuration", "-o", "yaml")) == DEFAULTS
    with pytest.raises(Missing):
        place.store.get(keys.IPAM_CONFIG)


@pytest.mark.parametrize(("option", "line", "change"), [
    ("--strictaffinity=true", "StrictAffinity to: true", {"strictAffinity": True}),
    ("--kubevirt-ip-persistence=Disabled", "KubeVirtVMAddressPersistence to: Disabled",
     {"kubeVirtVMAddressPersistence": "Disabled"}),
    ("--ip-cooldown-seconds=1200", "IPCooldownSeconds to: 1200", {"ipCooldownSeconds": 1200}),
    ("--auto-allocate-blocks=true", "AutoAllocateBlocks to: true", {}),
    ("--max-blocks-per-host=0", "MaxBlocksPerHost to: 0", {}),
])
def test_one_value(place: Place, option: str, line: str, change: dict[str, object]) -> None:
    assert place.ok("ipam", "configure", option) == f"Successfully set {line}\n"
    assert shown(place) == DEFAULTS | change


def test_several_values_at_once_and_a_line_for_each(place: Place) -> None:
    assert place.ok("ipam", "configure", "--strictaffinity=true", "--max-blocks-per-host=4").splitlines() == [
        "Successfully set StrictAffinity to: true", "Successfully set MaxBlocksPerHost to: 4"]
    assert place.ok("ipam", "configure", "--ip-cooldown-seconds=5") == "Successfully set IPCooldownSeconds to: 5\n"
    assert shown(place) == DEFAULTS | {"strictAffinity": True, "maxBlocksPerHost": 4, "ipCooldownSeconds": 5}


@pytest.mark.parametrize("arguments", [
    ("--max-blocks-per-host=4",), ("--auto-allocate-blocks=false",),
])
def test_values_that_do_not_go_together(place: Place, arguments: tuple[str, ...]) -> None:
    """Calico's rules: a limit needs strict affinity, and so does doing without new blocks. Nothing is changed."""
    assert "strictAffinity" in place.fails("ipam", "configure", *arguments)
    assert shown(place) == DEFAULTS


@pytest.mark.parametrize("arguments", [
    (), ("--strictaffinity=maybe",), ("--strictaffinity",), ("--max-blocks-per-host=-1",),
    ("--max-blocks-per-host=x",), ("--ip-cooldown-seconds=1201",), ("--kubevirt-ip-persistence=on",), ("true",),
])
def test_a_wrong_command_line(place: Place, arguments: tuple[str, ...]) -> None:
    assert "Error: " in place.misused("ipam", "configure", *arguments)
    assert shown(place) == DEFAULTS


def test_a_damaged_configuration_is_named(place: Place) -> None:
    place.store.create(keys.IPAM_CONFIG, {"strict_affinity": "yes"})
    assert keys.IPAM_CONFIG in place.fails("ipam", "show", "--show-configuration")
    assert keys.IPAM_CONFIG in place.fails("ipam", "configure", "--strictaffinity=true")
