"""An agent of the benchmark's own, and what it costs."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench.ground import SEARCH, TOOLS, BenchError
from bench.rows import Json
from calico_node.client import AgentError, connect
from calico_node.protocol import NEWEST, Request

START_SECONDS, STOP_SECONDS = 20.0, 20.0
LONGEST_ERROR = 2000  # characters


class Agent:
    """`calico-node` on a socket below a folder. It ends with this process, however that ends.

    The prefix (nsenter …) leads to where it runs.
    """

    def __init__(self, folder: Path, prefix: Sequence[str] = ()) -> None:
        self.socket = folder / "cni.sock"
        self._said = folder / "agent.log"
        command = [*prefix, "setpriv", "--pdeathsig", "KILL", str(TOOLS / "calico-node"),
                   "--socket", str(self.socket), "--queue", str(folder / "queue"),
                   "--metrics-address", "off"]  # fmt: skip
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(command, env={"PATH": SEARCH}, stdin=subprocess.DEVNULL, stdout=said,
                                             stderr=said)  # fmt: skip
        self._spent = 0.0
        self._wait()
        self.spent_ms()

    def _wait(self) -> None:
        """Wait until it greets. Raises BenchError."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                connect(str(self.socket)).close()
            except AgentError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise BenchError(f"the agent did not start: {self._said.read_text(errors='replace')[-LONGEST_ERROR:]}")

    def spent_ms(self) -> float:
        """Return the CPU time that it has spent since this was asked last, all threads, those that ended, too."""
        before, self._spent = self._spent, time.clock_gettime(process_clock(self._process.pid)) * 1000
        return self._spent - before

    def memory_mb(self) -> dict[str, float]:
        """Return its resident memory, its share of it, and what nobody else has."""
        lines = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text().splitlines()[1:]
        kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return {"rss": kb["Rss"] / 1024, "pss": kb["Pss"] / 1024,
                "private": (kb["Private_Clean"] + kb["Private_Dirty"]) / 1024}  # fmt: skip

    def stages_ms(self) -> dict[str, dict[str, float]]:
        """Return verb -> stage -> the median of the last hour, as the agent itself tells it."""
        asked = Request("calico-node", {"CALICO_NODE_COMMAND": "status"}, b"", 0, None, NEWEST)
        with connect(str(self.socket)) as client:
            status: Json = json.loads(client.ask(asked).stdout)
        return {verb: {stage: latency["p50Ms"] for stage, latency in stages.items()}
                for verb, stages in status["lastHour"].items()}  # fmt: skip

    def freeze(self) -> None:
        """Let it do nothing until `thaw`."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, by force if it will not."""
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def process_clock(pid: int) -> int:
    """Return the clock of a process's CPU time, as clock_getcpuclockid(3) makes it."""
    return ~pid << 3 | 2
