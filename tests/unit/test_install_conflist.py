"""Rendering and checking of the network configuration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from install import conflist
from install.errors import InstallError
from install.settings import Flags, Settings, resolve

CALICO_PLACEHOLDERS = [
    "LOG_LEVEL",
    "LOG_FILE_PATH",
    "LOG_FILE_MAX_SIZE",
    "LOG_FILE_MAX_AGE",
    "LOG_FILE_MAX_COUNT",
    "DATASTORE_TYPE",
    "KUBERNETES_NODE_NAME",
    "KUBECONFIG_FILEPATH",
    "CNI_MTU",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "SERVICEACCOUNT_TOKEN",
    "CALICO_API_GROUP",
    "ETCD_ENDPOINTS",
    "ETCD_DISCOVERY_SRV",
    "ETCD_CERT_FILE",
    "ETCD_CA_CERT_FILE",
    "ETCD_KEY_FILE",
    "REQUIRE_MTU_FILE",
    "DATASTORE_DIR",
]

# Calico's own template (cni-plugin/pkg/install/install.go), which its users copy and change.
CALICO_TEMPLATE = """{
  "name": "k8s-pod-network", "cniVersion": "1.0.0",
  "plugins": [
    {"type": "calico", "log_level": "__LOG_LEVEL__", "log_file_path": "__LOG_FILE_PATH__",
     "datastore_type": "__DATASTORE_TYPE__", "nodename": "__KUBERNETES_NODE_NAME__", "mtu": __CNI_MTU__,
     "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
     "kubernetes": {"kubeconfig": "__KUBECONFIG_FILEPATH__"},
     "require_mtu_file": __REQUIRE_MTU_FILE__, "calico_api_group": "__CALICO_API_GROUP__"},
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}
  ]
}"""


def settings(**environment: str) -> Settings:
    """Resolve an environment as install-cni does."""
    return resolve(Flags(), {"KUBERNETES_NODE_NAME": "node-1"} | environment, host_root=Path("/nonexistent"))


def test_shipped_template() -> None:
    """The shipped configuration has every key, with the values told."""
    network = conflist.load(settings(CNI_MTU="1440", LOG_LEVEL="debug", CALICO_DATASTORE_DIR="/srv/store"))
    assert (network["name"], network["cniVersion"]) == ("k8s-pod-network", "1.0.0")
    assert network["cniVersions"] == ["1.0.0", "1.1.0"]
    calico, portmap, bandwidth = network["plugins"]
    assert calico == {
        "type": "calico",
        "log_level": "debug",
        "log_file_path": "/var/log/calico/cni/cni.log",
        "log_file_max_size": 100,
        "log_file_max_age": 30,
        "log_file_max_count": 10,
        "datastore_type": "file",
        "datastore_dir": "/srv/store",
        "nodename": "node-1",
        "mtu": 1440,
        "ipam": {"type": "calico-ipam"},
        "capabilities": {"ips": True, "mac": True},
    }
    assert portmap == {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
    assert bandwidth == {"type": "bandwidth", "capabilities": {"bandwidth": True}}


def test_calicos_template() -> None:
    """A template written for Calico renders, without Kubernetes too."""
    calico = conflist.load(settings(CNI_NETWORK_CONFIG=CALICO_TEMPLATE))["plugins"][0]
    assert (calico["mtu"], calico["require_mtu_file"]) == (0, False)
    assert calico["kubernetes"] == {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}
    assert calico["calico_api_group"] == "crd.projectcalico.org/v1"


@pytest.mark.parametrize("name", CALICO_PLACEHOLDERS)
def test_every_placeholder_is_known(name: str) -> None:
    """Each placeholder of Calico's renders, as a string and on its own."""
    rendered = conflist.render(f'{{"in": "<__{name}__>", "bare": __{name}__}}', settings().placeholders)
    assert "__" not in rendered
    parsed = json.loads(rendered)
    assert parsed["in"].strip("<>").lower() == str(parsed["bare"]).lower()


def test_unknown_placeholder_is_an_error() -> None:
    """A typing error in a template is found now, not by the first pod."""
    with pytest.raises(InstallError, match="CNI_NETWORK_CONFIG has the unknown placeholder __CNI_MTUU__"):
        conflist.load(settings(CNI_NETWORK_CONFIG='{"mtu": __CNI_MTUU__}'))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_no_value_can_break_out(value: str) -> None:
    """Whatever a value holds, quotes and placeholders included, it stays that one value."""
    template = '{"quoted": "<__NAME__>", "bare": __NAME__, "after": 1}'
    parsed = json.loads(conflist.render(template, {"NAME": value}))
    assert parsed == {"quoted": f"<{value}>", "bare": value, "after": 1}


def test_node_name_cannot_inject() -> None:
    """A quote in a node name is part of the name."""
    evil = 'node", "mtu": 9, "x": "__LOG_LEVEL__'
    calico = conflist.load(settings(KUBERNETES_NODE_NAME=evil))["plugins"][0]
    assert calico["nodename"] == evil
    assert calico["mtu"] == 0


def network(**changes: Any) -> str:
    """A small valid configuration with changes; None removes a key."""
    base = {"name": "net", "cniVersion": "1.0.0", "plugins": [{"type": "calico"}]} | changes
    return json.dumps({key: value for key, value in base.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ('{"name": "net",}', "not valid JSON"),
        (network(mtu=float("nan")), "not valid JSON"),
        ("[]", "must be an object"),
        (network(name=None), '"name"'),
        (network(name="a/b"), '"name"'),
        (network(cniVersion=None), '"cniVersion"'),
        (network(cniVersion=1), '"cniVersion"'),
        (network(cniVersions=[1]), '"cniVersions"'),
        (network(plugins=None), '"plugins"'),
        (network(plugins=[]), '"plugins"'),
        (network(plugins={"type": "calico"}), '"plugins"'),
        (network(plugins=["calico"]), 'plugin 1: "type"'),
        (network(plugins=[{"type": "calico"}, {}]), 'plugin 2: "type"'),
        (network(plugins=[{"type": "../calico"}]), 'plugin 1: "type"'),
        (network(plugins=[{"type": "calico", "ipam": {"type": "a/b"}}]), 'plugin 1: "ipam.type"'),
    ],
)
def test_unusable_configuration(text: str, reason: str) -> None:
    """What a runtime would refuse is refused here, with the reason in one line."""
    with pytest.raises(InstallError) as caught:
        conflist.load(settings(CNI_NETWORK_CONFIG=text))
    assert reason in str(caught.value)
    assert str(caught.value).startswith("CNI_NETWORK_CONFIG ")
    assert "\n" not in str(caught.value)


def test_file_beats_variable(tmp_path: Path) -> None:
    """CNI_NETWORK_CONFIG_FILE wins over CNI_NETWORK_CONFIG."""
    file = tmp_path / "template"
    file.write_text(network(name="from-file"))
    found = settings(CNI_NETWORK_CONFIG=network(name="from-variable"), CNI_NETWORK_CONFIG_FILE=str(file))
    assert conflist.load(found)["name"] == "from-file"
    assert conflist.load(replace(found, network_config_file=None))["name"] == "from-variable"


def test_template_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The error names the variable and the file."""
    with pytest.raises(InstallError, match=f"CNI_NETWORK_CONFIG_FILE {tmp_path}/missing"):
        conflist.load(settings(CNI_NETWORK_CONFIG_FILE=f"{tmp_path}/missing"))
    (tmp_path / "latin").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(InstallError, match="not UTF-8"):
        conflist.load(settings(CNI_NETWORK_CONFIG_FILE=f"{tmp_path}/latin"))
