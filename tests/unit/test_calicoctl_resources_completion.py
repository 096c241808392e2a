"""Completion by the shell: what click is asked by the script, in a process of its own, as a shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .resources_kit import Place, endpoint, node, pool, resource


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.create(pool("east", "10.1.0.0/16"), pool("west", "10.2.0.0/16"), node("n1"), endpoint(),
                 resource("IPReservation", "east-gate", {}), endpoint("blue", pod="db"))
    return found


def completed(line: str, **env: str) -> list[str]:
    """Return what would be offered for the last word of a line."""
    words = line.split(" ")
    shell = {"_CALICOCTL_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([sys.executable, "-m", "calicoctl"], env={"PATH": os.environ["PATH"], **shell, **env},
                          capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [text.partition(",")[2] for text in done.stdout.split()]


@pytest.mark.parametrize(("line", "offered"), [
    ("calicoctl re", ["replace"]),
    ("calicoctl get ip", ["ippool", "ipreservation", "ipamconfiguration"]),
    ("calicoctl get ippool ", ["east", "west"]),
    ("calicoctl delete pools w", ["west"]),
    ("calicoctl patch reservation e", ["east-gate"]),
    ("calicoctl label no ", ["n1"]),
    ("calicoctl get wep ", ["n1-k8s-web--1-eth0"]),
    ("calicoctl get -n blue wep n", ["n1-k8s-db-eth0"]),
    ("calicoctl get ipamconfig ", ["default"]),
    ("calicoctl get ippool -o w", ["wide"]),
    ("calicoctl patch ippool east -t s", ["strategic"]),
    ("calicoctl get nonsense ", []),
])
def test_offers(place: Place, line: str, offered: list[str]) -> None:
    assert completed(line, CALICO_DATASTORE_DIR=str(place.directory)) == offered


def test_the_configuration_file_of_the_line_counts(place: Place) -> None:
    assert completed(f"calicoctl -c {place.config} get ippool w") == ["west"]


@pytest.mark.parametrize("env", [
    {"CALICO_DATASTORE_DIR": "/nonexistent"}, {"CALICO_DATASTORE_DIR": "relative"}, {"DATASTORE_TYPE": "etcdv3"},
])
def test_without_a_datastore_there_are_no_names_and_no_errors(env: dict[str, str]) -> None:
    assert completed("calicoctl get ippool ", **env) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script(place: Place, shell: str) -> None:
    script = place.ok("completion", shell)
    assert f"_CALICOCTL_COMPLETE={shell}_complete" in script


def test_bash_takes_the_script(place: Place) -> None:
    """Sourced by bash, it completes for the command of that name."""
    program = f"{place.ok('completion', 'bash')}\ncomplete -p calicoctl\n"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "complete -o nosort -F _calicoctl_completion calicoctl\n"
    assert "bash, zsh, fish" in place.misused("completion", "tcsh").replace("'", "")
