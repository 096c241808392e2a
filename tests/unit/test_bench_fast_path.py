"""The benchmark of launcher and agent: its starter, its options, its report, and a small run; never how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # bench/ is not installed

from bench import fast_chart, fast_path  # noqa: E402
from bench.agent import process_clock  # noqa: E402
from bench.fast_sides import Side, at_once_rows, rows, status_meanwhile, status_row  # noqa: E402
from bench.ground import BenchError, alternate, require_distinct  # noqa: E402
from bench.rows import markdown, table  # noqa: E402
from bench.starter import Batch, Job, Starter, compile_c  # noqa: E402

STAGES = {"ADD": {"launcher": 0.3, "queue": 0.1, "config": 0.2, "ipam": 3.1, "wiring": 1.6, "record": 0.7},
          "DEL": {"launcher": 0.8, "wiring": 14.6, "ipam": 2.6}}


@pytest.fixture(name="starter")
def starter_in_a_folder(tmp_path: Path) -> Starter:
    return Starter(tmp_path)


@pytest.fixture(name="sides")
def two_sides_measured(starter: Starter) -> tuple[Side, Side]:
    sides = tuple(Side(name, starter, Path("/bin/true"), {}) for name in ("ours", "theirs"))
    for side, ms in zip(sides, (2.0, 4.0), strict=True):
        for verb in side.walls:
            side.walls[verb] += [ms, ms]
        for verb in side.at_once_ms:
            side.at_once_ms[verb].append(10 * ms)
        side.cpus.append(ms)
    return sides[0], sides[1]


def test_the_starter_starts_and_measures(starter: Starter) -> None:
    """Each job has its own arguments, environment and stdin; answers and costs are in the order of the jobs."""
    script = 'cat; echo " $A $0"'
    jobs = [Job(["/bin/sh", "-c", script, str(number)], {"A": f"a{number}"}, b"x" * number) for number in range(5)]
    for at_a_time in (1, 2, 9):
        batch = starter.run(jobs, at_a_time)
        assert batch.answers == [f"{'x' * number} a{number} {number}\n".encode() for number in range(5)]
        assert all(0 < cost.wall_ms <= batch.wall_ms for cost in batch.costs)
        assert 0 < time.monotonic() * 1000 - batch.began_ms - batch.wall_ms < 60_000


def test_the_starter_counts_what_a_process_waits_for(starter: Starter) -> None:
    """CPU time is that of the whole tree, as that of plugins that run others."""
    loop = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
    alone, below = starter.run([Job(["/bin/sh", "-c", command], {}) for command in (":", f"({loop}); :")]).costs
    assert alone.cpu_ms < below.cpu_ms


@pytest.mark.parametrize("stream", [1, 2])
def test_a_process_that_fails_is_an_error(starter: Starter, stream: int) -> None:
    """Its own words are told, from stdout or else stderr; nothing is compared then."""
    with pytest.raises(BenchError, match="/bin/sh ADD failed: no address"):
        starter.run([Job(["/bin/sh", "-c", f"echo 'no address' >&{stream}; exit 3"], {"CNI_COMMAND": "ADD"})])
    with pytest.raises(BenchError, match="cannot be started"):
        starter.run([Job(["/nonexistent/plugin"], {})])


def test_the_floor_compiles(tmp_path: Path) -> None:
    """Without warnings, and it says how it is used."""
    done = subprocess.run([compile_c("floor", tmp_path)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 1
    assert "usage" in done.stderr


def test_the_clock_of_a_process() -> None:
    """It is the one that the C library would name."""
    before = time.process_time()
    assert before <= time.clock_gettime(process_clock(os.getpid())) <= time.process_time()


def test_sides_take_turns() -> None:
    """Now one is first, now the other."""
    assert [alternate(("a", "b"), number) for number in range(3)] == [("a", "b"), ("b", "a"), ("a", "b")]


def test_an_address_for_each_pod() -> None:
    """Two pods with one address are an error, not a figure."""
    results = [{"ips": [{"address": f"10.0.0.{last}/32"}]} for last in (1, 2, 1)]
    require_distinct("it", results[:2])
    with pytest.raises(BenchError, match="it gave 2 addresses to 3 pods"):
        require_distinct("it", results)


def test_quick_changes_only_what_is_not_given() -> None:
    """An option that is given beats it."""
    assert fast_path.parse(["--quick"]).pods == fast_path.QUICK["pods"]
    assert fast_path.parse(["--pods", "7", "--quick"]).pods == 7
    assert fast_path.parse([]).pods == 10_000


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--runs", "0"], ["--only", "pods", "--chart", "a.svg"]])
def test_wrong_options_are_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fast_path.parse(arguments)
    assert arguments[-2] in capsys.readouterr().err


def test_the_report(sides: tuple[Side, Side]) -> None:
    """Each figure is a row of the reference and one of ours, with ratio and bar."""
    found = [*rows(*sides, [sides[1]]), *at_once_rows(*sides, 100)]
    assert [line["ratio"] for line in found if line["bar"]] == [0.5] * 5
    assert [line["bar"] for line in found if line["bar"]] == [0.7, 1.0, 0.8, 0.6, 0.4]
    assert "ADD, launcher + agent, ms" in table(found)
    report = {"before": {"cpus": 2, "kernel": "6.1", "python": "3.11", "load": [1.0]}, "after": {"load": [2.0]},
              "seconds": 3, "parts": {"single": found}, "medians": {"stages": STAGES}}
    assert "ADD: launcher 0.30, queue 0.10" in fast_path.as_text(report)
    assert "| ADD, launcher + agent, ms | 2.00 | 2.00 | 2.00 | 0.50 | 0.7 |" in fast_path.as_markdown(report)


def test_the_report_of_a_bar_in_ms() -> None:
    """STATUS meanwhile has nothing beside it: its bar is one of its p99, and is shown as that."""
    found = status_row([3.0] * 98 + [60.0, 70.0], 100)
    assert {name: found[name] for name in ("median", "p99", "ratio", "bar", "bar_of")} == {
        "median": 3.0, "p99": 70.0, "ratio": None, "bar": 200.0, "bar_of": "p99"}
    others = [{**found, "what": "other", "ratio": 0.5, "bar": 0.6}]
    del others[0]["bar_of"]
    header, first, second = table([found, *others]).splitlines()
    assert first.startswith("STATUS while 100 ADDs run, launcher + agent, ms")
    assert first.endswith("3.00     70.00      3.00         p99 <= 200.0 ms")
    assert second.endswith("   0.50  <= 0.6")
    assert header.index("ratio") + 5 == second.index("0.50") + 4
    assert "agent, ms | 3.00 | 70.00 | 3.00 |  | p99 <= 200.0 ms |" in markdown("at-once", [found])


def test_status_is_asked_while_pods_are_attached(sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch,
                                                 tmp_path: Path) -> None:
    """What was asked before the first ADD has begun does not count; nor is no answer at all a figure."""
    began = [0.0]

    def batch(begin_ms: float, wall_ms: float) -> Batch:
        return Batch(begin_ms, wall_ms, [], [])

    def ask(_: Side, starter: Starter) -> Batch:
        assert starter is asker
        began.append(began[-1] + 4)
        time.sleep(0.01)
        return batch(began[-1], began[-1])

    def load(_: Side, pods: list[tuple[str, str]]) -> tuple[Batch, Batch]:
        assert [pod for pod, _ in pods] == ["a", "b"]
        while began[-1] < 40:
            time.sleep(0.001)
        return batch(10, 5), batch(20, 5)

    (tmp_path / "asker").mkdir()
    asker = Starter(tmp_path / "asker")
    monkeypatch.setattr(Side, "status", ask)
    monkeypatch.setattr(Side, "at_once", load)
    assert status_meanwhile(sides[0], asker, ["a", "b"], 1) == [12.0, 20.0, 24.0]
    with pytest.raises(BenchError, match="no STATUS was asked"):
        status_meanwhile(sides[0], asker, ["a", "b"], 1)


def test_stages_add_up(sides: tuple[Side, Side]) -> None:
    """What the agent does not account for is the launcher's and the socket's."""
    told = {verb: {"ipam": 1.0, "wiring": 0.5, "total": 1.5} for verb in ("ADD", "DEL", "CHECK")}
    found = fast_path.stages_of(*sides, told)
    assert found["stages"]["ADD"] == {"launcher": 0.5, "ipam": 1.0, "wiring": 0.5}
    assert found["reference"] == {"ADD": 4.0, "DEL": 4.0}


def test_the_chart(tmp_path: Path) -> None:
    """The same figures give the same file, with text as text."""
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra `bench`")
    for name in ("a.svg", "b.svg"):
        fast_chart.draw(STAGES, {"ADD": 8.0, "DEL": 19.0}, "theirs", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = [element.text for element in ElementTree.parse(tmp_path / "a.svg").iter() if element.tag.endswith("}text")]
    assert {"ADD, launcher + agent", "DEL, theirs", "wiring", "14.6"} <= set(text)


@pytest.mark.parametrize("name", ["add_del", "fast_path"])
def test_the_module_starts_from_anywhere(name: str) -> None:
    """Started as bench/<name> does it, the package `ipam` is found, not the benchmark of that name."""
    command = [sys.executable, "-P", "-m", f"bench.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT / "bench", env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          check=True)
    assert "examples:" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_small_run(tmp_path: Path) -> None:
    """Every part measures, every figure is there, and nothing is left behind."""
    options = ["--quick", "--runs", "2", "--parallel", "4", "--cycles", "10", "--pods", "5", "-o", "json"]
    done = subprocess.run([ROOT / "bench/fast_path", *options], env={**os.environ, "TMPDIR": str(tmp_path)},
                          capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert tuple(report["parts"]) == fast_path.PARTS
    found = [line for part in report["parts"].values() for line in part]
    assert len({line["what"] for line in found}) == len(found)
    assert all(line["median"] >= line["min"] >= 0 for line in found)
    assert report["parts"]["at-once"][-1]["what"] == "STATUS while 4 ADDs run, launcher + agent"
    assert report["medians"]["stages"].keys() == {"ADD", "DEL"}
    assert os.listdir(tmp_path) == []
