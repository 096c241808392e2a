"""`calicoctl ipam show --show-borrowed`: Calico's table and note, JSON, YAML, and any number of rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from .calicoctl_kit import Place, cooling, pod

HEADER = """\
+----+----------------+-------+-------------+------+--------------+
| IP | BORROWING-NODE | BLOCK | BLOCK OWNER | TYPE | ALLOCATED-TO |
+----+----------------+-------+-------------+------+--------------+
+----+----------------+-------+-------------+------+--------------+
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A datastore with nothing in it."""
    return Place(tmp_path)


def test_nothing_is_borrowed(place: Place) -> None:
    place.block("10.0.0.0/30", "n1", {0: pod("a", "n1")})
    assert place.ok("ipam", "show", "--show-borrowed") == HEADER
    assert place.answer("ipam", "show", "--show-borrowed") == {"borrowed": [], "withoutNode": 0}
    assert yaml.safe_load(place.ok("ipam", "show", "--show-borrowed", "-o", "yaml")) == {
        "borrowed": [], "withoutNode": 0}


def test_calico_s_table(place: Place) -> None:
    place.block("10.0.0.0/30", "n1", {0: pod("a", "n1"), 1: pod("web", "n2"), 3: cooling()})
    place.block("10.0.0.4/30", None, {2: {"handle_id": "t", "secondary": {"node": "n3", "type": "vxlanTunnelAddress"}}})
    place.block("fd00::/126", "n1", {2: {"handle_id": "old", "secondary": {}}, 3: pod("web", "n2")})
    assert place.ok("ipam", "show", "--show-borrowed") == """\
+----------+----------------+-------------+-------------+--------------------+--------------+
|    IP    | BORROWING-NODE |    BLOCK    | BLOCK OWNER |        TYPE        | ALLOCATED-TO |
+----------+----------------+-------------+-------------+--------------------+--------------+
| 10.0.0.1 | n2             | 10.0.0.0/30 | n1          | pod                | default/web  |
| 10.0.0.6 | n3             | 10.0.0.4/30 |             | vxlanTunnelAddress |              |
| fd00::3  | n2             | fd00::/126  | n1          | pod                | default/web  |
+----------+----------------+-------------+-------------+--------------------+--------------+

Note: found 1 IP allocations without an explicit node association. Unable to determine if they are borrowed.
"""


def test_as_json_and_yaml(place: Place) -> None:
    place.block("10.0.0.0/30", None, {1: pod("web", "n2"), 2: {"handle_id": "old", "secondary": {}}})
    expected = {"borrowed": [{"ip": "10.0.0.1", "borrowingNode": "n2", "block": "10.0.0.0/30", "blockOwner": "",
                              "type": "pod", "allocatedTo": "default/web"}], "withoutNode": 1}
    assert place.answer("ipam", "show", "--show-borrowed") == expected
    assert yaml.safe_load(place.ok("ipam", "show", "--show-borrowed", "-o", "yaml")) == expected


@pytest.mark.parametrize(("owner", "kind", "name"), [
    ({"pod": "web", "namespace": "prod"}, "pod", "prod/web"),
    ({"pod": "launcher", "namespace": "prod", "vmi-name": "vm"}, "vmi", "prod/vm"),
    ({"container": "c1", "namespace": "x"}, "container", "c1"),
    ({"pod": "web"}, "pod", "web"),
    ({"type": "ipipTunnelAddress"}, "ipipTunnelAddress", ""),
    ({}, "", ""),
])
def test_who_has_it(place: Place, owner: dict[str, str], kind: str, name: str) -> None:
    place.block("10.0.0.0/32", "n1", {0: {"handle_id": "h", "secondary": {"node": "n2", **owner}}})
    [row] = place.answer("ipam", "show", "--show-borrowed")["borrowed"]
    assert (row["type"], row["allocatedTo"]) == (kind, name)


def test_text_of_records_stays_in_its_cell(place: Place) -> None:
    """Escapes count for the width of a column; JSON has the text itself."""
    place.block("10.0.0.0/32", "n1", {0: pod("a\nb\x1b[2J|" + "x" * 40, "größe")})
    lines = place.ok("ipam", "show", "--show-borrowed").splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    assert r"default/a\nb\x1b[2J|" in lines[3]
    assert place.answer("ipam", "show", "--show-borrowed")["borrowed"][0]["borrowingNode"] == "größe"


def test_a_row_for_each_of_many(place: Place) -> None:
    place.block("10.0.0.0/22", "n1", {at: pod(f"p{at}", "n2") for at in range(1024)})
    rows = place.answer("ipam", "show", "--show-borrowed")["borrowed"]
    assert [row["allocatedTo"] for row in rows] == [f"default/p{at}" for at in range(1024)]
    assert len(place.ok("ipam", "show", "--show-borrowed").splitlines()) == 1024 + 4
