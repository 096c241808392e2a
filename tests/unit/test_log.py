"""Logging: lines, levels, rotation, and that it never gets in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cni_calico.config import LogSettings
from cni_calico.log import Log, close_log, open_log


def settings(path: Path | str, **more: Any) -> LogSettings:
    values: dict[str, Any] = {"level": "info", "max_size": 0, "max_age": 0, "max_count": 0} | more
    return LogSettings(path=str(path), **values)


def test_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A line has time, level, process, message and values; it goes to the file and to stderr."""
    path = tmp_path / "a/cni.log"
    log = open_log(settings(path)).about(network="net")
    log.info("ADD", ip="10.0.0.1", duration="3.0ms")
    log.debug("not at this level")
    close_log(log)
    line = path.read_text()
    assert line.endswith(f"[INFO][{os.getpid()}] ADD ip=10.0.0.1 duration=3.0ms network=net\n")
    assert line.count("\n") == 1
    assert capfd.readouterr().err == line


def test_values_stay_on_their_line() -> None:
    """A value with line breaks, quotes or control characters cannot forge another line or field."""
    read, write = os.pipe()
    Log(20, write).about(x='a b="c"\n2026 forged').info("m")
    os.close(write)
    text = os.read(read, 4096)
    os.close(read)
    assert text.count(b"\n") == 1
    assert b"forged" in text.split(b"x=")[1]


def test_rotation_by_size_and_count(tmp_path: Path) -> None:
    """A full file is renamed, and of the renamed ones only the newest are kept."""
    path = tmp_path / "cni.log"
    for n in range(6):
        log = open_log(settings(path, max_size=10, max_count=3))
        log.info(f"line {n}")
        close_log(log)
    rotated = sorted(tmp_path.glob("cni-*.log"))
    assert len(rotated) == 3
    assert "line 5" in path.read_text()
    assert [f"line {n}" in file.read_text() for n, file in zip((2, 3, 4), rotated, strict=True)] == [True] * 3


def test_rotation_by_age(tmp_path: Path) -> None:
    """A rotated file older than the limit goes at the next rotation."""
    old = tmp_path / "cni-2020-01-01T00-00-00.000000000.log"
    old.write_text("old")
    os.utime(old, (time.time() - 3 * 86400,) * 2)
    path = tmp_path / "cni.log"
    path.write_text("x" * 100)
    close_log(open_log(settings(path, max_size=10, max_age=2)))
    assert not old.exists()
    assert len(list(tmp_path.glob("cni-*.log"))) == 1


WRITER = """
import sys
from cni_calico.config import LogSettings
from cni_calico.log import open_log, close_log
for n in range(40):
    log = open_log(LogSettings(level="info", path=sys.argv[1], max_size=2000, max_age=0, max_count=0))
    log.info(f"w{sys.argv[2]}-{n}.")
    close_log(log)
"""


def test_many_processes_lose_no_line(tmp_path: Path) -> None:
    """Processes that write and rotate the same file together lose nothing and mix no lines."""
    path = tmp_path / "cni.log"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)], stderr=subprocess.DEVNULL) for n in range(6)
    ]
    assert [writer.wait() for writer in writers] == [0] * 6
    lines = [line for file in tmp_path.glob("*.log") for line in file.read_text().splitlines()]
    assert len(lines) == 240
    assert {line.split()[3] for line in lines} == {f"w{w}-{n}." for w in range(6) for n in range(40)}


@pytest.mark.parametrize("path", ["/proc/none/x.log", "/dev/full", "/", "/etc/passwd/x"])
def test_a_log_that_cannot_be_written(path: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A log that cannot be opened or written fails nothing; stderr still has the line."""
    log = open_log(settings(path))
    log.info("ADD")
    close_log(log)
    assert "ADD" in capfd.readouterr().err


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """A log file that is a symbolic link is not written through."""
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "cni.log").symlink_to(target)
    close_log(open_log(settings(tmp_path / "cni.log")))
    assert target.read_text() == ""
