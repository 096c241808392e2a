"""Reading the network configuration."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_calico import node, rtmsg
from cni_calico.config import NetConf, log_settings, parse
from cni_calico.errors import INVALID_CONFIG, CniError
from cni_calico.log import close_log, open_log
from cni_calico.result import Route
from datastore.frozen import replace
from datastore.settings import Settings

BASE: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", "type": "calico", "ipam": {"type": "calico-ipam"}}


def conf(**more: Any) -> NetConf:
    return parse({**BASE, **more}, "net", "1.0.0")


def test_defaults() -> None:
    """A minimal configuration is Calico's defaults on the file datastore."""
    found = conf()
    assert found.datastore == Settings()
    assert found.nodename_file == "/var/lib/calico/nodename"
    assert found.nodename_file_optional
    assert (found.mtu, found.num_queues, found.ipam.families) == (0, 1, (4,))
    assert not found.allow_ip_forwarding
    assert not found.include_default_routes
    log = log_settings(BASE)
    assert (log.level, log.path, log.max_size, log.max_age, log.max_count) == ("info", "", 100 << 20, 30, 10)
    assert found.valid_attachments is None


def test_every_key() -> None:
    """Each key of the table reaches its field, whatever case or form the runtime gave it."""
    body: dict[str, Any] = dict(  # noqa: C408  # keyword form: these are the keys
        mtu=1400, nodename="n", nodename_file="/f", nodename_file_optional=False, num_queues=4,
        log_level="Debug", log_file_path="/l", log_file_max_size=1, log_file_max_age=2, log_file_max_count=3,
        container_settings={"allow_ip_forwarding": True}, include_default_routes=True, datastore_type="file",
        datastore_dir="/d/../e", policy={"type": "k8s"}, kubernetes={"kubeconfig": "/k"}, unknown={"x": 1},
        dns={"nameservers": []}, require_mtu_file=True,
        ipam={"type": "calico-ipam", "assign_ipv4": "false", "assign_ipv6": "true", "ipv6_pools": ["p"],
              "routes": [{"dst": "10.0.0.0/8"}]},
        args={"cni": {"ips": ["10.0.0.1"]}},
        runtimeConfig={"IPs": ["10.0.0.2/24"], "Mac": "02:00:00:00:00:01", "portMappings": None, "aliases": {"n": []}},
    )
    found, log = conf(**body), log_settings(body)
    assert (found.mtu, found.nodename, found.num_queues, found.datastore.directory) == (1400, "n", 4, "/e")
    assert (found.ipam.families, found.ipam.pools[6]) == ((6,), ("p",))
    assert found.ipam.routes == (Route("10.0.0.0/8"),)
    assert list(map(str, found.addresses)) == ["10.0.0.1", "10.0.0.2"]
    assert found.mac == bytes.fromhex("020000000001")
    assert (log.level, log.path, log.max_size, log.max_age, log.max_count) == ("debug", "/l", 1 << 20, 2, 3)
    assert found.allow_ip_forwarding
    assert found.include_default_routes
    assert found.dns == {"nameservers": []}


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"mtu": "big"}, "mtu"),
        ({"mtu": 67}, "MTU"),
        ({"dns": {"nameservers": 1}}, "dns.nameservers"),
        ({"dns": {"domain": []}}, "dns.domain"),
        ({"datastore_dir": "/a\ud800"}, "datastore_dir"),
        ({"prevResult": {"ips": [{"address": "zz"}]}}, "prevResult"),
        ({"num_queues": 2**32}, "num_queues"),
        ({"ipam": {"type": "calico-ipam", "routes": [{"gw": "1.1.1.1"}, 5]}}, "ipam.routes"),
        ({"ipam": {"type": "calico-ipam", "routes": [{"dst": "10.0.0.0/" + "9" * 5000}]}}, "ipam.routes"),
        ({"ipam": {"type": "calico-ipam", "routes": {}}}, "ipam.routes"),
        ({"runtimeConfig": {"ips": ["x"]}}, "runtimeConfig.ips"),
        ({"args": {"cni": {"ips": ["x"]}}}, "args.cni.ips"),
        ({"runtimeConfig": {"mac": "x"}}, "runtimeConfig.mac"),
        ({"cni.dev/valid-attachments": False}, "valid-attachments"),
        ({"cni.dev/valid-attachments": {}}, "valid-attachments"),
        ({"cni.dev/valid-attachments": ""}, "valid-attachments"),
        ({"mtu": 70000}, "MTU"),
        ({"mtu": True}, "mtu"),
        ({"nodename": 7}, "nodename"),
        ({"ipam": {}}, "ipam.type"),
        ({"ipam": None}, "ipam.type"),
        ({"ipam": {"type": "../sh"}}, "ipam.type"),
        ({"ipam": {"type": "calico-ipam", "assign_ipv4": "false"}}, "assign_ipv4"),
        ({"ipam": {"type": "calico-ipam", "ipv4_pools": [1]}}, "ipam.ipv4_pools"),
        ({"datastore_dir": "relative"}, "datastore_dir"),
        ({"runtimeConfig": []}, "runtimeConfig"),
        ({"prevResult": {"ips": [{}]}}, "prevResult"),
        ({"cni.dev/valid-attachments": [{"containerID": "c"}]}, "valid-attachments"),
    ],
)
def test_wrong_values_are_named(more: dict[str, Any], key: str) -> None:
    """A value of the wrong type is code 7, and the message has the key."""
    with pytest.raises(CniError) as caught:
        conf(**more)
    assert caught.value.code == INVALID_CONFIG
    assert key in caught.value.msg


def test_del_trusts_only_the_name() -> None:
    """For DEL nothing but the name and the datastore can be wrong (rule D9)."""
    odd = {**BASE, "mtu": "big", "cni.dev/attachments": 7, "ipam": {"routes": [5]}, "prevResult": 7,
           "runtimeConfig": [], "nodename": 1, "log_level": 2}
    found = parse(odd, "net", "1.0.0", strict=False)
    assert (found.mtu, found.previous, found.ipam.type) == (0, None, "calico-ipam")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"cni.dev/valid-attachments": None}, ()),
        ({"cni.dev/valid-attachments": []}, ()),
        ({"cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"}]}, (("a", "eth0"),)),
        ({"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "e"}], "cni.dev/attachments": None},
         (("b", "e"),)),
    ],
)
def test_valid_attachments(body: dict[str, Any], expected: object) -> None:
    """Absent is unknown, null and [] are none, and the newer key wins (rules G2, G3)."""
    assert conf(**body).valid_attachments == expected


def test_numbers_through_float64() -> None:
    """libcni passes numbers through float64; a whole one is still a whole number."""
    assert conf(mtu=1400.0).mtu == 1400


def test_node_name_order(tmp_path: Any) -> None:
    """`nodename` wins over the file, the file over the host's name; without optional the file must be there."""
    file = tmp_path / "nodename"
    file.write_text("from-file\n")
    assert node.name(conf(nodename="mine", nodename_file=str(file))) == "mine"
    assert node.name(conf(nodename_file=str(file))) == "from-file"
    assert node.name(conf(nodename_file=str(tmp_path / "none")))
    with pytest.raises(CniError, match="nodename_file_optional"):
        node.name(conf(nodename_file=str(tmp_path / "none"), nodename_file_optional=False))
    with pytest.raises(CniError, match="invalid"):
        node.name(conf(nodename="../x"))
    file.write_bytes(b"\xff\xfe")
    for odd in (str(file), "/x\0y"):
        assert node.name(conf(nodename_file=odd))
        with pytest.raises(CniError, match="nodename_file_optional"):
            node.name(conf(nodename_file=odd, nodename_file_optional=False))


keys = st.sampled_from(
    ["name", "mtu", "ipam", "type", "nodename", "log_level", "runtimeConfig", "IPs", "ips", "mac", "args", "cni",
     "prevResult", "dns", "container_settings", "assign_ipv4", "ipv4_pools", "routes", "datastore_dir",
     "datastore_type",
     "num_queues", "log_file_path", "nodename_file", "cni.dev/valid-attachments", "containerID", "ifname",
     "interfaces", "address"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
    | st.text(st.characters(codec=None, categories=["Cs", "Cc", "L"]), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=20,
)


@given(st.dictionaries(keys, values), st.booleans())
def test_any_json_is_a_configuration_or_a_cni_error(body: dict[str, Any], strict: bool) -> None:
    """No JSON object makes the parser fail in any way but a CniError that says why."""
    try:
        found = parse({**BASE, **body}, "net", "1.0.0", strict)
        node.name(found)
        log = log_settings(body)
        close_log(open_log(replace(log, path=log.path and "/nonexistent" + log.path)))
        rtmsg.new_veth(rtmsg.Veth("a", found.mac, "b", found.mac, 3, found.mtu if strict else 0, found.num_queues
                                  if strict else 1))
    except CniError as error:
        assert error.code == INVALID_CONFIG
        assert error.msg
