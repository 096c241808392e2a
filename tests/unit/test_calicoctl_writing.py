"""Files that `ipam show --html` and `ipam check -o` write: devices, pipes and stdout stay what they are."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from calicoctl.writing import require_place, write

from .audit_kit import NODE
from .test_calicoctl_check import Checked

COMMANDS = (("ipam", "check", "-o"), ("ipam", "show", "--html"))


@pytest.fixture
def house(tmp_path: Path) -> Checked:
    found = Checked(tmp_path)
    found.bare("a", boot="")
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_is_written_and_stays(house: Checked, command: tuple[str, ...]) -> None:
    """So is any device: nothing is put in its place."""
    pipe, got = house.place.folder / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    house.place.ok(*command, str(pipe))
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert got[0].startswith(("{", "<!DOCTYPE"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_stays_and_its_file_is_replaced(house: Checked, command: tuple[str, ...]) -> None:
    link, file = house.place.folder / "link", house.place.folder / "file"
    link.symlink_to("file")
    file.write_text("old")
    file.chmod(0o644)
    house.place.ok(*command, str(link))
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "old" not in file.read_text()[:3]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_place_is_named_before_anything_is_done(house: Checked, command: tuple[str, ...]) -> None:
    (house.place.folder / "odd").mkdir()
    for path, why in (("none/x", "No such file or directory"), ("odd", "directory")):
        result = house.place.run(*command, f"{house.place.folder}/{path}")
        assert (result.exit_code in (1, 2), result.stdout) == (True, "")
        assert f"{house.place.folder}/{path}" in result.stderr
        assert why in result.stderr


@pytest.mark.parametrize("path", ["-", "/dev/stdout"])
def test_a_report_on_stdout_is_alone_there(house: Checked, path: str) -> None:
    house.bare("old")
    result = house.place.run("ipam", "check", f"--node={NODE}", "--show-all-ips", "-o", path)
    assert result.exit_code == 3
    assert set(json.loads(result.stdout)["allocations"]) == {"10.0.0.0", "10.0.0.1"}
    assert "Checking IPAM" in result.stderr
    assert "IPs in use:" in result.stderr
    assert "Check complete; found 1 problem.\n" in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_is_full(house: Checked) -> None:
    assert house.place.fails("ipam", "show", "--html=/dev/full") == "/dev/full: No space left on device\n"


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(KeyError):
        write(str(file), (lines[0] for lines in ({0: "a"}, {})))
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file", "old")]


def test_a_name_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_place("file")
    write("file", ["é"])
    assert (tmp_path / "file").read_bytes() == "é".encode()
