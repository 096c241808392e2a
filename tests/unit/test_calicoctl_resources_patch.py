"""`calicoctl patch` in its three kinds, and the IPAM configuration as a resource."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calicoctl.resources.patch import merged, patched, strategic
from datastore import keys
from datastore.model import config_of
from ipam.errors import BadRequest

from .resources_kit import Place, many, node, pool, resource

CONFIG = {"strictAffinity": False, "autoAllocateBlocks": True, "maxBlocksPerHost": 0,
          "kubeVirtVMAddressPersistence": "Enabled", "ipCooldownSeconds": 0}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# RFC 7386, appendix A.
@pytest.mark.parametrize(("target", "patch", "result"), [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
])
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    before = json.dumps(target)
    assert merged(target, patch) == result
    assert json.dumps(target) == before


@pytest.mark.parametrize(("patch", "result"), [
    ({"a": {"y": 2}}, {"a": {"x": 1, "y": 2}, "l": [1, 2]}),
    ({"a": {"x": None}}, {"a": {}, "l": [1, 2]}),
    ({"a": {"$patch": "replace", "y": 2}}, {"a": {"y": 2}, "l": [1, 2]}),
    ({"a": {"$patch": "delete"}}, {"a": {}, "l": [1, 2]}),
    ({"l": [3]}, {"a": {"x": 1}, "l": [3]}),
])
def test_strategic_merge_patch(patch: Any, result: Any) -> None:
    """As Kubernetes' for types without merge keys: lists are replaced."""
    assert strategic({"a": {"x": 1}, "l": [1, 2]}, patch) == result


def test_an_unknown_directive_is_refused() -> None:
    with pytest.raises(BadRequest, match="merge, replace or delete"):
        strategic({}, {"$patch": "add"})


def test_json_patch_leaves_its_target_alone() -> None:
    target: dict[str, Any] = {"a": [1]}
    assert patched(target, '[{"op": "add", "path": "/a/-", "value": 2}]', "json") == {"a": [1, 2]}
    assert target == {"a": [1]}


@pytest.mark.parametrize(("how", "text"), [
    ("strategic", '{"spec": {"disabled": true}, "metadata": {"labels": {"a": null, "b": "2"}}}'),
    ("merge", '{"spec": {"disabled": true}, "metadata": {"labels": {"a": null, "b": "2"}}}'),
    ("json", '[{"op": "test", "path": "/spec/cidr", "value": "10.1.0.0/16"},'
             ' {"op": "add", "path": "/spec/disabled", "value": true},'
             ' {"op": "move", "from": "/metadata/labels/a", "path": "/metadata/labels/b"},'
             ' {"op": "replace", "path": "/metadata/labels/b", "value": "2"}]'),
])
def test_patching_a_pool(place: Place, how: str, text: str) -> None:
    place.create(resource("IPPool", "p", {"cidr": "10.1.0.0/16"}, labels={"a": "1"}))
    before = place.store.get(keys.ippool("p")).value
    place.store.update(keys.ippool("p"), {**before, "extra": 1}, place.store.get(keys.ippool("p")).revision)
    assert place.ok("patch", "ippool", "p", "-t", how, "-p", text) == "Successfully patched 1 'IPPool' resource\n"
    after = place.store.get(keys.ippool("p")).value
    assert after["metadata"] == {**before["metadata"], "labels": {"b": "2"}}
    assert after["spec"] == {**before["spec"], "disabled": True}
    assert after["extra"] == 1


@pytest.mark.parametrize(("how", "text", "told"), [
    ("merge", "{", "the patch is not JSON"),
    ("merge", "[1]", "is not a resource"),
    ("merge", '{"spec": {"cidr": "10.2.0.0/16"}}', "cannot be changed; it is 10.1.0.0/16"),
    ("merge", '{"spec": {"disable": true}}', 'unknown field "spec.disable"'),
    ("merge", '{"spec": {"disabled": 1}}', "spec.disabled is 1: expected true or false"),
    ("merge", '{"metadata": {"name": "q"}}', "metadata.name cannot be changed"),
    ("merge", '{"metadata": {"uid": "u"}}', "metadata.uid cannot be changed"),
    ("merge", '{"metadata": {"resourceVersion": "5"}}', "update conflict: IPPool(p)"),
    ("merge", '{"kind": "Node", "spec": null}', "kind cannot be changed"),
    ("json", "{}", "the JSON patch cannot be applied"),
    ("json", '[{"op": "remove", "path": "/spec/none"}]', "the JSON patch cannot be applied"),
    ("json", '[{"op": "test", "path": "/spec/disabled", "value": true}]', "the JSON patch cannot be applied"),
    ("json", '[{"op": "leap", "path": "/spec"}]', "the JSON patch cannot be applied"),
    ("json", '[{"op": "remove", "path": "spec"}]', "the JSON patch cannot be applied"),
    ("json", '["x"]', "the JSON patch cannot be applied"),
    ("json", "5", "the JSON patch cannot be applied"),
])
def test_patches_refused(place: Place, how: str, text: str, told: str) -> None:
    place.create(pool("p", "10.1.0.0/16"))
    before = place.store.get(keys.ippool("p"))
    said = place.fails("patch", "ippool", "p", "-t", how, "-p", text)
    assert said.startswith("hit error: ")
    assert told in said
    after = place.store.get(keys.ippool("p"))
    assert (after.value, after.revision) == (before.value, before.revision)


def test_patching_what_is_not_there(place: Place) -> None:
    said = place.fails("patch", "node", "n1", "-p", "{}")
    assert said.startswith("hit error: resource does not exist: Node(n1) with error: ")


def test_the_ipam_configuration_is_the_allocators_record(place: Place) -> None:
    """Not a resource of its own: what is applied here is what `calicoctl ipam configure` and the allocator see."""
    assert place.get("ipamconfig")["items"] == []
    given = resource("IPAMConfiguration", "default", {"strictAffinity": True, "maxBlocksPerHost": 4})
    assert place.create(given) == "Successfully created 1 'IPAMConfiguration' resource(s)\n"
    record = place.store.get(keys.IPAM_CONFIG)
    assert record.value == {"strict_affinity": True, "auto_allocate_blocks": True, "maxBlocksPerHost": 4,
                            "kubeVirtVMAddressPersistence": "Enabled", "ipCooldownSeconds": 0}
    assert "resource already exists: IPAMConfiguration(default)" in place.fails("create", "-f", "-", stdin=many(given))
    place.store.update(record.key, {**record.value, "news": 1}, record.revision)
    place.ok("patch", "ipamconfiguration", "default", "-p", '{"spec": {"ipCooldownSeconds": 60}}')
    assert place.get("ipamconfig", "default")["spec"] == {
        **CONFIG, "strictAffinity": True, "maxBlocksPerHost": 4, "ipCooldownSeconds": 60}
    assert place.ok("get", "ipamconfigurations", "-o", "wide").split() == [
        "NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST", "default", "true", "true", "4"]
    shown = place.ok("get", "ipamconfig", "default", "-o", "yaml")
    place.ok("replace", "-f", "-", stdin=shown)
    assert config_of(place.store.get(keys.IPAM_CONFIG)).extra["news"] == 1
    assert "update conflict: IPAMConfiguration(default)" in place.fails("replace", "-f", "-", stdin=shown)
    place.ok("apply", "-f", "-", stdin=many(resource("IPAMConfiguration", "default", {})))
    assert place.get("ipamconfig", "default")["spec"] == CONFIG
    place.ok("delete", "ipamconfig", "default")
    assert place.store.keys(f"{keys.IPAM}/") == []


@pytest.mark.parametrize(("spec", "told"), [
    ({"autoAllocateBlocks": False}, "strictAffinity and autoAllocateBlocks cannot both be false"),
    ({"maxBlocksPerHost": 1}, "a limit needs strictAffinity true"),
    ({"strictAffinity": True, "maxBlocksPerHost": -1}, "maxBlocksPerHost is -1"),
    ({"ipCooldownSeconds": 1201}, "expected 0 to 1200"),
    ({"kubeVirtVMAddressPersistence": "On"}, "expected Enabled or Disabled"),
])
def test_configurations_refused(place: Place, spec: dict[str, Any], told: str) -> None:
    given = many(resource("IPAMConfiguration", "default", spec))
    for command in ("create", "apply", "validate"):
        assert told in place.fails(command, "-f", "-", stdin=given)
    assert not place.directory.exists()
    place.create(node("n1"), resource("IPAMConfiguration", "default", {}))
    assert told in place.fails("patch", "ipamconfig", "default", "-p", json.dumps({"spec": spec}))
