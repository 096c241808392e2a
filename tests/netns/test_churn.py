"""Looking at a kernel whose tables change meanwhile (rule R16)."""

from __future__ import annotations

import threading

from cni_calico.netlink import DUMP_ATTEMPTS, Socket
from cni_calico.rtmsg import Message, dump_routes

from .machine import Machine


class Interrupted(Socket):
    """A socket whose first listings are interrupted by changes, as the kernel marks them with NLM_F_DUMP_INTR."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.asked = times, 0

    def _dump_once(self, message: Message, kind: int) -> tuple[list[bytes], bool]:
        self.asked += 1
        return [b"%d" % self.asked], self.asked > self.times


def test_an_interrupted_listing_is_made_again() -> None:
    """A listing is made again until it is whole, a bounded number of times, and then taken as it is."""
    for times, asked in ((0, 1), (2, 3), (100, DUMP_ATTEMPTS)):
        with Interrupted(times) as kernel:
            assert kernel._dump(dump_routes(4), 0) == [b"%d" % asked]


def test_check_and_gc_while_links_come_and_go(machine: Machine) -> None:
    """CHECK and GC see what is there although other links, addresses and routes change all the time."""
    pod = machine.pod()
    machine.add(pod, ipam={"assign_ipv6": "true"})
    stop = threading.Event()

    def churn(netns_commands: list[str]) -> None:
        script = "\n".join(netns_commands)
        while not stop.is_set():
            pod.netns.run("ip", "-force", "-batch", "-", input=script, check=False)

    commands = ["link add c0 type veth peer name c1", "link set c0 up", "address add 10.99.0.1/24 dev c0",
                *(f"route add 10.99.{n}.0/24 dev c0" for n in range(1, 60)), "link del c0"]
    thread = threading.Thread(target=churn, args=(commands,))
    thread.start()
    try:
        for _ in range(25):
            assert machine.check(pod, ipam={"assign_ipv6": "true"}).ok == {}
            assert machine.call("GC", None).ok == {}
    finally:
        stop.set()
        thread.join()
    machine.delete(pod)
    assert machine.left() == []
