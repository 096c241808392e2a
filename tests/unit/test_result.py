"""Result shapes of all seven spec versions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_calico.result import VERSIONS, Interface, Ip, Result, Route, from_json, to_json

RESULT = Result(
    interfaces=(
        Interface("cali0123456789a", "ee:ee:ee:ee:ee:ee", "", {"mtu": 1500}),
        Interface("eth0", "02:00:00:00:00:01", "/run/netns/x", {"mtu": 1500}),
    ),
    ips=(Ip("10.0.0.5/32", "", 1), Ip("fd00::5/128", "", 1), Ip("10.0.0.6/32", "", 1)),
    routes=(
        Route("0.0.0.0/0", "169.254.1.1", {"table": 0, "mtu": 1400}),
        Route("::/0", "fe80::1"),
    ),
    dns={"nameservers": ["10.0.0.53"]},
)
FLAT: dict[str, Any] = {
    "ip4": {"ip": "10.0.0.5/32", "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]},
    "ip6": {"ip": "fd00::5/128", "routes": [{"dst": "::/0", "gw": "fe80::1"}]},
    "dns": {"nameservers": ["10.0.0.53"]},
}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_first_versions_have_one_address_per_family(version: str) -> None:
    """0.1.0 and 0.2.0 have ip4 and ip6, routes by family, no interfaces."""
    assert to_json(RESULT, version) == {"cniVersion": version, **FLAT}


def test_first_versions_drop_routes_of_a_family_without_address() -> None:
    """libcni drops routes whose family has no address when it converts down; so do we."""
    only_v4 = Result(ips=(Ip("10.0.0.5/32"),), routes=RESULT.routes)
    assert set(to_json(only_v4, "0.2.0")) == {"cniVersion", "ip4"}


@pytest.mark.parametrize("version", VERSIONS[2:])
def test_later_versions(version: str) -> None:
    """0.3.0-0.4.0 number each address's family; only 1.1.0 has interface MTUs and route attributes."""
    body = to_json(RESULT, version)
    numbered = version in ("0.3.0", "0.3.1", "0.4.0")
    assert [ip.get("version") for ip in body["ips"]] == (["4", "6", "4"] if numbered else [None] * 3)
    assert [ip["interface"] for ip in body["ips"]] == [1, 1, 1]
    newest = version == "1.1.0"
    assert all(("mtu" in item) is newest for item in body["interfaces"])
    extra = {"table": 0, "mtu": 1400} if newest else {}
    assert body["routes"][0] == {"dst": "0.0.0.0/0", "gw": "169.254.1.1", **extra}
    assert body["interfaces"][0].get("sandbox") is None
    assert body["interfaces"][1]["sandbox"] == "/run/netns/x"


@pytest.mark.parametrize("version", VERSIONS[2:])
def test_round_trip(version: str) -> None:
    """What a version can say is read back as it was."""
    body = to_json(RESULT, version)
    assert to_json(from_json(body, version), version) == body


def test_index_zero_is_kept_and_a_missing_one_left_out() -> None:
    """Interface index 0 is an index; none is none, and the old -1 means none."""
    ips = to_json(Result(ips=(Ip("10.0.0.1/32", "", 0), Ip("10.0.0.2/32"))), "1.0.0")["ips"]
    assert [ip.get("interface") for ip in ips] == [0, None]
    assert from_json({"ips": [{"address": "10.0.0.1/32", "interface": -1}]}, "0.3.1").ips[0].interface is None


def test_nulls_where_lists_may_be() -> None:
    """Null lists and gateways are as good as absent, as libcni takes them."""
    body = {"interfaces": None, "ips": [{"address": "10.0.0.1/24", "gateway": None}], "routes": None, "dns": None}
    assert from_json(body, "1.0.0") == Result(ips=(Ip("10.0.0.1/24"),))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["ips", "interfaces", "routes", "dns", "address", "name", "dst", "interface", "ip4", "ip"]),
        inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from(VERSIONS))
def test_anything_is_a_result_or_a_value_error(body: object, version: str) -> None:
    """No JSON makes the reader fail in any way but ValueError, and what it reads can be written."""
    try:
        result = from_json(body, version)
    except ValueError:
        return
    to_json(result, version)
